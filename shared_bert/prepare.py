r"""Prepares text for pre-training: vocabulary, rows, counts and hashes.

  python -m shared_bert.prepare --input='text/*.txt.xz' --output=data/corpus \
    --vocab_size=30000 --seq_len=128

Text is UTF-8 with blank lines between documents, plain or packed (.xz, .gz,
.bz2). The same command again finds its work done; another one never overwrites
a corpus.
"""

import glob
import hashlib
import json
import pathlib
import sys
from collections.abc import Sequence

from absl import flags

from shared_bert import command_line
from shared_bert.data import preparation, text_files
from shared_bert.data.corpus import Corpus
from shared_bert.data.preparation import NewVocabulary
from shared_bert.data.tokenizer import Tokenizer
from shared_bert.errors import UserError

_INPUT = flags.DEFINE_list(
  'input', [], 'Text files: names or patterns, separated by commas.'
)
_OUTPUT = flags.DEFINE_string('output', None, 'Folder to make.')
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
  'workers', 1, 'Processes; the result does not depend on it.'
)
_HELDOUT_FRACTION = flags.DEFINE_float(
  'heldout_fraction', 0.01, 'Share of the documents kept for evaluation.'
)


def prepare(
  patterns: str | Sequence[str],
  output: str | pathlib.Path,
  *,
  vocab: str | pathlib.Path | None = None,
  vocab_size: int | None = None,
  seq_len: int = 128,
  lowercase: bool | None = None,
  workers: int = 1,
  heldout_fraction: float = 0.01,
) -> Corpus:
  """Prepares a corpus, or opens it if it was prepared so before.

  Args:
    patterns: names or glob patterns of text files; one string may hold
      several, separated by commas.
    output: the folder to make.
    vocab: an existing vocabulary, as `Tokenizer.load` takes; or
    vocab_size: the size of one to be trained on the text, once.
    seq_len: S, tokens in a row.
    lowercase: overrules what `vocab` says; true for a trained vocabulary
      unless given.
    workers: processes.
    heldout_fraction: share of the documents kept for evaluation.

  Returns:
    The corpus, opened.

  Raises:
    UserError: no such files, both or neither of `vocab` and `vocab_size`, or
      what `prepare_corpus` raises.
  """
  if isinstance(patterns, str):
    patterns = _split(patterns)
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
  return preparation.prepare_corpus(
    _find(patterns, '--input'),
    pathlib.Path(output),
    tokenizer,
    seq_len,
    workers=workers,
    heldout_fraction=heldout_fraction,
  )


def prepare_text(
  text: str,
  directory: str | pathlib.Path,
  *,
  vocab: str = '',
  vocab_size: int,
  seq_len: int,
) -> pathlib.Path:
  """Prepares text for a job that names it, under a name that it implies.

  Args:
    text: names or glob patterns of text files, separated by commas.
    directory: where prepared corpora are put.
    vocab: an existing vocabulary; empty to train one of
    vocab_size: tokens.
    seq_len: S.

  Returns:
    The corpus's folder: the same for the same contents and settings, so that
    the work is done once and no change of them goes unnoticed.

  Raises:
    UserError: as `prepare`.
  """
  patterns = _split(text)
  hashes = [text_files.file_hash(path) for path in _find(patterns, 'data.text')]
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
  )
  return folder


def _split(text: str) -> list[str]:
  """The patterns of a list with commas."""
  return [part.strip() for part in text.split(',') if part.strip()]


def _find(patterns: Sequence[str], key: str) -> list[pathlib.Path]:
  """The files of all patterns, each once; `key` is what named them."""
  found: dict[pathlib.Path, None] = {}
  for pattern in patterns:
    if pattern.startswith('tfds:'):
      raise UserError(
        f'{key}={pattern}: only text files can be prepared yet; write the '
        'text to files, a blank line between documents.'
      )
    paths = [pathlib.Path(name) for name in sorted(glob.glob(pattern))]
    paths = [path for path in paths if path.is_file()]
    if not paths:
      raise UserError(
        f'{key}={pattern}: there is no such file; patterns are relative to '
        f'{pathlib.Path.cwd()}.'
      )
    found.update(dict.fromkeys(paths))
  if not found:
    raise UserError(f'no {key} is given: name the text files to prepare.')
  return list(found)


def _command() -> None:
  if not _OUTPUT.value:
    raise UserError('no --output is given: name the folder to make.')
  prepare(
    [command_line.expand_home(pattern) for pattern in _INPUT.value],
    command_line.expand_home(_OUTPUT.value),
    vocab=_VOCAB.value and command_line.expand_home(_VOCAB.value),
    vocab_size=_VOCAB_SIZE.value,
    seq_len=_SEQ_LEN.value,
    lowercase=_LOWERCASE.value,
    workers=_WORKERS.value,
    heldout_fraction=_HELDOUT_FRACTION.value,
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
