"""Text files to a corpus: the making of what `corpus.py` reads.

A corpus appears under its name by one rename, when it is complete, and is
never written to again. While it is made it is called `<name>.partial`, where a
preparation that was killed goes on.
"""

import contextlib
import dataclasses
import fcntl
import functools
import json
import math
import os
import pathlib
import shutil
from collections.abc import Iterator, Sequence

import shared_bert
from shared_bert.data import audit as audit_lib
from shared_bert.data import corpus as corpus_lib
from shared_bert.data import publication, row_files, sources, stages
from shared_bert.data.corpus import Corpus
from shared_bert.data.documents import Sharding, Tokenise
from shared_bert.data.packing import SHORTEST_CHUNK, RowMaker
from shared_bert.data.sources import Source
from shared_bert.data.stages import say
from shared_bert.data.tokenizer import Tokenizer
from shared_bert.data.wordpiece import train_wordpiece
from shared_bert.data.workers import WorkStopped
from shared_bert.errors import UserError

# Text that a vocabulary is trained on; more changes it little.
_TRAINING_BYTES = 50_000_000
# Input on disk for each shard: packed text of this size has some 30 M tokens,
# which a process can hold several times over.
_SHARD_BYTES = 2**25
# Each shard is a file to keep open; more text makes larger ones.
_MOST_SHARDS = 256


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
  *,
  shards: int | None = None,
  deduplicate: bool = False,
  pairs: bool = False,
  run_stages: stages.RunStages | None = None,
) -> Corpus:
  """Packs text files into rows for pre-training and opens the result.

  Blank lines separate documents. A document's tokens, all its lines joined,
  are cut into segments of `S - 2` and what `[CLS]` and `[SEP]` take; a rest
  below `SHORTEST_CHUNK` is dropped. A row holds as many segments as fit. Where
  a document goes, held out or not, follows from the hash of its text: the rows
  are the same for any number of workers and any order of the files, and copies
  of a document fall on the same side.

  Args:
    inputs: sources, or paths of files.
    output: the folder to make. One that was made of the same files, tokenizer
      and settings is taken as it is; an interrupted one is gone on with.
    tokenizer: the tokenizer, or a request to train one on the text.
    seq_len: S.
    workers: processes; the rows do not depend on it. One process already
      uses several cores.
    heldout_fraction: share of the documents to hold out, in [0, 1).
    shards: files of rows to train on; by default as many as the size of the
      inputs asks for.
    deduplicate: keeps one of the documents that are equal.
    pairs: makes rows of next-sentence pairs, one a row, of documents whose
      lines are sentences.
    run_stages: runs the stages in place of `workers` processes of this machine.

  Returns:
    The corpus, opened.

  Raises:
    UserError: the output is another corpus or being written, a file cannot be
      read, there is no text to speak of, or the disk is full.
  """
  if seq_len < SHORTEST_CHUNK + 2:
    raise UserError(
      f'seq_len={seq_len} is too short for pre-training: rows need at least '
      f'{SHORTEST_CHUNK + 2} places.'
    )
  for name, value in (('workers', workers), ('shards', shards)):
    if value is not None and value < 1:
      raise UserError(f'{name}={value} must be at least 1.')
  if not 0 <= heldout_fraction < 1:
    raise UserError(
      f'heldout_fraction={heldout_fraction} is not a share: give a number '
      'from 0 to below 1, such as 0.01.'
    )
  output = pathlib.Path(output).absolute()
  # In an order of their own, so that whoever goes on with a preparation finds
  # the same text in the same blocks, however the files were named.
  found = [
    item if isinstance(item, Source) else sources.file_source(item)
    for item in inputs
  ]
  listed = sorted(
    ((source.describe(), source) for source in found),
    key=lambda item: (item[0]['sha256'], item[0]['name']),
  )
  described = [item for item, _ in listed]
  found = [source for _, source in listed]
  shards = shards or default_shards(sum(item['bytes'] for item in described))
  request = {
    'seq_len': seq_len,
    'heldout_fraction': heldout_fraction,
    'shards': shards,
    'deduplicate': deduplicate,
    'pairs': pairs,
    'inputs': described,
    'tokenizer': _request_of(tokenizer),
  }
  if output.exists() and (not output.is_dir() or any(output.iterdir())):
    return _reuse(output, request)
  with _partial_folder(output) as partial:
    tokenizer = _start(partial, tokenizer, found, request)
    heldout = math.ceil(shards * heldout_fraction)
    tokenise = Tokenise(tokenizer, Sharding(shards, heldout, heldout_fraction))
    make_rows = RowMaker.of(tokenizer, seq_len, deduplicate, pairs)
    run_stages = run_stages or functools.partial(
      stages.run_stages, workers=workers
    )
    made = run_stages(found, partial, tokenise, make_rows)
    audit = publication.write_manifest(partial, request, tokenise, made)
    _publish(partial, output)
  corpus = corpus_lib.open_corpus(output)
  say(f'wrote {output}: {_summary(corpus.manifest)}')
  for line in audit_lib.describe(audit):
    say(line)
  if heldout_fraction and not len(corpus.heldout):
    say(
      f'no row of the {audit["documents"]:,} documents is held out, so there '
      'is nothing to evaluate on: give more text, with blank lines between '
      'documents, or a larger --heldout_fraction'
    )
  return corpus


