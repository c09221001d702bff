"""The sweep of tasks and seeds, for real: side by side, failures, a stop."""

import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from tests.tiny_jobs import SMALL

ROOT = pathlib.Path(__file__).parents[1]


def sweep(workdir, glue, *rest, **environment):
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
    env=os.environ
    | {'PYTHON': sys.executable, 'JAX_NUM_CPU_DEVICES': '1'}
    | environment,
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
    start_new_session=True,  # a terminal's Ctrl-C is for all in it
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


def stop_by_kill(run):
  run.send_signal(signal.SIGTERM)


def stop_by_ctrl_c(run):
  os.killpg(run.pid, signal.SIGINT)


@pytest.mark.parametrize('stop', [stop_by_kill, stop_by_ctrl_c])
def test_a_sweep_that_is_stopped_saves_and_goes_on(glue, tmp_path, stop):
  task = ('--tasks=cola', '--seeds=0 1')
  run = sweep(tmp_path, glue, *task, '--config.train.epochs=4000')
  deadline = time.monotonic() + 200
  # It evaluates, and so saves, after each epoch.
  while not [*tmp_path.glob('cola/seed-0/checkpoints/*')]:
    assert run.poll() is None and time.monotonic() < deadline
    time.sleep(0.05)
  stop(run)
  said, _ = run.communicate(timeout=200)
  assert run.returncode == 75, said
  assert 'cola-0 (75)' in said
  log = (tmp_path / 'cola-0.log').read_text()
  assert 'stopped by SIGTERM after step' in log
  assert 'stopped at once' not in log
  assert not (tmp_path / 'cola' / 'seed-1').exists()


def test_runs_side_by_side_have_a_gpu_each_the_one_that_is_free(tmp_path):
  # A stand-in for Python notes which GPU it was given; seed 0 takes longest.
  python = tmp_path / 'python'
  python.write_text(
    '#!/usr/bin/env bash\n'
    'for flag in "$@"; do\n'
    '  case $flag in --config.seed=*) seed=${flag#*=};; esac\n'
    'done\n'
    f'echo "$seed $CUDA_VISIBLE_DEVICES $XLA_PYTHON_CLIENT_MEM_FRACTION"'
    f' >>{tmp_path}/given\n'
    '(( seed == 0 )) && sleep 3 || sleep 0.5\n'
  )
  python.chmod(0o755)

  def given(jobs, seeds, gpus):
    (tmp_path / 'given').write_text('')
    run = sweep(
      tmp_path / 'runs',
      tmp_path,
      '--tasks=cola',
      f'--seeds={seeds}',
      f'--jobs={jobs}',
      PYTHON=str(python),
      CUDA_VISIBLE_DEVICES=gpus,
    )
    said, _ = run.communicate(timeout=60)
    assert run.returncode == 0, said
    lines = (tmp_path / 'given').read_text().splitlines()
    return {line.split()[0]: line.split()[1:] for line in lines}

  # Seeds 2 and 3 follow seed 1 on its GPU, while seed 0 has the other one.
  by_seed = given(2, '0 1 2 3', '4,7')
  assert by_seed == {'0': ['4'], '1': ['7'], '2': ['7'], '3': ['7']}
  # More runs than GPUs: they share them and their memory.
  by_seed = given(3, '1 2 3', '4,7')
  assert by_seed == {
    '1': ['4', '0.450'],
    '2': ['7', '0.450'],
    '3': ['4', '0.450'],
  }
  by_seed = given(10, '1 2', '4')
  assert by_seed == {'1': ['4', '0.090'], '2': ['4', '0.090']}
  # One at a time has all.
  assert given(1, '1', '4,7') == {'1': ['4,7']}


def test_a_sweep_of_nothing_says_how_it_is_used(glue, tmp_path):
  run = sweep(tmp_path, glue)
  said, _ = run.communicate(timeout=60)
  assert run.returncode == 1
  assert 'Usage: launch/sweep.sh' in said
