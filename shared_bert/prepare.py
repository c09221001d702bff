r"""Prepares text for pre-training: vocabulary, rows, counts and hashes.

  python -m shared_bert.prepare --input='text/*.txt.xz' --output=data/corpus \
    --vocab_size=30000 --seq_len=128

Text is UTF-8 with blank lines between documents, plain, packed (.gz, .xz, .bz2,
.zst) or in a .tar; or a record is a document, in .jsonl, .parquet or a set of
TensorFlow Datasets, tfds:NAME. The same command again goes on where it was
killed, or finds its work done; another one never overwrites a corpus.
"""

import hashlib
import json
import os
import pathlib
import re
import sys
from collections.abc import Sequence

from absl import flags

from shared_bert import command_line
from shared_bert.data import beam_pipeline, preparation, sources
from shared_bert.data.corpus import Corpus
from shared_bert.data.preparation import NewVocabulary
from shared_bert.data.tokenizer import Tokenizer
from shared_bert.errors import UserError
from shared_bert.output_flag import OUTPUT

_INPUT = flags.DEFINE_list(
  'input',
  [],
  'Text files: names or patterns, separated by commas; or tfds:NAME.',
)
_TEXT_KEY = flags.DEFINE_string(
  'text_key', 'text', 'Key, column or feature with the text of a record.'
)
_DATA_DIR = flags.DEFINE_string(
  'data_dir', 'data', 'Folder of TensorFlow Datasets.'
)
flags.declare_key_flag(OUTPUT)
_VOCAB = flags.DEFINE_string(
  'vocab', None, 'vocab.txt, tokenizer.json or a folder holding one of them.'
)
_VOCAB_SIZE = flags.DEFINE_integer(
  'vocab_size', None, 'Train a vocabulary of this size instead of --vocab.'
)
_SEQ_LEN = flags.DEFINE_integer('seq_len', 128, 'Tokens in a row.')
_LOWERCASE = flags.DEFINE_bool(
  'lowercase',
  None,
  "Lower-case and strip accents; default: as --vocab's folder says, or true.",
)
_WORKERS = flags.DEFINE_integer(
  'workers',
  None,
  'Processes; the result does not depend on it. Default: one a core, fewer for '
  'little text. Not with --runner, which has its own.',
)
_HELDOUT_FRACTION = flags.DEFINE_float(
  'heldout_fraction', 0.01, 'Share of the documents kept for evaluation.'
)
_DEDUPLICATE = flags.DEFINE_bool(
  'deduplicate', False, 'Keep one of documents that are equal.'
)
_PAIRS = flags.DEFINE_bool(
  'pairs', False, 'Rows of next-sentence pairs; lines of text are sentences.'
)
_SHARDS = flags.DEFINE_integer(
  'shards', None, 'Files of rows; default: as the size of the text asks for.'
)
_RUNNER = flags.DEFINE_string(
  'runner',
  None,
  'Runner of Apache Beam instead of processes of this machine: DirectRunner, '
  'FlinkRunner, DataflowRunner, …; see docs/guides/pretrain.md.',
)
_BEAM_OPTIONS = flags.DEFINE_multi_string(
  'beam_options',
  [],
  'Flags for Beam, with commas between: --direct_num_workers=2,….',
)
# Text on disk that is worth a process of its own.
_WORKER_BYTES = 8_000_000


