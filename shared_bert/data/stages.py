"""The two stages of preparation, and how far they are.

First blocks of text are tokenised into spills, then each shard takes its
documents out of all spills. What either has finished is a file with its final
name, so that a killed preparation goes on where it was. `run_stages` does it
with processes of this machine, `beam_pipeline` with Apache Beam.
"""

import dataclasses
import json
import pathlib
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from shared_bert.data import corpus as corpus_lib
from shared_bert.data import row_files, sources, spills, text_files
from shared_bert.data.documents import Block, Documents, Tokenise
from shared_bert.data.packing import RowMaker
from shared_bert.data.sources import Source
from shared_bert.data.workers import Workers

SPILLS = 'spills'
# Of what is in the folder; all of it belongs to one request.
REQUEST = 'request.json'
# How the stages are run: `run_stages`, but for its workers.
RunStages = Callable[
  [Sequence[Source], pathlib.Path, Tokenise, RowMaker],
  dict[str, dict[str, Any]],
]

# Text tokenised at a time.
_BLOCK_BYTES = 2_000_000
_PROGRESS_SECONDS = 5
_COMPLETE = 'complete.json'
# Until a packed file is finished, how many times larger its text is.
_USUAL_PACKING = 3.5


def state() -> list:
  """What else decides about the files that an interrupted preparation left."""
  return [corpus_lib.FORMAT, _BLOCK_BYTES]


def say(message: str) -> None:
  """Tells the user something, at once."""
  print(f'prepare: {message}', file=sys.stderr, flush=True)


@dataclasses.dataclass(frozen=True)
class Work:
  """A block to tokenise.

  Attributes:
    number: of the block.
    block: the documents.
    done: bytes of files read when it was full, as they lie on disk.
    text_bytes: of text read.
  """

  number: int
  block: Block
  done: float
  text_bytes: int


@dataclasses.dataclass(frozen=True)
class SpillWriter:
  """Tokenises a block and writes its spill.

  Attributes:
    folder: of the spills.
    tokenise: the work.
  """

  folder: pathlib.Path
  tokenise: Tokenise

  def __call__(self, work: Work) -> tuple[float, int]:
    """Returns how far reading was when the block was full."""
    spills.write_spill(
      _spill(self.folder, work.number),
      self.tokenise(work.block),
      len(self.tokenise.sharding.names),
      self.tokenise.dtype,
    )
    return work.done, work.text_bytes


@dataclasses.dataclass(frozen=True)
class ShardWriter:
  """Makes the rows of a shard and writes them.

  Attributes:
    folder: to write to; the spills are below it.
    tokenise: what made the spills.
    make_rows: the work.
  """

  folder: pathlib.Path
  tokenise: Tokenise
  make_rows: RowMaker

  def __call__(self, shard: int) -> dict[str, Any]:
    """Writes a shard, or finds it written.

    Args:
      shard: which one.

    Returns:
      The facts, as of `write_shard`.
    """
    name = self.tokenise.sharding.names[shard]
    if _facts(self.folder, name).exists():
      return read_facts(self.folder, name)
    documents = spills.read_shard(
      _finished(self.folder / SPILLS), shard, self.tokenise.dtype
    )
    return write_shard(self.folder, name, self.make_rows, documents)


def write_shard(
  folder: pathlib.Path, name: str, make_rows: RowMaker, documents: Documents
) -> dict[str, Any]:
  """Makes and writes the files of one shard, and last what they are.

  Args:
    folder: to write to.
    name: of the shard.
    make_rows: the work.
    documents: all of the shard, in any order.

  Returns:
    `counts` of `ShardRows`, and `files`: what the manifest says of each.

  Raises:
    OSError: a file cannot be written.
  """
  made = make_rows(documents)
  files = {
    f'{name}.npy': row_files.write_rows(folder / f'{name}.npy', made.rows)
  }
  if made.labels is not None:
    labels = f'{name}.labels.npy'
    files[labels] = row_files.write_rows(folder / labels, made.labels)
  facts = {'counts': made.counts, 'files': files}
  row_files.write_file(_facts(folder, name), [json.dumps(facts).encode()])
  return facts


def finished_shards(folder: pathlib.Path) -> set[str]:
  """Names of the shards in a folder that are written."""
  # Listed rather than asked for: network file systems remember for a while
  # that a file was not there, and it may come from another machine.
  return {path.stem for path in (folder / SPILLS).glob('*[0-9].json')}


def read_facts(folder: pathlib.Path, name: str) -> dict[str, Any]:
  """What `write_shard` returned for a finished shard."""
  return json.loads(_facts(folder, name).read_text('utf-8'))


def _facts(folder: pathlib.Path, name: str) -> pathlib.Path:
  return folder / SPILLS / f'{name}.json'


