"""Text files to a corpus: the making of what `corpus.py` reads.

A corpus appears under its name by one rename, when it is complete, and is
never written to again. While it is made it is called `<name>.partial`.
"""

import collections
import contextlib
import dataclasses
import fcntl
import hashlib
import json
import os
import pathlib
import shutil
import sys
import time
from collections.abc import Iterator, Sequence

import numpy as np

import shared_bert
from shared_bert.data import chunks, sources, text_files
from shared_bert.data import corpus as corpus_lib
from shared_bert.data.corpus import Corpus
from shared_bert.data.sources import Source
from shared_bert.data.tokenizer import Tokenizer, train_wordpiece
from shared_bert.errors import UserError

# Text that a vocabulary is trained on; more changes it little.
_TRAINING_BYTES = 50_000_000
# Text tokenised at a time: enough to keep every core busy.
_BLOCK_BYTES = 2_000_000
_PROGRESS_SECONDS = 5
_ORIGIN = 'vocabulary_origin.json'


@dataclasses.dataclass(frozen=True)
class NewVocabulary:
  """Asks for a vocabulary to be trained on the text and frozen with it.

  Attributes:
    size: tokens, the five special ones among them.
    lowercase: whether text is lower-cased and stripped of accents.
  """

  size: int
  lowercase: bool = True


def prepare_corpus(
  inputs: Sequence[Source | pathlib.Path],
  output: pathlib.Path,
  tokenizer: Tokenizer | NewVocabulary,
  seq_len: int,
  workers: int = 1,
  heldout_fraction: float = 0.01,
) -> Corpus:
  """Cuts text files into rows for pre-training and opens the result.

  Blank lines separate documents. A document's tokens, all its lines joined,
  are cut into chunks of `S - 2`; a rest below `SHORTEST_CHUNK` is dropped.
  A document is held out by the hash of its text, so the same ones are however
  many workers there are and in whatever order the files come; copies of a
  document fall on the same side.

  Args:
    inputs: sources, or paths of files, in the order of the rows.
    output: the folder to make. One that was made of the same files, tokenizer,
      `seq_len` and `heldout_fraction` is taken as it is.
    tokenizer: the tokenizer, or a request to train one on the text.
    seq_len: S.
    workers: processes; the rows do not depend on it. One process already
      uses several cores.
    heldout_fraction: share of the documents to hold out, in [0, 1).

  Returns:
    The corpus, opened.

  Raises:
    UserError: the output is another corpus or being written, a file cannot be
      read, or there is no text to speak of.
  """
  if seq_len < chunks.SHORTEST_CHUNK + 2:
    raise UserError(
      f'seq_len={seq_len} is too short for pre-training: rows need at least '
      f'{chunks.SHORTEST_CHUNK + 2} places.'
    )
  if workers < 1:
    raise UserError(f'workers={workers} must be at least 1.')
  if not 0 <= heldout_fraction < 1:
    raise UserError(
      f'heldout_fraction={heldout_fraction} is not a share: give a number '
      'from 0 to below 1, such as 0.01.'
    )
  output = pathlib.Path(output).absolute()
  found = [
    item if isinstance(item, Source) else sources.file_source(item)
    for item in inputs
  ]
  request = {
    'seq_len': seq_len,
    'heldout_fraction': heldout_fraction,
    'inputs': [source.describe() for source in found],
    'tokenizer': _request_of(tokenizer),
  }
  if output.exists() and (not output.is_dir() or any(output.iterdir())):
    return _reuse(output, request)
  with _partial_folder(output) as partial:
    if isinstance(tokenizer, NewVocabulary):
      tokenizer = _trained_vocabulary(partial, tokenizer, found, request)
    else:
      _clear(partial)
      tokenizer.save(partial)
    _write_rows(partial, found, tokenizer, request, workers)
    _publish(partial, output)
  corpus = corpus_lib.open_corpus(output)
  _say(f'wrote {output}: {_summary(corpus.manifest)}')
  counts = corpus.manifest['counts']
  if heldout_fraction and not counts['heldout_rows']:
    _say(
      f'none of the {counts["documents"]:,} documents is held out, so there is '
      'nothing to evaluate on: give more text, with blank lines between '
      'documents, or a larger --heldout_fraction'
    )
  return corpus


