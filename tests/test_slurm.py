"""The Slurm script, run by a real Slurm: two tasks, preempted, queued again."""

import getpass
import json
import os
import pathlib
import re
import shutil
import socket
import subprocess
import sys
import time

import pytest

from tests.process_group import free_port
from tests.test_processes import assert_same_course, losses, pretraining

ROOT = pathlib.Path(__file__).parents[1]
DAEMONS = {name: shutil.which(name) for name in ('slurmctld', 'slurmd')}
LIVE = ('PENDING', 'CONFIGURING', 'RUNNING', 'COMPLETING')

pytestmark = [
  pytest.mark.skipif(
    not all(DAEMONS.values()), reason='Slurm is not installed (slurm-wlm)'
  ),
  pytest.mark.skipif(os.getuid() != 0, reason='its daemons are run as root'),
]


@pytest.fixture(scope='module')
def slurm(tmp_path_factory):
  """A cluster of one node of this machine; to the environment that knows it."""
  folder = tmp_path_factory.mktemp('slurm')
  host = socket.gethostname().partition('.')[0]
  for name in ('state', 'spool'):
    (folder / name).mkdir()
  settings = {
    'ClusterName': 'test',
    'SlurmctldHost': f'{host}(127.0.0.1)',
    'SlurmUser': getpass.getuser(),
    'AuthType': 'auth/none',
    'CredType': 'cred/none',
    'SlurmctldPort': free_port(),
    'SlurmdPort': free_port(),
    'StateSaveLocation': folder / 'state',
    'SlurmdSpoolDir': folder / 'spool',
    'SlurmctldPidFile': folder / 'slurmctld.pid',
    'SlurmdPidFile': folder / 'slurmd.pid',
    'SlurmctldLogFile': folder / 'slurmctld.log',
    'SlurmdLogFile': folder / 'slurmd.log',
    'ProctrackType': 'proctrack/linuxproc',
    'TaskPlugin': 'task/none',
    'SelectType': 'select/cons_tres',
    'JobAcctGatherType': 'jobacct_gather/none',
    'ReturnToService': 2,
    'MpiDefault': 'none',
    'KillWait': 5,
    'SchedulerParameters': 'sched_interval=2',
    'NodeName': f'{host} NodeAddr=127.0.0.1 CPUs=2 State=UNKNOWN',
    'PartitionName': f'debug Nodes={host} Default=YES State=UP',
  }
  path = folder / 'slurm.conf'
  path.write_text(''.join(f'{k}={v}\n' for k, v in settings.items()))
  environment = os.environ | {'SLURM_CONF': str(path)}
  started = [
    subprocess.Popen(
      [DAEMONS[name], '-D'],
      env=environment,
      stdout=subprocess.DEVNULL,
      stderr=subprocess.DEVNULL,
    )
    for name in DAEMONS
  ]
  try:
    deadline = time.monotonic() + 60
    while 'idle' not in called(environment, 'sinfo', '-h', '-o', '%T').stdout:
      if time.monotonic() > deadline:
        logs = [p.read_text()[-2000:] for p in folder.glob('*.log')]
        pytest.fail('\n'.join(['Slurm does not start', *logs]))
      time.sleep(0.2)
    yield environment
    called(environment, 'scancel', '--user', getpass.getuser())
    time.sleep(1)
  finally:
    for daemon in started:
      daemon.terminate()
    for daemon in started:
      try:
        daemon.wait(10)
      except subprocess.TimeoutExpired:
        daemon.kill()


def called(environment, *command):
  return subprocess.run(
    command, env=environment, capture_output=True, text=True, check=False
  )


def asked(environment, *command, gone=None):
  """What a command of Slurm's prints; '' once it says that the job is gone.

  Its daemons are busy now and then, and then it says neither.
  """
  deadline = time.monotonic() + 60
  while (done := called(environment, *command)).returncode:
    if gone and gone in done.stderr:
      return ''
    if time.monotonic() > deadline:
      pytest.fail(f'{command}: {done.stdout}{done.stderr}')
    time.sleep(0.2)
  return done.stdout


def submit(environment, folder, config, *rest):
  said = asked(
    environment
    | {
      'PYTHON': sys.executable,
      'JAX_NUM_CPU_DEVICES': '1',
      'SLURM_DEBUG': '0',
    },
    'sbatch',
    '--parsable',
    '--ntasks=2',
    f'--chdir={ROOT}',
    f'--output={folder}/%x-%j.log',
    'launch/slurm/train.sbatch',
    config.removeprefix('--config='),
    str(folder / 'run'),
    *rest,
  )
  assert said.strip().isdecimal(), said
  return said.strip()


