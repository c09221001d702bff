"""launch/tpu_vm.sh against a stand-in for the cloud: two workers that train."""

import json
import os
import pathlib
import shutil
import signal
import subprocess
import time

import pytest

from tests.process_group import free_port
from tests.test_processes import losses, pretraining
from tests.tpu_slice import Slice, install

ROOT = pathlib.Path(__file__).parents[1]
SECONDS = 200


@pytest.fixture
def cloud(tmp_path):
  folder = tmp_path / 'cloud with space'
  folder.mkdir()
  tpus = Slice(folder)
  yield tpus
  for process in tpus.launched:
    if process.poll() is None:
      os.killpg(process.pid, signal.SIGKILL)
      process.wait()
  tpus.take_away('')


@pytest.fixture(scope='module')
def checkout(tmp_path_factory):
  """This code as a checkout of its own, whose HEAD is what runs."""
  folder = tmp_path_factory.mktemp('checkout')
  for name in ('shared_bert', 'configs', 'launch'):
    ignored = shutil.ignore_patterns('__pycache__')
    shutil.copytree(ROOT / name, folder / name, ignore=ignored)
  for command in (
    ['init', '--quiet'],
    ['add', '.'],
    ['-c', 'user.name=t', '-c', 'user.email=t@t', 'commit', '-qm', 'as it is'],
  ):
    subprocess.run(['git', '-C', folder, *command], check=True)
  return folder


def launch(checkout, cloud, *arguments):
  """Starts tpu_vm.sh; its output goes to a file, which outlives a kill."""
  environment = os.environ | {}
  if not (cloud.folder / 'job').exists():
    # JAX's Slurm: a port from 61,440 on, by the number of the job.
    port = free_port()
    environment |= install(cloud.folder, port % 4096)
  else:
    environment |= {
      'PATH': f'{cloud.folder / "cloud"}:{os.environ["PATH"]}',
      'POLL_SECONDS': '.2',
    }
  with (cloud.folder / 'said').open('a') as said:
    run = subprocess.Popen(
      [
        checkout / 'launch' / 'tpu_vm.sh',
        'slice',
        '--zone=us-west4-a',
        *arguments,
      ],
      env=environment,
      stdout=said,
      stderr=said,
      start_new_session=True,
    )
  cloud.launched.append(run)
  return run


def training(text, workdir, **more):
  config, *flags = pretraining(text, **more)
  return [
    '--type=v5litepod-8',
    '--share=10.0.0.2:/share',
    config.removeprefix('--config='),
    str(workdir),
    *flags,
  ]


def said(cloud):
  return (cloud.folder / 'said').read_text()


def wait_for(seen, run, cloud):
  deadline = time.monotonic() + SECONDS
  while not seen():
    if run.poll() is not None or time.monotonic() > deadline:
      pytest.fail(f'{run.poll()}: {said(cloud)}')
    time.sleep(0.05)


def ended(run, cloud):
  try:
    return run.wait(SECONDS)
  except subprocess.TimeoutExpired:
    pytest.fail(said(cloud))


def verbs(cloud):
  return [
    call[3] for call in cloud.calls if call[3] not in ('list', 'ssh', 'scp')
  ]


def test_a_preempted_slice_is_asked_for_again_and_the_run_goes_on(
  checkout, cloud, text, pretrained, tmp_path
):
  del pretrained
  workdir = tmp_path / 'share' / 'run 1'
  # So many after the first checkpoint that machines which go late still take
  # work away; they take milliseconds.
  steps = {'train.steps': 800, 'train.checkpoint_every': 80}
  run = launch(checkout, cloud, '--spot', *training(text, workdir, **steps))
  wait_for((workdir / 'checkpoints' / '80').exists, run, cloud)
  cloud.take_away('SUSPENDED')
  assert ended(run, cloud) == 0, said(cloud)
  assert verbs(cloud) == ['create', 'delete', 'create', 'delete']
  assert all('--spot' in call for call in cloud.calls if call[3] == 'create')
  assert 'resuming from step' in said(cloud)
  results = json.loads((workdir / 'results.json').read_text())
  assert results['hardware']['devices'] == 2
  steps = [step for step, split, _ in losses(workdir) if split == 'train']
  assert steps == list(range(1, 801))