def _request_of(tokenizer: Tokenizer | NewVocabulary) -> dict:
  """What a manifest must say of its tokenizer to be what is asked for."""
  if isinstance(tokenizer, Tokenizer):
    return {'sha256': tokenizer.sha256}
  return {
    'trained_size': tokenizer.size,
    'lowercase': tokenizer.lowercase,
  }


def _reuse(output: pathlib.Path, request: dict) -> Corpus:
  """Opens what is there if it is what was asked for."""
  if not output.is_dir():
    raise UserError(f'The output {output} is a file; name a folder to make.')
  if not (output / 'manifest.json').exists():
    raise UserError(
      f'The output {output} is a folder with something else in it than a '
      'prepared corpus; name another one to make.'
    )
  manifest = corpus_lib.read_manifest(output)
  made_of, asked = (
    # Names may change, contents and how they are read may not.
    [(item['sha256'], item.get('read_as')) for item in made['inputs']]
    for made in (manifest, request)
  )
  wanted = request['tokenizer']
  differing = [
    name
    for name, same in (
      ('input files', made_of == asked),
      (
        'tokenizer',
        wanted == {key: manifest['tokenizer'][key] for key in wanted},
      ),
      ('seq_len', manifest['seq_len'] == request['seq_len']),
      (
        'heldout_fraction',
        manifest['heldout_fraction'] == request['heldout_fraction'],
      ),
    )
    if not same
  ]
  if differing:
    raise UserError(
      f'The corpus {output} exists and was made with other '
      f'{" and ".join(differing)}; it is never overwritten: name another '
      'output, or remove it first.'
    )
  corpus = corpus_lib.open_corpus(output)
  _say(f'taking {output} as it is: {_summary(manifest)}')
  return corpus


@contextlib.contextmanager
def _partial_folder(output: pathlib.Path) -> Iterator[pathlib.Path]:
  """The folder to work in, held by one process at a time."""
  partial = output.with_name(output.name + '.partial')
  try:
    partial.mkdir(parents=True, exist_ok=True)
  except OSError as error:
    raise UserError(
      f'The folder {partial} cannot be made ({error.strerror}); name another '
      'place for the corpus.'
    ) from error
  # The lock ends with the process, however that ends.
  lock = os.open(partial, os.O_RDONLY)
  try:
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except BlockingIOError:
    os.close(lock)
    raise UserError(
      f'Another process is preparing {output} at this moment; wait for it, or '
      'name another output.'
    ) from None
  try:
    yield partial
  except UserError:
    # After the mend the text is another, and with it a trained vocabulary.
    shutil.rmtree(partial, ignore_errors=True)
    raise
  except OSError as error:
    raise UserError(
      f'The corpus {output} cannot be written ({error.strerror or error}); '
      'make room or name another place, and run the same command again.'
    ) from error
  finally:
    os.close(lock)


def _trained_vocabulary(
  partial: pathlib.Path,
  wanted: NewVocabulary,
  inputs: Sequence[Source],
  request: dict,
) -> Tokenizer:
  """Trains a vocabulary, or takes that of an interrupted preparation.

  Training twice gives two vocabularies, so the first is kept as soon as it is
  there.
  """
  origin = json.dumps([request['tokenizer'], request['inputs']])
  mark = partial / _ORIGIN
  if mark.is_file() and mark.read_text('utf-8') == origin:
    tokenizer = Tokenizer.load(partial)
    _clear(partial, keep=('vocab.txt', 'tokenizer_config.json', _ORIGIN))
    _say('taking the vocabulary of an interrupted preparation')
    return tokenizer
  _clear(partial)
  _say(f'training a vocabulary of {wanted.size} tokens')
  lines = sources.sample_lines(inputs, _TRAINING_BYTES)
  tokenizer = train_wordpiece(lines, wanted.size, wanted.lowercase)
  tokenizer.save(partial)
  mark.write_text(origin, 'utf-8')
  return tokenizer


def _clear(folder: pathlib.Path, keep: Sequence[str] = ()) -> None:
  """Removes what an interrupted preparation left."""
  for path in folder.iterdir():
    if path.name not in keep:
      path.unlink()


