"""Several processes: the same numbers, files written once, stops together."""

import json
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from shared_bert.errors import UserError
from shared_bert.training import processes
from tests.process_group import ProcessGroup
from tests.tiny_jobs import SMALL

STEPS = 20
# Processes and the devices of each; four devices share the rows in all cases.
GROUPS = {1: 4, 2: 2, 4: 1}


def flags(settings):
  return [f'--config.{key}={value}' for key, value in settings.items()]


def pretraining(text, **more):
  """Of packed rows."""
  return [
    '--config=configs/pretrain.py',
    *flags(
      {
        **{f'model.{k}': v for k, v in SMALL.items()},
        'tensorboard': False,
        'data.text': text,
        'data.dir': text.parent / 'data',
        'data.vocab_size': 60,
        'data.seq_len': 16,
        'data.heldout_rows': 21,
        'train.steps': STEPS,
        'train.batch_size': 16,
        'train.warmup_steps': 2,
        'train.log_every': 1,
        'train.checkpoint_every': 4,
        **more,
      }
    ),
  ]


def fine_tuning(glue, pretrained):
  return [
    '--config=configs/cola.py',
    f'--config.init_from={pretrained}',
    *flags(
      {
        **{f'model.{k}': v for k, v in SMALL.items()},
        'tensorboard': False,
        'data.source': 'local',
        'data.glue_dir': glue,
        'data.seq_len': 16,
        'data.length_buckets': '(8,12)',
        'data.eval_batch_size': 8,
        'train.batch_size': 8,
        'train.learning_rate': 1e-3,
        'train.log_every': 1,
        'mesh.fsdp': 2,
      }
    ),
  ]


def lines(workdir):
  rows = (workdir / 'metrics.jsonl').read_text().splitlines()
  return [json.loads(row) for row in rows]


def losses(workdir):
  return [
    (r['step'], r['split'], r['loss']) for r in lines(workdir) if 'loss' in r
  ]


def assert_same_course(one, several):
  alone, together = losses(one), losses(several)
  assert [row[:2] for row in alone] == [row[:2] for row in together]
  np.testing.assert_allclose(
    [row[2] for row in alone], [row[2] for row in together], rtol=1e-5
  )


@pytest.fixture(scope='module')
def trained(text, glue, pretrained, tmp_path_factory):
  """Both jobs by one, two and four processes; to their workdirs."""
  folder = tmp_path_factory.mktemp('groups')
  made = {}
  for count, devices in GROUPS.items():
    for name, arguments in (
      ('pretrain', pretraining(text)),
      ('finetune', fine_tuning(glue, pretrained)),
    ):
      workdir = folder / f'{name}-{count}'
      group = ProcessGroup([*arguments, f'--workdir={workdir}'], count, devices)
      ended = group.ended()
      assert [e.code for e in ended] == [0] * count, ended
      # One voice: the library that joins them speaks for itself.
      assert all('loss' not in e.out for e in ended[1:])
      made[name, count] = workdir
  return made


@pytest.mark.parametrize('count', [2, 4])
@pytest.mark.parametrize('job', ['pretrain', 'finetune'])
def test_processes_together_have_the_losses_of_one(trained, job, count):
  assert_same_course(trained[job, 1], trained[job, count])
  assert len(losses(trained[job, 1])) > 5


@pytest.mark.parametrize('count', [2, 4])
def test_processes_together_count_and_predict_every_example_once(
  trained, count
):
  one, several = trained['finetune', 1], trained['finetune', count]
  file = 'predictions/CoLA.tsv'
  assert (one / file).read_bytes() == (several / file).read_bytes()
  results = [
    json.loads((folder / 'results.json').read_text())
    for folder in (one, several)
  ]
  assert results[0]['examples'] == results[1]['examples']
  assert results[0]['parameters'] == results[1]['parameters']
  ours, theirs = (r['metrics']['dev'] for r in results)
  assert ours == pytest.approx(theirs, rel=1e-5)
  assert {p.name for p in one.iterdir()} == {p.name for p in several.iterdir()}


@pytest.mark.parametrize(('saved_by', 'count'), [(2, 1), (1, 4), (4, 2)])
def test_a_run_goes_on_with_other_processes_as_if_nothing_had_happened(
  trained, text, tmp_path, saved_by, count
):
  workdir = tmp_path / 'moved'
  shutil.copytree(trained['pretrain', saved_by], workdir)
  shutil.rmtree(workdir / 'checkpoints' / str(STEPS))
  (workdir / 'results.json').unlink()
  group = ProcessGroup(
    [*pretraining(text), f'--workdir={workdir}'], count, GROUPS[count]
  )
  ended = group.ended()
  assert [e.code for e in ended] == [0] * count, ended
  assert 'resuming from step 16' in ended[0].out
  assert_same_course(trained['pretrain', 1], workdir)


