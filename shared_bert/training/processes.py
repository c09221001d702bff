"""Several processes that train as one: on many hosts, or one an accelerator.

All run the same program on the same files; each feeds its own devices. What
must not happen twice, such as writing a file, the first process does alone
(`on_first`), and the others learn how it went.

JAX is imported where it is used: help and flags do without it.
"""

import atexit
import contextlib
import ipaddress
import json
import os
import re
import signal
import sys
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import numpy as np

from shared_bert.errors import UserError

T = TypeVar('T')
# After these seconds without a sign of life JAX ends the other processes.
_HEARTBEAT = 30
# How long a process that is done waits for the others.
_SHUTDOWN = 60
_LOST = re.compile(
  r'Gloo|coordination service|heartbeat|remote process exited|'
  r'Connection (reset|closed|refused)|Socket closed',
  re.IGNORECASE,
)
_SIGNALS = ('', 'SIGINT', 'SIGTERM')
_index, _count = 0, 1


def index() -> int:
  """The number of this process, from 0; touches no device."""
  return _index


def count() -> int:
  """How many processes there are; touches no device."""
  return _count


def is_first() -> bool:
  """Whether this process writes the files and speaks."""
  return _index == 0


def _number_of(name: str) -> int:
  value = os.environ.get(name, '')
  return int(value) if value.isascii() and value.isdecimal() else 0


def _cluster() -> str | None:
  """The cluster that started this process as one of several, if one did."""
  # Set in a step, that is by srun, and not in the script around it.
  if 'SLURM_STEP_NODELIST' in os.environ and _number_of('SLURM_NTASKS') > 1:
    return 'slurm'
  if ',' in os.environ.get('TPU_WORKER_HOSTNAMES', ''):
    return 'tpu'
  return None


def _bind_address(coordinator: str) -> str | None:
  """Where the coordinator listens: on loopback, if that is what is named.

  JAX listens on all interfaces unless it is told.
  """
  host, _, port = coordinator.rpartition(':')
  host = '127.0.0.1' if host == 'localhost' else host.strip('[]')
  try:
    loopback = ipaddress.ip_address(host).is_loopback
  except ValueError:  # a name
    loopback = False
  if not loopback:
    return None
  return f'[{host}]:{port}' if ':' in host else f'{host}:{port}'


def _check(coordinator: str | None, number: int | None, mine: int | None):
  """Refuses flags that cannot be.

  Raises:
    UserError: naming them.
  """
  if coordinator is None or number is None or mine is None:
    raise UserError(
      '--coordinator, --num_processes and --process_id go together: give all '
      'three, or none where Slurm, GKE or Cloud TPU starts the processes.'
    )
  if not re.fullmatch(r'.+:\d{1,5}', coordinator):
    raise UserError(
      f'--coordinator={coordinator} should be HOST:PORT, where the process 0 '
      'can be reached, such as 10.0.0.1:7890.'
    )
  if not 0 <= mine < number:
    raise UserError(
      f'--process_id={mine} should be from 0 to {number - 1}, as '
      f'--num_processes={number}.'
    )


def join(
  coordinator: str | None,
  num_processes: int | None,
  process_id: int | None,
  distributed: bool | None,
) -> None:
  """Joins the other processes, if there are any; before any device is used.

  Args:
    coordinator: HOST:PORT of process 0, or None for what the cluster says.
    num_processes: in all, or None.
    process_id: of this one, or None.
    distributed: whether to join what a cluster started. None joins where the
      environment says that there are several: a step of Slurm, or the workers
      of a slice on GKE.

  Raises:
    UserError: for flags that cannot be, or processes that cannot be reached.
  """
  global _index, _count
  named = (coordinator, num_processes, process_id)
  cluster = None
  if any(value is not None for value in named):
    _check(*named)
  else:
    cluster = _cluster()
    if distributed is False or (distributed is None and cluster is None):
      return
  if num_processes == 1:
    return
  import jax

  try:
    jax.distributed.initialize(
      coordinator,
      num_processes,
      process_id,
      coordinator_bind_address=coordinator and _bind_address(coordinator),
      heartbeat_timeout_seconds=_HEARTBEAT,
      shutdown_timeout_seconds=_SHUTDOWN,
    )
  except (ValueError, RuntimeError) as error:
    where = coordinator or f'the other processes of {cluster or "the cluster"}'
    raise UserError(
      f'cannot join {where}: {str(error).splitlines()[0]}. Start every process '
      'within five minutes, with the same --coordinator and --num_processes, '
      'each with its own --process_id.'
    ) from error
  if process_id is not None and num_processes is not None:
    _index, _count = process_id, num_processes
  else:
    _index, _count = jax.process_index(), jax.process_count()
  # Whoever started all of them, as srun does, may stop the others once one has
  # left, and they would lose their exit code amid their last steps. At the exit
  # this comes before JAX, which lets none leave before all have come there.
  atexit.register(signal.signal, signal.SIGTERM, signal.SIG_IGN)
  if not is_first():
    # One voice; errors are told by all.
    sys.stdout = open(os.devnull, 'w')