def _write_rows(
  folder: pathlib.Path,
  inputs: Sequence[Source],
  tokenizer: Tokenizer,
  request: dict,
  workers: int,
) -> None:
  """Writes everything but the vocabulary, which lies there already."""
  seq_len = request['seq_len']
  dtype = np.dtype('<u2' if tokenizer.vocab_size <= 2**16 else '<i4')
  chunker = chunks.Chunker(tokenizer, seq_len, request['heldout_fraction'])
  progress = _Progress()
  counts: collections.Counter = collections.Counter()
  sides = ('train', 'heldout')
  with contextlib.ExitStack() as stack:
    files = {
      side: stack.enter_context(
        corpus_lib.RowFile(folder / f'{side}.npy', seq_len, dtype)
      )
      for side in sides
    }
    blocks = _blocks(inputs, progress)
    for made in chunks.chunk_in_order(chunker, blocks, workers):
      files['train'].append(made.train)
      files['heldout'].append(made.heldout)
      counts.update(made.counts)
      progress.rows += len(made.train) + len(made.heldout)
      progress.show()
  if not files['train'].num_rows:
    raise UserError(
      f'There is no text to train on in {len(inputs)} input file(s): no '
      f'document has {chunks.SHORTEST_CHUNK} tokens outside the held-out '
      'share; check the inputs.'
    )
  num_rows = progress.rows
  tokens = counts['tokens']
  digests = ' '.join(files[side].digest() for side in sides)
  manifest = {
    'format': corpus_lib.FORMAT,
    'shared_bert': shared_bert.__version__,
    'seq_len': seq_len,
    'dtype': dtype.name,
    'heldout_fraction': request['heldout_fraction'],
    'fingerprint': hashlib.sha256(digests.encode('ascii')).hexdigest(),
    'tokenizer': {
      'trained_size': None,
      **request['tokenizer'],
      'sha256': tokenizer.sha256,
      'vocab_size': tokenizer.vocab_size,
      'lowercase': tokenizer.lowercase,
    },
    'counts': {
      'files': len(inputs),
      'text_bytes': progress.bytes,
      'rows': files['train'].num_rows,
      'heldout_rows': files['heldout'].num_rows,
      **counts,
      'padding_share': round(1 - (tokens / num_rows + 2) / seq_len, 6),
    },
    'inputs': request['inputs'],
    'files': {
      path.name: {
        'bytes': path.stat().st_size,
        'sha256': text_files.file_hash(path),
      }
      for path in sorted(folder.iterdir())
      if path.name != _ORIGIN
    },
  }
  (folder / 'manifest.json').write_text(
    json.dumps(manifest, indent=2) + '\n', 'utf-8'
  )


def _blocks(
  inputs: Sequence[Source], progress: '_Progress'
) -> Iterator[chunks.Block]:
  """The documents of all files, a few megabytes at a time."""
  block: chunks.Block = []
  size = 0
  for source in inputs:
    before = progress.bytes
    for lines, offset in sources.read_documents(source):
      progress.bytes = before + offset
      block.append(lines)
      size += sum(map(len, lines))
      if size >= _BLOCK_BYTES:
        yield block
        block, size = [], 0
  if block:
    yield block


def _publish(partial: pathlib.Path, output: pathlib.Path) -> None:
  """Gives the corpus its name, after all of it has reached the disk."""
  # Kept so long, that an interrupted preparation never trains again.
  (partial / _ORIGIN).unlink(missing_ok=True)
  for path in (*partial.iterdir(), partial):
    handle = os.open(path, os.O_RDONLY)
    os.fsync(handle)
    os.close(handle)
  os.rename(partial, output)


class _Progress:
  """Bytes of text read and rows made, told every few seconds."""

  def __init__(self):
    self.bytes = 0
    self.rows = 0
    self._due = time.monotonic() + _PROGRESS_SECONDS

  def show(self) -> None:
    """Prints a line if it is time."""
    if time.monotonic() >= self._due:
      _say(f'{self.bytes / 1e6:.0f} MB read, {self.rows:,} rows')
      self._due = time.monotonic() + _PROGRESS_SECONDS


def _summary(manifest: dict) -> str:
  """The numbers that a user wants to see."""
  counts = manifest['counts']
  return (
    f'{counts["rows"]:,} rows of {manifest["seq_len"]} and '
    f'{counts["heldout_rows"]:,} held out, {counts["tokens"]:,} tokens of '
    f'{counts["documents"]:,} documents, '
    f'{counts["unknown_tokens"] / max(1, counts["tokens"]):.2%} unknown, '
    f'{counts["padding_share"]:.1%} padding'
  )


def _say(message: str) -> None:
  print(f'prepare: {message}', file=sys.stderr, flush=True)
