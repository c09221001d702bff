"""The stages of preparation run by Apache Beam, for text beyond one machine.

The functions are those of `stages.py`, hence the bytes. Only what carries the
documents is another: Beam's shuffle in place of spills.

  files ─ read ─ blocks of text ─ tokenise ─ parts of shards ─ group by shard ─
  write: rows, labels, facts

Workers write into the folder that the launching process publishes, and read the
files where that process found them: all of them must see both. What a worker
has to say to the launching process lies in that folder as well, since runners
differ in what they carry back, and few carry an exception.

Beam is imported late: nothing else needs it, and it takes seconds.
"""

import contextlib
import dataclasses
import io
import logging
import os
import pathlib
import secrets
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Sequence
from typing import Any

from shared_bert.data import beam_functions, stages
from shared_bert.data.documents import Tokenise
from shared_bert.data.packing import RowMaker
from shared_bert.data.sources import Source
from shared_bert.data.stages import say
from shared_bert.data.workers import WorkStopped
from shared_bert.errors import Preempted, UserError

# Text on disk that one call reads: many small files are read by few.
_GROUP_BYTES = 2_000_000
_PROGRESS_SECONDS = 5
# NFS may take this long to show what another machine has written: its
# `acdirmax`, 60 s by default, and a little more.
_APPEARING_SECONDS = 75


def run_by(runner: str, options: Sequence[str] = ()) -> stages.RunStages:
  """How to run the stages by a runner of Beam's.

  Args:
    runner: its name, as Beam spells it.
    options: flags for Beam's `PipelineOptions`, such as
      `--direct_num_workers=2`.

  Returns:
    What `preparation.prepare_corpus` takes.

  Raises:
    UserError: Beam is not installed, or knows no such runner or options.
  """
  before = logging.root.manager.disable
  logging.disable(logging.CRITICAL)  # It tells what it does without.
  try:
    import apache_beam  # noqa: F401
  except ImportError as error:
    raise UserError(
      f'--runner={runner} wants Apache Beam ({error}): pip install '
      "'shared_bert[beam]', or leave the flag out to prepare on this machine."
    ) from error
  finally:
    logging.disable(before)
  stages_by_beam = _BeamStages(runner, tuple(options))
  stages_by_beam.pipeline()  # which refuses what it does not know
  return stages_by_beam


