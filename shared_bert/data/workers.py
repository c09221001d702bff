"""Work spread over processes, its results in order."""

import collections
import concurrent.futures
import concurrent.futures.process
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any


class Workers:
  """A pool of processes, or this process alone.

  With several, each has one thread for tokenising; alone, the tokenizer takes
  all cores. A context manager: leaving it ends the processes.
  """

  def __init__(self, functions: Mapping[str, Callable], count: int):
    """Starts nothing yet.

    Args:
      functions: what can be called, by name; sent once to each process.
      count: processes; 1 is this one.
    """
    self._functions = dict(functions)
    self._count = count
    self._pool: concurrent.futures.ProcessPoolExecutor | None = None

  def __enter__(self) -> 'Workers':
    if self._count > 1:
      # Spawned, not forked: threads of the tokenizer may hold locks by now.
      self._pool = concurrent.futures.ProcessPoolExecutor(
        self._count,
        mp_context=multiprocessing.get_context('spawn'),
        initializer=_start_worker,
        initargs=(self._functions,),
      )
    return self

  def __exit__(self, *unused) -> None:
    if self._pool is not None:
      self._pool.shutdown(cancel_futures=True)

  def map(self, name: str, items: Iterable[Any]) -> Iterator[Any]:
    """Calls a function on items.

    Args:
      name: of the function.
      items: read as a stream, a few ahead of what is yielded.

    Yields:
      Its results, in the order of the items.

    Raises:
      WorkStopped: a process was killed.
    """
    if self._pool is None:
      yield from map(self._functions[name], items)
      return
    pending: collections.deque = collections.deque()
    try:
      for item in items:
        pending.append(self._pool.submit(_call, name, item))
        if len(pending) > 2 * self._count:
          yield pending.popleft().result()
      while pending:
        yield pending.popleft().result()
    except concurrent.futures.process.BrokenProcessPool as error:
      raise WorkStopped(
        'A worker process was killed, perhaps because memory ran out; run the '
        'same command again, with fewer --workers: it goes on where this one '
        'stopped.'
      ) from error


class WorkStopped(Exception):
  """Who did the work ended, for no fault of the text or of the disk.

  Its text is a sentence for the user. What was finished is worth going on with.
  """


_functions: dict[str, Callable] = {}


def _start_worker(functions: dict[str, Callable]) -> None:
  # One thread each: the processes share the cores already.
  os.environ['TOKENIZERS_PARALLELISM'] = 'false'
  # Ctrl-C reaches the whole group; the parent ends its workers in order.
  signal.signal(signal.SIGINT, signal.SIG_IGN)
  threading.Thread(target=_end_with_parent, daemon=True).start()
  _functions.update(functions)


def _end_with_parent() -> None:
  """A killed parent cannot end its workers, who would wait for ever."""
  parent = multiprocessing.parent_process()
  assert parent is not None
  parent.join()
  os._exit(1)


def _call(name: str, item: Any) -> Any:
  return _functions[name](item)