def prepare(
  patterns: str | Sequence[str],
  output: str | pathlib.Path,
  *,
  vocab: str | pathlib.Path | None = None,
  vocab_size: int | None = None,
  seq_len: int = 128,
  lowercase: bool | None = None,
  workers: int | None = 1,
  heldout_fraction: float = 0.01,
  deduplicate: bool = False,
  pairs: bool = False,
  shards: int | None = None,
  text_key: str = 'text',
  data_dir: str | pathlib.Path = 'data',
  runner: str | None = None,
  beam_options: Sequence[str] = (),
) -> Corpus:
  """Prepares a corpus, or opens it if it was prepared so before.

  Args:
    patterns: as `sources.find_sources` takes; one string may hold several,
      separated by commas.
    output: the folder to make.
    vocab: an existing vocabulary, as `Tokenizer.load` takes; or
    vocab_size: the size of one to be trained on the text, once.
    seq_len: S, tokens in a row.
    lowercase: overrules what `vocab` says; true for a trained vocabulary
      unless given.
    workers: processes; None for one a core, fewer for little text.
    heldout_fraction: share of the documents kept for evaluation.
    deduplicate: keeps one of documents that are equal.
    pairs: makes rows of next-sentence pairs.
    shards: files of rows; None for what the size of the text asks for.
    text_key: the key, column or feature that holds the text of a record.
    data_dir: the folder of TensorFlow Datasets.
    runner: Apache Beam's runner that does the work in place of `workers`.
    beam_options: flags for it, each `--name=value`.

  Returns:
    The corpus, opened.

  Raises:
    UserError: both or neither of `vocab` and `vocab_size`, options of Beam
      without a runner, or what `find_sources`, `beam_pipeline.run_by` and
      `prepare_corpus` raise.
  """
  if isinstance(patterns, str):
    patterns = sources.patterns_of(patterns)
  tokenizer: Tokenizer | NewVocabulary
  if vocab is not None and vocab_size is None:
    tokenizer = Tokenizer.load(vocab, lowercase)
  elif vocab is None and vocab_size is not None:
    tokenizer = NewVocabulary(vocab_size, lowercase is not False)
  else:
    raise UserError(
      'Give either --vocab=FILE, an existing vocabulary, or --vocab_size=N, '
      'to train one on the text; not both and not neither.'
    )
  run_stages = None
  if runner:
    run_stages = beam_pipeline.run_by(runner, beam_options)
  elif beam_options:
    raise UserError(
      '--beam_options are for a runner of Apache Beam: name one, such as '
      '--runner=DirectRunner.'
    )
  found = sources.find_sources(patterns, '--input', text_key, data_dir)
  if workers is None:
    size = sum(source.path.stat().st_size for source in found)
    workers = min(_cores(), 1 + size // _WORKER_BYTES)
  return preparation.prepare_corpus(
    found,
    pathlib.Path(output),
    tokenizer,
    seq_len,
    workers=workers,
    heldout_fraction=heldout_fraction,
    deduplicate=deduplicate,
    pairs=pairs,
    shards=shards,
    run_stages=run_stages,
  )


def _cores() -> int:
  """Cores that this process may use."""
  if hasattr(os, 'sched_getaffinity'):
    return len(os.sched_getaffinity(0))
  return os.cpu_count() or 1


def prepare_text(
  text: str,
  directory: str | pathlib.Path,
  *,
  vocab: str = '',
  vocab_size: int,
  seq_len: int,
  text_key: str = 'text',
) -> pathlib.Path:
  """Prepares text for a job that names it, under a name that it implies.

  Args:
    text: patterns as `sources.find_sources` takes, separated by commas.
    directory: where prepared corpora are put; the folder of TensorFlow
      Datasets as well.
    vocab: an existing vocabulary; empty to train one of
    vocab_size: tokens.
    seq_len: S.
    text_key: the key, column or feature that holds the text of a record.

  Returns:
    The corpus's folder: the same for the same contents and settings, so that
    the work is done once and no change of them goes unnoticed.

  Raises:
    UserError: as `prepare`.
  """
  patterns = sources.patterns_of(text)
  found = sources.find_sources(patterns, 'data.text', text_key, directory)
  described = [source.describe() for source in found]
  hashes = [(item['sha256'], item['read_as']) for item in described]
  origin = Tokenizer.load(vocab).sha256 if vocab else vocab_size
  identity = json.dumps([hashes, origin, seq_len]).encode('ascii')
  name = f'corpus-{hashlib.sha256(identity).hexdigest()[:12]}'
  folder = pathlib.Path(directory) / name
  prepare(
    patterns,
    folder,
    vocab=vocab or None,
    vocab_size=None if vocab else vocab_size,
    seq_len=seq_len,
    text_key=text_key,
    data_dir=directory,
  )
  return folder


def _split_options(texts: Sequence[str]) -> list[str]:
  """Flags with commas between; a flag's value may have commas too."""
  return [part for text in texts for part in re.split(r',(?=--)', text)]


def _command() -> None:
  if not OUTPUT.value:
    raise UserError('no --output is given: name the folder to make.')
  if _RUNNER.value and _WORKERS.value is not None:
    raise UserError(
      '--workers are processes of this machine, and --runner has workers of '
      "its own: give one of the two; DirectRunner's are set by "
      '--beam_options=--direct_num_workers=N,'
      '--direct_running_mode=multi_processing.'
    )
  prepare(
    [command_line.expand_home(pattern) for pattern in _INPUT.value],
    command_line.expand_home(OUTPUT.value),
    vocab=_VOCAB.value and command_line.expand_home(_VOCAB.value),
    vocab_size=_VOCAB_SIZE.value,
    seq_len=_SEQ_LEN.value,
    lowercase=_LOWERCASE.value,
    workers=_WORKERS.value,
    heldout_fraction=_HELDOUT_FRACTION.value,
    deduplicate=_DEDUPLICATE.value,
    pairs=_PAIRS.value,
    shards=_SHARDS.value,
    text_key=_TEXT_KEY.value,
    data_dir=_DATA_DIR.value,
    runner=_RUNNER.value,
    beam_options=_split_options(_BEAM_OPTIONS.value),
  )


def run(argv: Sequence[str]) -> int:
  """The command; see the top of the file.

  Args:
    argv: of the process.

  Returns:
    The exit code.
  """
  return command_line.run(_command, argv)


if __name__ == '__main__':
  sys.exit(run(sys.argv))
