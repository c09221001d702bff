"""The sweep of tasks and seeds, for real: side by side, failures, a stop."""

import os
import pathlib
import signal
import subprocess
import sys
import time

from tests.tiny_jobs import SMALL

ROOT = pathlib.Path(__file__).parents[1]


def sweep(workdir, glue, *rest):
  flags = {
    **{f'model.{k}': v for k, v in SMALL.items()},
    'tensorboard': False,
    'data.source': 'local',
    'data.glue_dir': glue,
    'data.seq_len': 16,
    'data.vocab_size': 60,
    'train.epochs': 1.0,
    'train.learning_rate': 1e-3,
  }
  return subprocess.Popen(
    [
      ROOT / 'launch' / 'sweep.sh',
      'configs/glue.py',
      workdir,
      *(f'--config.{key}={value}' for key, value in flags.items()),
      *rest,
    ],
    cwd=ROOT,
    env=os.environ | {'PYTHON': sys.executable, 'JAX_NUM_CPU_DEVICES': '1'},
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
  )


def test_tasks_and_seeds_are_run_and_one_that_fails_is_named(glue, tmp_path):
  workdir = tmp_path / 'with space'
  run = sweep(workdir, glue, '--tasks=cola rte', '--seeds=0 1', '--jobs=2')
  said, _ = run.communicate(timeout=300)
  assert run.returncode == 1, said
  assert 'not finished (exit code): rte-0 (1) rte-1 (1)' in said
  for seed in (0, 1):
    assert (workdir / 'cola' / f'seed-{seed}' / 'results.json').exists()
    assert 'RTE' in (workdir / f'rte-{seed}.log').read_text()


def test_a_sweep_that_is_stopped_saves_and_goes_on(glue, tmp_path):
  task = ('--tasks=cola', '--seeds=0 1')
  run = sweep(tmp_path, glue, *task, '--config.train.epochs=4000')
  deadline = time.monotonic() + 200
  # It evaluates, and so saves, after each epoch.
  while not [*tmp_path.glob('cola/seed-0/checkpoints/*')]:
    assert run.poll() is None and time.monotonic() < deadline
    time.sleep(0.05)
  run.send_signal(signal.SIGTERM)
  said, _ = run.communicate(timeout=200)
  assert run.returncode == 75, said
  assert 'cola-0 (75)' in said
  assert (
    'stopped by SIGTERM after step' in (tmp_path / 'cola-0.log').read_text()
  )
  assert not (tmp_path / 'cola' / 'seed-1').exists()


def test_a_sweep_of_nothing_says_how_it_is_used(glue, tmp_path):
  run = sweep(tmp_path, glue)
  said, _ = run.communicate(timeout=60)
  assert run.returncode == 1
  assert 'Usage: launch/sweep.sh' in said