def test_a_lost_connection_ends_nothing_and_is_found_again(
  checkout, cloud, text, pretrained, tmp_path
):
  del pretrained
  workdir = tmp_path / 'run'
  steps = {'train.steps': 100_000, 'train.checkpoint_every': 20}
  arguments = training(text, workdir, **steps)
  run = launch(checkout, cloud, *arguments)
  wait_for((workdir / 'checkpoints' / '20').exists, run, cloud)
  os.killpg(run.pid, signal.SIGINT)  # Ctrl-C, and what it started with it
  run.wait(SECONDS)
  leaders = cloud.processes()
  run = launch(checkout, cloud, *arguments)
  newest = lambda: max(  # noqa: E731
    (int(p.name) for p in (workdir / 'checkpoints').glob('*[0-9]')), default=0
  )
  before = newest()
  wait_for(lambda: newest() > before + 40, run, cloud)
  assert cloud.processes() == leaders
  # Stopped from elsewhere: it saves, the slice is given back, both end; the one
  # that followed the run neither starts it again nor asks for another slice.
  stopped = launch(checkout, cloud, '--stop')
  assert ended(stopped, cloud) == 0, said(cloud)
  assert ended(run, cloud) == 143, said(cloud)
  assert 'stopped by SIGTERM after step' in said(cloud)
  assert 'stopped from elsewhere' in said(cloud)
  assert verbs(cloud) == ['create', 'delete'] and not cloud.state


def test_what_the_user_must_mend_keeps_the_slice_and_says_so(
  checkout, cloud, text, tmp_path
):
  run = launch(
    checkout, cloud, *training(text, tmp_path / 'run', **{'train.steps': 0})
  )
  assert ended(run, cloud) == 1
  assert 'train.steps' in said(cloud)
  assert 'the run ended with 1; the slice is kept' in said(cloud)
  assert '--stop' in said(cloud) and cloud.state == 'ACTIVE'
  mounted = (cloud.home(0) / 'mounted').read_text()
  assert mounted == 'mount -t nfs 10.0.0.2:/share /mnt/share\n'


def test_a_slice_that_cannot_be_had_is_an_error(checkout, cloud, tmp_path):
  cloud.state = 'FAILED'
  run = launch(checkout, cloud, *training(tmp_path / 'a.txt', tmp_path / 'run'))
  assert ended(run, cloud) == 1
  assert 'could not be had' in said(cloud) and 'no capacity' in said(cloud)


def test_a_call_without_a_zone_or_a_share_says_how_it_is_used(checkout, cloud):
  run = launch(checkout, cloud, 'configs/pretrain.py', 'runs/a')
  assert ended(run, cloud) == 1
  assert 'launch/tpu_vm.sh NAME --zone=ZONE' in said(cloud)


@pytest.mark.skipif(
  not shutil.which('gcloud'), reason='gcloud is not installed'
)
def test_the_real_gcloud_knows_every_flag_that_is_used(tmp_path):
  place = ['slice', '--zone=us-west4-a']
  queue, vm = (
    ['compute', 'tpus', 'queued-resources'],
    ['compute', 'tpus', 'tpu-vm'],
  )
  calls = [
    [*queue, 'list', place[1], '--format=value(name.basename(),state.state)'],
    [
      *queue,
      'create',
      *place,
      '--node-id=slice',
      '--accelerator-type=v5litepod-8',
      '--runtime-version=tpu-ubuntu2204-base',
      '--spot',
      '--async',
    ],
    [*queue, 'describe', *place],
    [*queue, 'delete', *place, '--force', '--quiet'],
    [*vm, 'ssh', *place, '--worker=all', '--command=true'],
    [*vm, 'scp', 'a.tar.gz', 'slice:b.tar.gz', place[1], '--worker=all'],
  ]
  started = [
    subprocess.Popen(
      ['gcloud', *call, '--project=none'],
      env=os.environ
      | {
        'CLOUDSDK_CONFIG': str(tmp_path),  # nobody is logged in
        'CLOUDSDK_CORE_DISABLE_PROMPTS': '1',
        'CLOUDSDK_CORE_DISABLE_USAGE_REPORTING': '1',
        'CLOUDSDK_API_ENDPOINT_OVERRIDES_TPU': 'http://127.0.0.1:1/',
      },
      stdout=subprocess.PIPE,
      stderr=subprocess.STDOUT,
      text=True,
    )
    for call in calls
  ]
  for process in started:
    told, _ = process.communicate(timeout=SECONDS)
    # 2 is what a flag that is not known ends with; none of them gets further
    # than the account.
    assert process.returncode == 1 and 'account' in told, (process.args, told)