@dataclasses.dataclass(frozen=True)
class _BeamStages:
  """Runs the stages; a `stages.RunStages`.

  Attributes:
    runner: name of the runner.
    options: flags of Beam.
  """

  runner: str
  options: tuple[str, ...]

  def __call__(
    self,
    inputs: Sequence[Source],
    folder: pathlib.Path,
    tokenise: Tokenise,
    make_rows: RowMaker,
  ) -> dict[str, dict[str, Any]]:
    """Writes all shards that are not there yet.

    Args:
      inputs: of `find_sources`.
      folder: to write to; holds the request.
      tokenise: makes documents of blocks.
      make_rows: makes rows of documents.

    Returns:
      Shard's name -> its facts, as of `stages.write_shard`.

    Raises:
      UserError: a file cannot be read.
      OSError: the folder cannot be written.
      WorkStopped: the runner failed.
    """
    names = tokenise.sharding.names
    (folder / stages.SPILLS).mkdir(exist_ok=True)
    done = stages.finished_shards(folder)
    missing = [k for k, name in enumerate(names) if name not in done]
    if missing:
      if done:
        say('going on with an interrupted preparation')
      say(
        f'{self.runner} reads {len(inputs)} file(s) for {len(missing)} shard(s)'
      )
      # A name of its own, for what is said in this run and not in another.
      failure = folder / stages.SPILLS / f'failure-{secrets.token_hex(4)}'
      log = folder / stages.SPILLS / 'beam.log'
      with contextlib.ExitStack() as stack:
        if self._is_direct:
          stack.enter_context(_quiet(log))
        stack.enter_context(_progress(folder, len(names)))
        try:
          self._run(inputs, folder, failure, tokenise, make_rows, missing)
        except Preempted:
          raise
        except Exception as error:
          more = str(log) if self._is_direct else '--verbose'
          raise beam_functions.meaning(
            error, failure, self.runner, more
          ) from error
      self._await(folder, names)
    return {name: stages.read_facts(folder, name) for name in names}

  @property
  def _is_direct(self) -> bool:
    return self.runner.lower() in ('direct', 'directrunner')

  def pipeline(self) -> Any:
    """A new pipeline.

    Raises:
      UserError: Beam does not know the runner or an option.
    """
    import apache_beam as beam
    from apache_beam.options.pipeline_options import PipelineOptions

    said = io.StringIO()
    try:
      with contextlib.redirect_stderr(said):
        options = PipelineOptions(list(self.options))
        # Other runners have options that only their servers know.
        every = options.get_all_options(retain_unknown_options=self._is_direct)
        known = PipelineOptions([]).get_all_options()
    except SystemExit as error:  # as argparse does
      last = ''.join(said.getvalue().strip().splitlines()[-1:])
      raise UserError(
        f'--beam_options: {last.partition("error: ")[2] or last}.'
      ) from error
    if unknown := sorted(every.keys() - known.keys()):
      raise UserError(
        f'--beam_options: Apache Beam has no option --{unknown[0]}.'
      )
    # Beam's DirectRunner itself begins by fetching a program, Prism, which is
    # another runner and heeds none of the options --direct_….
    name = 'FnApiRunner' if self._is_direct else self.runner
    try:
      return beam.Pipeline(runner=name, options=options)
    except (ValueError, ImportError, AttributeError) as error:
      raise UserError(f'--runner={self.runner}: {error}') from error

  def _run(
    self,
    inputs: Sequence[Source],
    folder: pathlib.Path,
    failure: pathlib.Path,
    tokenise: Tokenise,
    make_rows: RowMaker,
    missing: Sequence[int],
  ) -> None:
    """Runs the pipeline to its end."""
    import apache_beam as beam

    names = tokenise.sharding.names
    read = beam_functions.ReadBlocks(failure)
    to_parts = beam_functions.TokeniseBlock(
      failure, tokenise, frozenset(missing)
    )
    request = beam_functions.request_of(folder)
    write = beam_functions.WriteShard(
      failure, folder, request, names, tokenise.dtype, make_rows
    )
    # A shard without documents has files too.
    nothing = (0, 0, 0), b''
    pipeline = self.pipeline()
    # `Any`: or Beam would look for a schema in whatever is annotated.
    parts = (
      pipeline
      | 'files' >> beam.Create(_groups(inputs)).with_output_types(Any)
      | 'read' >> beam.FlatMap(read).with_output_types(Any)
      # Or a file's blocks would all be tokenised where it is read.
      | 'spread' >> beam.Reshuffle().with_output_types(Any)
      | 'tokenise' >> beam.FlatMap(to_parts).with_output_types(tuple[int, Any])
    )
    every = pipeline | 'shards' >> beam.Create(
      [(shard, nothing) for shard in missing]
    ).with_output_types(tuple[int, Any])
    _ = (
      (parts, every)
      | 'all' >> beam.Flatten()
      | 'group' >> beam.GroupByKey()
      | 'write' >> beam.Map(write)
    )
    result = None
    try:
      result = pipeline.run()
      result.wait_until_finish()
    except (KeyboardInterrupt, Preempted):
      if result is not None:
        with contextlib.suppress(Exception):
          result.cancel()
      raise

  def _await(self, folder: pathlib.Path, names: Sequence[str]) -> None:
    """Waits until the folder shows what the workers wrote."""
    latest = time.monotonic() + _APPEARING_SECONDS
    while missing := set(names) - stages.finished_shards(folder):
      if time.monotonic() > latest:
        raise WorkStopped(
          f'{self.runner} has ended, but {len(missing)} of {len(names)} shards '
          f'are not in {folder}; check that its workers see this folder under '
          'this name, and run the same command again.'
        )
      time.sleep(1)


def _groups(inputs: Sequence[Source]) -> list[list[Source]]:
  """Files that are read together, under names that hold for any process."""
  groups: list[list[Source]] = []
  size = _GROUP_BYTES
  for source in inputs:
    if size >= _GROUP_BYTES:
      groups.append([])
      size = 0
    path = source.path.absolute()
    groups[-1].append(dataclasses.replace(source, path=path))
    size += path.stat().st_size
  return groups


@contextlib.contextmanager
def _quiet(log: pathlib.Path) -> Iterator[None]:
  """Sends to a file what Beam and its processes write to stderr.

  Its processes log every step there, whatever the level, and what matters of it
  comes as a sentence.

  Args:
    log: the file.
  """
  logger, own = logging.getLogger('apache_beam'), sys.stderr
  level, hook, stderr = logger.level, threading.excepthook, os.dup(2)
  with contextlib.ExitStack() as stack:
    stack.callback(os.close, stderr)
    stack.callback(logger.setLevel, level)
    logger.setLevel(logging.CRITICAL + 1)
    stream = stack.enter_context(log.open('a', errors='backslashreplace'))
    os.dup2(stream.fileno(), 2)
    stack.callback(os.dup2, stderr, 2)
    stack.callback(setattr, threading, 'excepthook', hook)
    # Of a thread of Beam's: the run fails of it too.
    threading.excepthook = lambda told: traceback.print_exception(
      told.exc_value, file=stream
    )
    if own is sys.__stderr__:
      ours = open(stderr, 'w', errors='backslashreplace', closefd=False)
      stack.enter_context(ours)
      stack.enter_context(contextlib.redirect_stderr(ours))
    yield


@contextlib.contextmanager
def _progress(folder: pathlib.Path, num_shards: int) -> Iterator[None]:
  """Tells now and then how many shards are written."""
  ended = threading.Event()

  def tell() -> None:
    told = 0
    while not ended.wait(_PROGRESS_SECONDS):
      written = len(stages.finished_shards(folder))
      if written > told:
        say(f'packed {written} of {num_shards} shards')
        told = written

  thread = threading.Thread(target=tell, daemon=True)
  thread.start()
  try:
    yield
  finally:
    ended.set()
    thread.join()
