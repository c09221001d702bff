"""What Apache Beam's workers do: functions that are sent to them.

They are plain functions of their elements, since Beam is imported late, and
elements are built of tuples, lists, numbers and bytes.
"""

import contextlib
import dataclasses
import errno
import hashlib
import json
import os
import pathlib
import re
import traceback
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from shared_bert.data import row_files, spills, stages
from shared_bert.data.documents import Block, Documents, Tokenise
from shared_bert.data.packing import RowMaker
from shared_bert.data.sources import Source
from shared_bert.data.workers import WorkStopped
from shared_bert.errors import Preempted, UserError

# Documents, lines and tokens of a part, and its bytes: see `spills.py`.
Part = tuple[Sequence[int], bytes]


@dataclasses.dataclass(frozen=True)
class ReadBlocks:
  """Reads files; a function for workers.

  Attributes:
    failure: where to say what went wrong.
  """

  failure: pathlib.Path

  def __call__(self, inputs: Sequence[Source]) -> Iterator[Block]:
    """Yields the documents of files in blocks."""
    with _told(self.failure):
      for work in stages.read_blocks(inputs):
        yield work.block


@dataclasses.dataclass(frozen=True)
class TokeniseBlock:
  """Tokenises a block; a function for workers.

  Attributes:
    failure: where to say what went wrong.
    tokenise: the work.
    shards: those that are wanted.
  """

  failure: pathlib.Path
  tokenise: Tokenise
  shards: frozenset[int]

  def __call__(self, block: Block) -> Iterator[tuple[int, Part]]:
    """Yields each shard that is met and the part that belongs to it."""
    with _told(self.failure):
      documents = (
        found for found in self.tokenise(block) if found[0] in self.shards
      )
      parts = spills.parts_of_shards(documents, self.tokenise.dtype)
      yield from parts.items()


@dataclasses.dataclass(frozen=True)
class WriteShard:
  """Writes the files of a shard; a function for workers.

  Attributes:
    failure: where to say what went wrong.
    folder: to write to.
    request: what the folder is for, as of `request_of`.
    names: of all shards.
    dtype: of the ids.
    make_rows: the work.
  """

  failure: pathlib.Path
  folder: pathlib.Path
  request: str
  names: Sequence[str]
  dtype: np.dtype
  make_rows: RowMaker

  def __call__(self, of_shard: tuple[int, Iterable[Part]]) -> None:
    """Takes a shard and all of its parts."""
    shard, parts = of_shard
    with _told(self.failure):
      documents = Documents.joined(
        [spills.read_part(*part, self.dtype) for part in parts]
      )
      # A worker may outlive the process that sent for it, and the folder be
      # another's by now.
      if request_of(self.folder) != self.request:
        raise WorkStopped(f'{self.folder} is no longer what it was')
      stages.write_shard(
        self.folder, self.names[shard], self.make_rows, documents
      )


def request_of(folder: pathlib.Path) -> str:
  """A digest of what a folder is for."""
  return hashlib.sha256((folder / stages.REQUEST).read_bytes()).hexdigest()


@contextlib.contextmanager
def _told(failure: pathlib.Path) -> Iterator[None]:
  """Writes down what went wrong in a worker, for `meaning`."""
  try:
    yield
  except (MemoryError, Preempted, WorkStopped):
    raise
  except Exception as error:
    told: dict[str, Any] = {'bug': traceback.format_exc()}
    if isinstance(error, UserError):
      told = {'sentence': str(error)}
    elif isinstance(error, OSError) and error.errno:
      name = error.filename and os.fspath(error.filename)
      told = {'os': [error.errno, error.strerror, name]}
    with contextlib.suppress(OSError):
      # The disk may have been mended since; the text may not.
      if 'sentence' in told or not failure.exists():
        row_files.write_file(failure, [json.dumps(told).encode()])
    raise


def meaning(
  error: Exception, failure: pathlib.Path, runner: str, more: str
) -> Exception:
  """What a runner's exception says, of which it mostly has the text alone.

  Args:
    error: of the runner.
    failure: where a worker may have said more.
    runner: its name.
    more: what shows more of an error that nobody understands.

  Returns:
    The exception as it would have come without a runner.
  """
  text = str(error)
  with contextlib.suppress(FileNotFoundError):
    told = json.loads(failure.read_bytes())
    failure.unlink()
    if 'sentence' in told:
      return UserError(told['sentence'])
    if 'os' in told:
      return OSError(*told['os'])
    return RuntimeError(f'in a worker of {runner}:\n{told["bug"]}')
  # By a signal, in this process.
  if found := re.search(r'errors\.Preempted: (.*?)(?: \[while|\n|$)', text):
    return Preempted(found[1])
  # Of a disk too full to say so.
  if found := re.search(r'\[Errno (\d+)\] No space left', text):
    return OSError(int(found[1]), os.strerror(errno.ENOSPC))
  last = text.strip().splitlines()[-1:] or ['']
  return WorkStopped(
    f'{runner} failed ({type(error).__name__}: {last[0]}); {more} shows more. '
    'Run the same command again when it is mended: it goes on where this one '
    'stopped.'
  )