def wait_for(path, group):
  deadline = time.monotonic() + 200
  while not path.exists():
    assert all(p.poll() is None for p in group.processes), group.ended()
    assert time.monotonic() < deadline
    time.sleep(0.01)


@pytest.mark.parametrize('asked', [0, 1])
def test_a_signal_to_one_process_stops_all_after_the_same_step(
  text, pretrained, tmp_path, asked
):
  del pretrained  # the corpus is prepared by then
  arguments = pretraining(text, **{'train.steps': 20_000})
  arguments.append(f'--workdir={tmp_path}')
  group = ProcessGroup(arguments, 2, 1)
  wait_for(tmp_path / 'checkpoints' / '8', group)
  group.processes[asked].send_signal(signal.SIGTERM)
  ended = group.ended()
  assert [e.code for e in ended] == [75, 75], ended
  assert all('stopped by SIGTERM after step' in e.err for e in ended)
  step = max(int(p.name) for p in (tmp_path / 'checkpoints').iterdir())
  assert all(f'after step {step:,} ' in e.err for e in ended)


@pytest.mark.parametrize('killed', [0, 1])
def test_the_other_processes_of_a_killed_one_leave_to_be_started_again(
  text, pretrained, tmp_path, killed
):
  del pretrained
  arguments = pretraining(text, **{'train.steps': 20_000})
  arguments.append(f'--workdir={tmp_path}')
  group = ProcessGroup(arguments, 2, 1)
  wait_for(tmp_path / 'checkpoints' / '8', group)
  group.processes[killed].kill()
  started = time.monotonic()
  other = group.ended()[1 - killed]
  # JAX itself aborts a process (SIGABRT) that it finds alone before we do.
  assert other.code in (75, -signal.SIGABRT), other
  assert time.monotonic() - started < 90
  if other.code == 75:
    assert 'start all of them again' in other.err


_LEAVING = (
  'import atexit, os, signal, sys\n'
  'import jax\n'
  'from shared_bert.training import processes\n'
  # Runs after what is registered later.
  'atexit.register(lambda: os.kill(os.getpid(), signal.SIGTERM))\n'
  'jax.distributed.initialize = lambda *_, **__: None\n'
  'processes.join("127.0.0.1:1", 2, 0, None)\n'
  'sys.exit(75)\n'
)


def test_a_process_that_is_stopped_as_it_leaves_keeps_its_exit_code():
  done = subprocess.run([sys.executable, '-c', _LEAVING], check=False)
  assert done.returncode == 75


def test_a_workdir_in_use_is_refused_by_all_processes(
  text, pretrained, tmp_path
):
  from shared_bert.training.workdir import alone_in_workdir

  def hold(config, workdir):
    group = ProcessGroup([*pretraining(text), f'--workdir={workdir}'], 2, 1)
    return group.ended()

  for ended in alone_in_workdir(hold)(None, tmp_path):
    assert ended.code == 1, ended
    assert 'is in use by process' in ended.err


@pytest.mark.parametrize(
  ('arguments', 'sentence'),
  [
    (('127.0.0.1:1', 2, None), 'go together'),
    (('127.0.0.1', 2, 0), 'should be HOST:PORT'),
    (('127.0.0.1:1', 2, 2), 'should be from 0 to 1'),
  ],
)
def test_flags_that_cannot_be_are_refused_with_a_sentence(arguments, sentence):
  with pytest.raises(UserError, match=sentence):
    processes.join(*arguments, distributed=None)


@pytest.mark.parametrize(
  ('coordinator', 'address'),
  [
    ('127.0.0.1:7', '127.0.0.1:7'),
    ('localhost:7', '127.0.0.1:7'),
    ('[::1]:7', '[::1]:7'),
    ('10.0.0.1:7', None),
    ('node-1:7', None),
  ],
)
def test_the_coordinator_listens_on_loopback_where_that_is_named(
  coordinator, address
):
  assert processes._bind_address(coordinator) == address


@pytest.mark.parametrize(
  ('environment', 'cluster'),
  [
    ({}, None),
    ({'SLURM_NTASKS': '2', 'SLURM_PROCID': '0'}, None),  # the script of a job
    ({'SLURM_NTASKS': '2', 'SLURM_STEP_NODELIST': 'n[1-2]'}, 'slurm'),
    ({'SLURM_NTASKS': '1', 'SLURM_STEP_NODELIST': 'n1'}, None),
    ({'TPU_WORKER_HOSTNAMES': 'host-0'}, None),
    ({'TPU_WORKER_HOSTNAMES': 'host-0,host-1'}, 'tpu'),
  ],
)
def test_a_cluster_is_known_by_its_environment(
  monkeypatch, environment, cluster
):
  for name in ('SLURM_NTASKS', 'SLURM_STEP_NODELIST', 'TPU_WORKER_HOSTNAMES'):
    monkeypatch.delenv(name, raising=False)
  for name, value in environment.items():
    monkeypatch.setenv(name, value)
  assert processes._cluster() == cluster