def default_shards(num_bytes: int) -> int:
  """Files of rows for inputs of so many bytes on disk."""
  return min(_MOST_SHARDS, max(1, math.ceil(num_bytes / _SHARD_BYTES)))


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
  same = {
    'input files': made_of == asked,
    'tokenizer': wanted == {key: manifest['tokenizer'][key] for key in wanted},
    'shards': request['shards'] == manifest['shards']['train'],
    **{
      name: manifest[name] == request[name]
      for name in ('seq_len', 'heldout_fraction', 'deduplicate', 'pairs')
    },
  }
  # Another size of the inputs, another number of shards: once is enough.
  if not same['input files']:
    same['shards'] = True
  differing = [name for name, is_same in same.items() if not is_same]
  if differing:
    hint = ' A tokenizer is its vocabulary and --lowercase.'
    raise UserError(
      f'The corpus {output} exists and was made with other '
      f'{" and ".join(differing)}; it is never overwritten: name another '
      'output, or remove it first.' + hint * ('tokenizer' in differing)
    )
  corpus = corpus_lib.open_corpus(output)
  say(f'taking {output} as it is: {_summary(manifest)}')
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
    # After the mend the text is another, and nothing of this is of use.
    shutil.rmtree(partial, ignore_errors=True)
    raise
  except OSError as error:
    raise UserError(
      f'The corpus {output} cannot be written ({error.strerror or error}); '
      'make room and run the same command again, which goes on where this one '
      f'stopped, or remove {partial}.'
    ) from error
  except WorkStopped as error:
    raise UserError(str(error)) from error
  finally:
    os.close(lock)


def _start(
  partial: pathlib.Path,
  tokenizer: Tokenizer | NewVocabulary,
  inputs: Sequence[Source],
  request: dict,
) -> Tokenizer:
  """Makes the folder ready for work and puts the vocabulary there.

  What an interrupted preparation of the same request left stays, its
  vocabulary among it.
  """
  mark = partial / stages.REQUEST
  wanted = json.dumps([shared_bert.__version__, stages.state(), request])
  if not mark.is_file() or mark.read_text('utf-8') != wanted:
    shutil.rmtree(partial / stages.SPILLS, ignore_errors=True)
    for path in partial.iterdir():
      path.unlink()
  for draft in partial.rglob('*.tmp'):
    draft.unlink()
  if isinstance(tokenizer, NewVocabulary):
    # Written last, so the vocabulary is there too.
    if (partial / 'tokenizer_config.json').is_file():
      say('taking the vocabulary of an interrupted preparation')
      return Tokenizer.load(partial)
    say(f'training a vocabulary of {tokenizer.size} tokens')
    lines = sources.sample_lines(inputs, _TRAINING_BYTES)
    tokenizer = train_wordpiece(lines, tokenizer.size, tokenizer.lowercase)
  tokenizer.save(partial)
  row_files.write_file(mark, [wanted.encode()])
  return tokenizer


def _publish(partial: pathlib.Path, output: pathlib.Path) -> None:
  publication.publish(partial, output, leave=(stages.SPILLS, stages.REQUEST))


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