def run_stages(
  inputs: Sequence[Source],
  folder: pathlib.Path,
  tokenise: Tokenise,
  make_rows: RowMaker,
  workers: int,
) -> dict[str, dict[str, Any]]:
  """Tokenises text and writes all shards, from where it was left.

  Args:
    inputs: of `find_sources`.
    folder: to write to.
    tokenise: makes documents of blocks.
    make_rows: makes rows of documents.
    workers: processes.

  Returns:
    Shard's name -> its facts, as of `write_shard`.

  Raises:
    UserError: a file cannot be read.
    OSError: the folder cannot be written.
    WorkStopped: a process was killed.
  """
  spill_folder = folder / SPILLS
  spill_folder.mkdir(exist_ok=True)
  functions: dict[str, Callable] = {
    'spill': SpillWriter(spill_folder, tokenise),
    'shard': ShardWriter(folder, tokenise, make_rows),
  }
  names = tokenise.sharding.names
  with Workers(functions, workers) as pool:
    if not (spill_folder / _COMPLETE).exists():
      _tokenise_all(inputs, spill_folder, pool)
    results, rows, started = {}, 0, time.monotonic()
    progress = _Clock()
    for shard, facts in enumerate(pool.map('shard', range(len(names)))):
      results[names[shard]] = facts
      rows += facts['counts']['rows']
      share = (shard + 1) / len(names)
      if progress.due():
        left = (time.monotonic() - started) * (1 / share - 1)
        say(
          f'packed {shard + 1} of {len(names)} shards, {rows:,} rows, '
          f'{_duration(left)} left'
        )
  return results


def _tokenise_all(
  inputs: Sequence[Source], folder: pathlib.Path, pool: Workers
) -> None:
  """Writes the spills that are not there yet."""
  total = sum(source.path.stat().st_size for source in inputs)
  progress = _Progress(total)
  num_blocks = 0

  def missing() -> Iterator[Work]:
    nonlocal num_blocks
    for work in read_blocks(inputs):
      num_blocks += 1
      if _spill(folder, work.number).exists():
        progress.skip(work.done, work.text_bytes)
      else:
        yield work

  for done, text_bytes in pool.map('spill', missing()):
    progress.show(done, text_bytes)
  row_files.write_file(folder / _COMPLETE, [json.dumps(num_blocks).encode()])


def read_blocks(inputs: Sequence[Source]) -> Iterator[Work]:
  """Reads the documents of files, a few megabytes at a time.

  Args:
    inputs: of `find_sources`.

  Yields:
    Blocks, numbered from 0.

  Raises:
    UserError: as `sources.read_documents`.
  """
  block: Block = []
  number = size = 0
  position = _Position()
  for source in inputs:
    position.open(source.path)
    for lines, offset in sources.read_documents(source):
      position.offset = offset
      block.append(lines)
      size += sum(map(len, lines))
      if size >= _BLOCK_BYTES:
        yield Work(number, block, position.done(), position.text_bytes())
        block, size, number = [], 0, number + 1
    position.close()
  if block:
    yield Work(number, block, position.done(), position.text_bytes())


class _Position:
  """Where reading is: in bytes on disk, as far as can be told, and of text."""

  def __init__(self):
    self.offset = self._size = 0
    self._closed = self._closed_text = 0
    self._ending = ''
    # Bytes of text for one on disk, by the ending of names.
    self._ratios: dict[str, float] = {}

  def open(self, path: pathlib.Path) -> None:
    self._size, self._ending = path.stat().st_size, path.suffix
    self.offset = 0
    usual = _USUAL_PACKING if path.suffix in text_files.PACKED else 1.0
    self._ratios.setdefault(path.suffix, usual)

  def close(self) -> None:
    if self._size and self.offset:
      self._ratios[self._ending] = self.offset / self._size
    self._closed += self._size
    self._closed_text += self.offset
    self._size = self.offset = 0

  def done(self) -> float:
    read = self.offset / self._ratios.get(self._ending, 1.0)
    return self._closed + min(self._size, read)

  def text_bytes(self) -> int:
    return self._closed_text + self.offset


class _Clock:
  """Says when a line of progress is due."""

  def __init__(self):
    self._due = time.monotonic() + _PROGRESS_SECONDS

  def due(self) -> bool:
    now = time.monotonic()
    if now < self._due:
      return False
    self._due = now + _PROGRESS_SECONDS
    return True


class _Progress:
  """How far tokenising is, told every few seconds."""

  def __init__(self, total: int):
    self._total = total
    self._skipped = (0.0, 0)
    self._started = time.monotonic()
    self._clock = _Clock()

  def skip(self, done: float, text_bytes: int) -> None:
    """Leaves what was tokenised before out of the speed."""
    if not self._skipped[1]:
      say('going on with an interrupted preparation')
    self._skipped = (done, text_bytes)
    self._started = time.monotonic()

  def show(self, done: float, text_bytes: int) -> None:
    """Prints a line if it is time."""
    seconds = time.monotonic() - self._started
    if not self._clock.due() or not seconds:
      return
    new_bytes, new_text = done - self._skipped[0], text_bytes - self._skipped[1]
    left = (self._total - done) * seconds / max(1, new_bytes)
    say(
      f'tokenised {done / 1e6:,.0f} of {self._total / 1e6:,.0f} MB on disk '
      f'({done / max(1, self._total):.0%}), {text_bytes / 1e6:,.0f} MB of '
      f'text, {new_text / seconds / 1e6:.2f} MB/s, {_duration(left)} left'
    )


def _duration(seconds: float) -> str:
  """Seconds as `0:41` or `2:03:07`."""
  minutes, seconds = divmod(round(seconds), 60)
  hours, minutes = divmod(minutes, 60)
  if hours:
    return f'{hours}:{minutes:02}:{seconds:02}'
  return f'{minutes}:{seconds:02}'


def _spill(folder: pathlib.Path, number: int) -> pathlib.Path:
  return folder / f'{number:07}.spill'


def _finished(folder: pathlib.Path) -> list[pathlib.Path]:
  num_blocks = json.loads((folder / _COMPLETE).read_text('utf-8'))
  return [_spill(folder, number) for number in range(num_blocks)]
