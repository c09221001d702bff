"""Starts the workers of a study, watches them, and stops them together."""

import contextlib
import importlib.util
import math
import os
import pathlib
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

from ml_collections import ConfigDict

from shared_bert.errors import Preempted, UserError
from shared_bert.study.plan import Plan
from shared_bert.study.records import Records
from shared_bert.training.logging import duration

_POLL_SECONDS = 1.0
# What a worker has to save its state in, before it is killed.
_GRACE = 120.0
# Where Linux has the GPUs, and what says the share of one that JAX takes: by
# the name that all its versions know, and by its new one.
_DEVICES = pathlib.Path('/dev')
_MEMORY = ('XLA_PYTHON_CLIENT_MEM_FRACTION', 'XLA_CLIENT_MEM_FRACTION')
_STOPPED = (
  'stopped; what is done is kept, and the same command goes on from there.'
)


def work(plan: Plan, config: ConfigDict, workdir: pathlib.Path) -> None:
  """Does all cells that are left, by processes that share the devices.

  Prints a line for each cell that is done.

  Args:
    plan: of the study.
    config: of the study.
    workdir: of the study.

  Raises:
    UserError: if a worker met what the user can mend.
    Preempted: after a signal, once all workers have saved.
  """
  records, done = Records(workdir), set(plan.done)
  if len(done) == len(plan.cells):
    return
  started, spent = time.monotonic(), 0.0

  def tell() -> None:
    nonlocal spent
    for cell in plan.cells:
      if cell.name in done or (found := records.get(cell.name)) is None:
        continue
      done.add(cell.name)
      spent += plan.seconds[cell.name]
      # Planned seconds, as they turned out so far.
      pace = (time.monotonic() - started) / spent
      left = pace * sum(
        s for name, s in plan.seconds.items() if name not in done
      )
      print(
        f'{len(done):,} of {len(plan.cells):,} cells, {duration(left)} left: '
        f'{cell.name}  {_summary(found)}',
        flush=True,
      )

  parts = [f'worker-{number}' for number in range(config.workers)]
  run_parts(parts, workdir, on_change=tell)


def _summary(found: dict) -> str:
  if 'failed' in found:
    return f'failed: {found["failed"]}'
  split, values = next(iter(found['metrics'].items()))
  shown = '  '.join(f'{name} {value:.4f}' for name, value in values.items())
  return f'{split} {shown}'


def run_parts(
  parts: list[str], workdir: pathlib.Path, on_change: Callable[[], None]
) -> None:
  """Runs this command once more for each part, at the same time.

  Args:
    parts: values of `--part`; what each one says goes to `logs/PART.log`.
    workdir: of the study.
    on_change: called now and then, and once all have ended.

  Raises:
    UserError: if one of them failed; its last words are in the message.
    Preempted: after a signal, once all have ended.
  """
  logs = workdir / 'logs'
  logs.mkdir(exist_ok=True)
  with contextlib.ExitStack() as files:
    # Closed by the system however this process ends; each of them waits for it
    # (`stopping.follow_parent`).
    theirs, ours = os.pipe()
    files.callback(os.close, ours)
    files.callback(os.close, theirs)
    processes = {}
    for number, part in enumerate(parts):
      log = files.enter_context((logs / f'{part}.log').open('a'))
      processes[part] = subprocess.Popen(
        [
          sys.executable,
          '-m',
          'shared_bert.study',
          *sys.argv[1:],
          f'--part={part}',
        ],
        stdin=theirs,
        stdout=log,
        stderr=subprocess.STDOUT,
        env=os.environ | _devices(number, len(parts)),
        # A Ctrl-C reaches this process alone, which passes it on.
        start_new_session=True,
      )
      _pin(processes[part].pid, number, len(parts))
    # In the order in which they ended: the first that failed is the cause.
    codes: dict[str, int] = {}
    with _stopping(processes):
      while len(codes) < len(processes):
        time.sleep(_POLL_SECONDS)
        on_change()
        for part, process in processes.items():
          if part not in codes and (code := process.poll()) is not None:
            codes[part] = code
        if any(codes.values()):
          _stop(processes)
  on_change()
  for part, code in codes.items():
    if code not in (0, 75):
      words = (logs / f'{part}.log').read_text().splitlines()[-1:]
      raise UserError(
        f'{part} of the study ended with exit code {code}: {" ".join(words)} '
        f'All it said is in {logs / part}.log; the same command goes on.'
      )
  if 75 in codes.values():
    raise Preempted(_STOPPED)


@contextlib.contextmanager
def _stopping(processes: dict[str, subprocess.Popen]) -> Iterator[None]:
  """Lets the workers save and end when this process is told to.

  Raises:
    Preempted: after a Ctrl-C or SIGTERM.
  """
  try:
    yield
  except (KeyboardInterrupt, Preempted) as error:
    print('stopping: the cells under way are saved first …', flush=True)
    _stop(processes)
    raise Preempted(_STOPPED) from error
  except BaseException:
    _stop(processes)
    raise


def _stop(processes: dict[str, subprocess.Popen]) -> None:
  for process in processes.values():
    if process.poll() is None:
      process.send_signal(signal.SIGTERM)
  deadline = time.monotonic() + _GRACE
  for process in processes.values():
    try:
      process.wait(max(0.0, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
      process.kill()
      process.wait()


def _devices(number: int, count: int) -> dict[str, str]:
  """What shows a worker its share of the GPUs, where there are any.

  Raises:
    UserError: where there is a TPU, which belongs to one process.
  """
  if count == 1:
    return {}
  if _uses_tpu():
    raise UserError(
      f'workers={count}, and a TPU belongs to one process: set workers=1, '
      'which uses all of its chips, or JAX_PLATFORMS=cpu.'
    )
  shown = os.environ.get('CUDA_VISIBLE_DEVICES')
  if shown is None:
    # CUDA counts those that it sees: in a container the host's nvidia3 can be
    # the only one, and is 0.
    names = [str(n) for n in range(len([*_DEVICES.glob('nvidia[0-9]*')]))]
  else:
    names = [name for name in shown.split(',') if name]
  if not names:
    return {}
  # Fewer workers than GPUs have several each; more of them share.
  mine = names[number::count] or [names[number % len(names)]]
  shares = {'CUDA_VISIBLE_DEVICES': ','.join(mine)}
  most = math.ceil(count / len(names))
  if most > 1 and not any(os.environ.get(key) for key in _MEMORY):
    # JAX takes three quarters of a GPU by itself.
    shares[_MEMORY[0]] = f'{0.9 / most:.3f}'
  return shares


def _uses_tpu() -> bool:
  """Whether JAX would take a TPU, without asking JAX, which would take it."""
  platforms = os.environ.get('JAX_PLATFORMS', '')
  if platforms and 'tpu' not in platforms.split(','):
    return False
  chips = [*_DEVICES.glob('accel[0-9]*'), *_DEVICES.glob('vfio/[0-9]*')]
  return bool(chips and importlib.util.find_spec('libtpu'))


def _pin(pid: int, number: int, count: int) -> None:
  """Gives a worker its share of the processor's cores."""
  if count == 1 or not hasattr(os, 'sched_setaffinity'):
    return
  cores = sorted(os.sched_getaffinity(0))
  mine = cores[number::count] or [cores[number % len(cores)]]
  with contextlib.suppress(ProcessLookupError):
    os.sched_setaffinity(pid, mine)