def _from_first(value: Any) -> Any:
  """JSON of the first process, on all of them."""
  from jax.experimental import multihost_utils

  text = json.dumps(value if is_first() else None).encode()
  size = int(multihost_utils.broadcast_one_to_all(np.int32(len(text))))
  padded = np.frombuffer(text[:size].ljust(size), np.uint8)
  told = multihost_utils.broadcast_one_to_all(padded)
  return json.loads(np.asarray(told, np.uint8).tobytes())


def on_first(function: Callable[[], T]) -> T:
  """Runs something on the first process alone; every process calls it.

  Args:
    function: what to run; what it returns must survive JSON.

  Returns:
    On every process what it returned.

  Raises:
    UserError: on every process, if it raised one.
  """
  if _count == 1:
    return function()
  outcome: dict[str, Any] = {}
  if is_first():
    try:
      outcome = {'returned': function()}
    except UserError as error:
      outcome = {'error': str(error)}
  outcome = _from_first(outcome)
  if 'error' in outcome:
    raise UserError(outcome['error'])
  return outcome['returned']


def first_ahead(function: Callable[[], T]) -> T:
  """Runs something on the first process, then on the others.

  For what fetches or makes files once and finds them there the next time.

  Args:
    function: what to run.

  Returns:
    What it returned on this process.
  """
  kept: list[T] = []
  on_first(lambda: kept.append(function()))
  return kept[0] if kept else function()


def agree(error: UserError | None) -> None:
  """Raises on every process what went wrong on one; every process calls it.

  Args:
    error: what went wrong here, or None.

  Raises:
    UserError: of the process with the lowest number that has one.
  """
  if _count == 1:
    if error is not None:
      raise error
    return
  from jax.experimental import multihost_utils

  failed = multihost_utils.process_allgather(np.bool_(error is not None))
  if not failed.any():
    return
  if error is not None:
    raise error
  raise UserError(
    f'process {int(np.argmax(failed))} failed; what it says is above, or in '
    'its own output.'
  )


def agreed(number: float) -> float:
  """The number of the first process, on all of them, in float32."""
  if _count == 1:
    return number
  from jax.experimental import multihost_utils

  return float(multihost_utils.broadcast_one_to_all(np.float32(number)))


class Ballot:
  """Whether any process was asked to stop, known to all after the same step.

  The vote of a step is counted by the devices behind that step and read after
  the next, so that nobody waits for it.
  """

  def __init__(self):
    """Compiles nothing yet."""
    self._pending: Any = None
    if _count > 1:
      import jax
      from jax.sharding import Mesh, NamedSharding, PartitionSpec

      mesh = Mesh(np.array(jax.devices()), 'process')
      self._sharding = NamedSharding(mesh, PartitionSpec('process'))
      self._count = jax.jit(
        lambda votes: votes.max(),
        out_shardings=NamedSharding(mesh, PartitionSpec()),
      )

  def agreed(self, asked: str | None) -> str | None:
    """Votes, and tells the outcome of the last vote.

    Args:
      asked: the signal that asked this process to stop, or None.

    Returns:
      The signal that all processes act on now, or None. Alone, `asked`.
    """
    if _count == 1:
      return asked
    import jax

    before, vote = self._pending, _SIGNALS.index(asked or '')
    votes = np.full(jax.local_device_count(), vote, np.int32)
    self._pending = self._count(
      jax.make_array_from_process_local_data(self._sharding, votes)
    )
    return (before is not None and _SIGNALS[int(before)]) or None


@contextlib.contextmanager
def losses() -> Iterator[None]:
  """Ends this process with 75 if another one is gone.

  At once: whatever JAX does at the end would wait for that process.
  """
  try:
    yield
  except UserError:
    raise
  except Exception as error:
    if _count == 1 or not _LOST.search(str(error)):
      raise
    print(
      f'process {_index}: another process is gone '
      f'({str(error).splitlines()[0]}); what was saved is kept: start all of '
      'them again, and they go on from there.',
      file=sys.stderr,
      flush=True,
    )
    os._exit(75)
