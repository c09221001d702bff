"""A stand-in for gcloud, and the TPU slices that it gives: folders here.

Called as `gcloud`, it does what `launch/tpu_vm.sh` asks for: a queued resource
waits twice before it is there; a worker is a folder, its home; what is run on
it runs here, with stand-ins for the programs that would change the machine.
"""

import os
import pathlib
import shlex
import shutil
import signal
import subprocess
import sys

WORKERS = 2
ROOT = pathlib.Path(__file__).parents[1]
# What a queued resource goes through; each look at it is a step.
_COURSE = ('ACCEPTED', 'PROVISIONING', 'ACTIVE')


class Slice:
  """The cloud's side, kept in a folder so that each call of gcloud finds it."""

  def __init__(self, folder: pathlib.Path):
    self.folder = folder
    self.state_file = folder / 'state'
    self.calls_file = folder / 'calls'
    self.launched: list[subprocess.Popen] = []  # what a test started

  @property
  def state(self) -> str:
    return self.state_file.read_text() if self.state_file.exists() else ''

  @state.setter
  def state(self, value: str):
    self.state_file.write_text(value)

  @property
  def calls(self) -> list[list[str]]:
    lines = self.calls_file.read_text().split('\n\n')
    return [line.split('\n') for line in lines if line]

  def home(self, worker: int) -> pathlib.Path:
    return self.folder / f'worker-{worker}'

  def log(self, worker: int) -> str:
    path = self.home(worker) / 'shared_bert' / 'run.log'
    return path.read_text() if path.exists() else ''

  def processes(self) -> list[int]:
    """The leaders of what runs on the workers."""
    files = self.folder.glob('worker-*/shared_bert/run.pid')
    return [int(text) for path in files if (text := path.read_text().strip())]

  def take_away(self, state: str):
    """The machines go, and all that is on their disks."""
    leaders = self.processes()
    # First, so that nobody finds it there with its processes gone.
    self.state = state
    for leader in leaders:
      try:
        os.killpg(leader, signal.SIGKILL)
      except ProcessLookupError:
        pass
    for worker in range(WORKERS):
      shutil.rmtree(self.home(worker), ignore_errors=True)

  def make(self):
    """New machines."""
    for worker in range(WORKERS):
      (self.home(worker)).mkdir()
    self.state = _COURSE[0]

  def list(self) -> str:
    now = self.state
    if now in _COURSE[:-1]:
      self.state = _COURSE[_COURSE.index(now) + 1]
    return f'other ACTIVE\nslice {now}\n' if now else 'other ACTIVE\n'

  def run(self, command: str) -> int:
    """Runs a command on all workers; the first exit code that is not 0."""
    started = []
    for worker in range(WORKERS):
      environment = os.environ | {
        'HOME': str(self.home(worker)),
        'PATH': f'{self.folder / "bin"}:{os.environ["PATH"]}',
        'JAX_PLATFORMS': 'cpu',
        'JAX_NUM_CPU_DEVICES': '1',
        'RESTART_SECONDS': '1',
        # A pod tells its workers of each other by its metadata; here JAX takes
        # it from a step of Slurm.
        'SLURM_JOB_ID': (self.folder / 'job').read_text(),
        'SLURM_STEP_NODELIST': '127.0.0.1',
        'SLURM_NTASKS': str(WORKERS),
        'SLURM_PROCID': str(worker),
        'SLURM_LOCALID': '0',
      }
      started.append(
        subprocess.Popen(
          ['bash', '-c', command], cwd=self.home(worker), env=environment
        )
      )
    codes = [process.wait() for process in started]
    # A session whose machine went ends as ssh does.
    if self.state != 'ACTIVE':
      return 255
    return next((code for code in codes if code), 0)


def install(folder: pathlib.Path, job: int) -> dict[str, str]:
  """Writes the stand-ins; returns the environment that finds gcloud.

  Args:
    folder: of the slice.
    job: a number that JAX makes the coordinator's port of.
  """
  (folder / 'job').write_text(str(job))
  gcloud = folder / 'cloud' / 'gcloud'
  gcloud.parent.mkdir(parents=True)
  gcloud.write_text(
    f'#!/usr/bin/env bash\nPYTHONPATH={ROOT} exec {sys.executable} '
    f'-m tests.tpu_slice {shlex.quote(str(folder))} "$@"\n'
  )
  gcloud.chmod(0o755)
  (folder / 'bin').mkdir()
  programs = {
    # Of `make -C CHECKOUT .venv/.has-tpu PYTHON=...`.
    'make': f"""mkdir -p "$2/.venv/bin"
cat >"$2/.venv/bin/python" <<'end'
#!/usr/bin/env bash
exec {sys.executable} "$@"
end
chmod +x "$2/.venv/bin/python"
""",
    'mountpoint': '[[ -e "$HOME/mounted" ]]',
    'sudo': '[[ $1 != mount ]] || echo "$@" >>"$HOME/mounted"',
  }
  for name, body in programs.items():
    path = folder / 'bin' / name
    path.write_text(f'#!/usr/bin/env bash\n{body}\n')
    path.chmod(0o755)
  return {'PATH': f'{gcloud.parent}:{os.environ["PATH"]}', 'POLL_SECONDS': '.2'}


def main(folder: str, *arguments: str) -> int:
  """What gcloud does with its arguments."""
  slice = Slice(pathlib.Path(folder))
  with slice.calls_file.open('a') as calls:
    calls.write('\n'.join(arguments) + '\n\n')
  assert arguments[:2] == ('compute', 'tpus'), arguments
  flags = dict(a[2:].partition('=')[::2] for a in arguments if a[:2] == '--')
  assert flags['zone'] == 'us-west4-a'
  match arguments[2:4]:
    case 'queued-resources', 'list':
      print(slice.list(), end='')
    case 'queued-resources', 'create':
      assert not slice.state
      slice.make()
    case 'queued-resources', 'delete':
      slice.take_away('')
    case 'queued-resources', 'describe':
      print('no capacity')
    case 'tpu-vm', 'scp':
      name, _, file = arguments[5].partition(':')
      assert name == 'slice' and flags['worker'] == 'all'
      for worker in range(WORKERS):
        shutil.copy(arguments[4], slice.home(worker) / file)
    case 'tpu-vm', 'ssh':
      assert arguments[4] == 'slice' and flags['worker'] == 'all'
      return slice.run(flags['command'])
    case other:
      raise AssertionError(other)
  return 0


if __name__ == '__main__':
  sys.exit(main(*sys.argv[1:]))