def wait_for(environment, job, seen, what, seconds=200):
  """Waits until something is seen; fails if the job ends without it."""
  deadline = time.monotonic() + seconds
  while not seen():
    over = state(environment, job) not in LIVE and not seen()
    if over or time.monotonic() > deadline:
      told = called(environment, 'scontrol', 'show', 'job', job).stdout
      log = re.search(r'StdOut=(.*)', told)
      text = pathlib.Path(log[1]).read_text() if log else ''
      pytest.fail(f'{what}: {told}\n{text[-3000:]}')
    time.sleep(0.1)


def state(environment, job):
  command = ('squeue', '-h', '-j', job, '-o', '%T')
  return asked(environment, *command, gone='Invalid job id').strip()


def is_at_work(environment, job):
  """Whether a process of the job is left on this machine."""
  command = ('scontrol', 'listpids', job)
  return 'batch' in asked(environment, *command, gone='does not exist on node')


def test_a_controller_that_is_busy_does_not_pass_for_a_job_that_is_gone(
  tmp_path,
):
  squeue = tmp_path / 'squeue'
  squeue.write_text(
    '#!/usr/bin/env bash\n'
    'echo "squeue: a remark" >&2\n'
    'if [[ $3 == 2 ]]; then echo "Invalid job id specified" >&2; exit 1; fi\n'
    f'if mkdir {tmp_path}/asked 2>/dev/null; then\n'
    '  echo "slurm_load_jobs error: Unable to contact slurm controller" >&2\n'
    '  exit 1\n'
    'fi\n'
    'echo RUNNING\n'
  )
  squeue.chmod(0o755)
  environment = os.environ | {'PATH': f'{tmp_path}:{os.environ["PATH"]}'}
  assert state(environment, '1') == 'RUNNING'
  assert (tmp_path / 'asked').exists()
  assert state(environment, '2') == ''


def test_two_tasks_preempted_and_queued_again_end_as_if_undisturbed(
  slurm, text, pretrained, tmp_path
):
  del pretrained  # the corpus is prepared by then
  whole, parts = tmp_path / 'whole', tmp_path / 'preempted'
  for folder in (whole, parts):
    folder.mkdir()
  # So many after the first checkpoint that a signal which comes late still
  # finds it at work; they take milliseconds.
  steps = {'train.steps': 800, 'train.checkpoint_every': 80}
  job = submit(slurm, whole, *pretraining(text, **steps))
  done = whole / 'run' / 'results.json'
  wait_for(slurm, job, done.exists, 'undisturbed')

  job = submit(slurm, parts, *pretraining(text, **steps))
  log = parts / f'shared_bert-{job}.log'
  kept = parts / 'run' / 'checkpoints' / '80'
  wait_for(slurm, job, kept.exists, 'first part')
  assert is_at_work(slurm, job)
  asked(slurm, 'scancel', '--signal=TERM', job)
  wait_for(slurm, job, lambda: 'queued again' in log.read_text(), 'stopped')
  assert not (parts / 'run' / 'results.json').exists()
  wait_for(slurm, job, lambda: state(slurm, job) == 'PENDING', 'requeued')
  # Slurm itself waits two minutes: at once, the end of the first script can be
  # taken for that of the second, as its daemon tells of it after its processes
  # are gone.
  wait_for(slurm, job, lambda: not is_at_work(slurm, job), 'to be gone')
  later = 'StartTime=now+20seconds'
  asked(slurm, 'scontrol', 'update', f'JobId={job}', later)
  done = parts / 'run' / 'results.json'
  wait_for(slurm, job, done.exists, 'second part')

  assert 'resuming from step' in log.read_text()
  assert_same_course(whole / 'run', parts / 'run')
  assert losses(whole / 'run') == losses(parts / 'run')
  results = json.loads(done.read_text())
  assert results['hardware']['devices'] == 2


def test_a_run_that_the_user_must_mend_is_not_queued_again(slurm, tmp_path):
  job = submit(slurm, tmp_path, 'configs/missing.py')
  log = tmp_path / f'shared_bert-{job}.log'
  wait_for(
    slurm, job, lambda: state(slurm, job) not in LIVE, 'to leave the queue'
  )
  assert 'there is no config configs/missing.py' in log.read_text()
  assert 'queued again' not in log.read_text()


def test_a_job_that_is_cancelled_saves_and_is_not_queued_again(
  slurm, text, pretrained, tmp_path
):
  del pretrained
  steps = {'train.steps': 100_000, 'train.checkpoint_every': 20}
  job = submit(slurm, tmp_path, *pretraining(text, **steps))
  log = tmp_path / f'shared_bert-{job}.log'
  kept = tmp_path / 'run' / 'checkpoints' / '40'
  wait_for(slurm, job, kept.exists, 'to save')
  asked(slurm, 'scancel', job)
  wait_for(slurm, job, lambda: state(slurm, job) not in LIVE, 'to end')
  assert 'stopped by SIGTERM after step' in log.read_text()
  time.sleep(5)  # in which the scheduler would find it again
  told = asked(slurm, 'scontrol', 'show', 'job', job)
  assert 'JobState=CANCELLED' in told, told
  assert 'queued again' not in log.read_text()
