"""The format of a prepared corpus: rows for pre-training, on disk.

A corpus is a folder:

  train-00000.npy, …, heldout-00000.npy, …
                        packed rows [N, S], uint16 where the vocabulary allows,
                        else int32: `[CLS] a… [SEP] [CLS] b… [SEP] [PAD]…`;
                        with pairs `[CLS] a… [SEP] b… [SEP] [PAD]…`
  train-00000.labels.npy, …
                        only with pairs, uint8 [N]: 0 where b follows a in the
                        text, 1 where it is from elsewhere
  vocab.txt, tokenizer_config.json
  audit.json, lengths.png
  manifest.json         what it was made of, counts, sizes, hashes, checksums

`preparation.py` writes it.
"""

import dataclasses
import hashlib
import json
import pathlib
from typing import Any

import numpy as np

from shared_bert.data import row_files, text_files
from shared_bert.data.row_files import RowFiles
from shared_bert.data.tokenizer import Tokenizer
from shared_bert.errors import UserError

FORMAT = 2
_IN_MANIFEST = (
  'seq_len',
  'dtype',
  'pairs',
  'heldout_fraction',
  'fingerprint',
  'tokenizer',
  'counts',
  'inputs',
  'files',
)


@dataclasses.dataclass(frozen=True)
class Corpus:
  """An opened corpus.

  Attributes:
    train: [N, S] uint16 or int32; mapped from disk and checked when it is read,
      unless it was made in memory.
    heldout: [M, S], the same of documents kept out of training; M may be 0.
    tokenizer: the tokenizer that made the ids.
    seq_len: S.
    manifest: the contents of manifest.json.
    fingerprint: hex digest over all the rows: the identity of the data.
    train_labels: uint8 [N] with next-sentence pairs, else None: 1 where the
      second part of a row is not what follows the first.
    heldout_labels: uint8 [M], the same of `heldout`.
  """

  train: np.ndarray | RowFiles
  heldout: np.ndarray | RowFiles
  tokenizer: Tokenizer
  seq_len: int
  manifest: dict
  fingerprint: str
  train_labels: np.ndarray | None = None
  heldout_labels: np.ndarray | None = None

  @property
  def has_pairs(self) -> bool:
    """Whether each row is a next-sentence pair."""
    return self.train_labels is not None


def open_corpus(
  path: str | pathlib.Path,
  seq_len: int | None = None,
  verify: bool = False,
) -> Corpus:
  """Opens a prepared corpus.

  Args:
    path: the folder that `prepare_corpus` made.
    seq_len: the length of rows that is expected; `None` takes any.
    verify: also hashes every file, which reads all of it. Without, rows are
      compared with their checksums when they are first read.

  Returns:
    The corpus; its rows are mapped, not read.

  Raises:
    UserError: not a corpus, not as it was written, or of another `seq_len`.
  """
  path = pathlib.Path(path)
  manifest = read_manifest(path)
  if seq_len not in (None, manifest['seq_len']):
    raise UserError(
      f'The corpus {path} has rows of {manifest["seq_len"]} tokens, not of '
      f'{seq_len}: set data.seq_len={manifest["seq_len"]}, or prepare another.'
    )
  files = manifest['files']
  for name, expected in files.items():
    file = path / name
    size = file.stat().st_size if file.is_file() else None
    if size != expected['bytes']:
      state = 'missing' if size is None else f'{size} bytes long'
      raise UserError(
        f'The corpus {path} is damaged: {name} is {state}, where its manifest '
        f'has {expected["bytes"]} bytes; prepare it again.'
      )
  tokenizer = Tokenizer.load(path)
  if tokenizer.sha256 != manifest['tokenizer']['sha256']:
    raise UserError(
      f'The vocabulary in {path} is not the one its rows were made with; '
      'prepare the corpus again.'
    )
  for name, expected in files.items():
    # Rows are many, and have checksums of their own.
    if (verify or 'crc32' not in expected) and (
      text_files.file_hash(path / name) != expected['sha256']
    ):
      raise UserError(
        f'The corpus {path} is damaged: {name} has not the contents that were '
        'written (its hash differs); prepare it again.'
      )

  dtype = np.dtype(manifest['dtype']).newbyteorder('<')

  def rows_of(side: str) -> RowFiles:
    return RowFiles(
      path, _files_of(files, side, '.npy'), manifest['seq_len'], dtype
    )

  def labels_of(side: str) -> np.ndarray | None:
    if not manifest['pairs']:
      return None
    parts = [
      row_files.read_labels(path / name, facts)
      for name, facts in _files_of(files, side, '.labels.npy').items()
    ]
    return np.concatenate([np.zeros(0, np.uint8), *parts])

  return Corpus(
    train=rows_of('train'),
    heldout=rows_of('heldout'),
    tokenizer=tokenizer,
    seq_len=manifest['seq_len'],
    manifest=manifest,
    fingerprint=manifest['fingerprint'],
    train_labels=labels_of('train'),
    heldout_labels=labels_of('heldout'),
  )


def _files_of(files: dict[str, dict], side: str, end: str) -> dict[str, dict]:
  """The shards of a side, in their order."""
  return {
    name: facts
    for name, facts in sorted(files.items())
    # A name has one dot more with labels.
    if name.startswith(f'{side}-') and name[name.index('.') :] == end
  }


def encode_manifest(manifest: dict[str, Any]) -> bytes:
  """A manifest as JSON that carries the hash of itself under `sha256`."""
  text = json.dumps({**manifest, 'sha256': _own_hash(manifest)}, indent=2)
  return f'{text}\n'.encode()


def _own_hash(manifest: dict[str, Any]) -> str:
  facts = {key: manifest[key] for key in manifest if key != 'sha256'}
  return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def read_manifest(path: pathlib.Path) -> dict:
  """Reads a corpus's manifest.

  Args:
    path: the corpus's folder.

  Returns:
    The manifest, of a format that this version reads.

  Raises:
    UserError: there is none, or it is damaged or of another format.
  """
  try:
    manifest = json.loads((path / 'manifest.json').read_text('utf-8'))
  except (FileNotFoundError, NotADirectoryError):
    raise UserError(
      f'{path} is not a prepared corpus, or its preparation was interrupted: '
      'it has no manifest.json; run `python -m shared_bert.prepare '
      f'--output={path} ...`.'
    ) from None
  except (ValueError, OSError) as error:
    raise UserError(
      f'The manifest of the corpus {path} is not readable ({error}); prepare '
      'the corpus again.'
    ) from error
  found = manifest.get('format') if isinstance(manifest, dict) else None
  if found != FORMAT:
    raise UserError(
      f'The corpus {path} has format {found}, this version reads format '
      f'{FORMAT}: prepare it again.'
    )
  missing = [name for name in _IN_MANIFEST if name not in manifest]
  if missing:
    raise UserError(
      f'The manifest of the corpus {path} lacks {", ".join(missing)}; prepare '
      'the corpus again.'
    )
  if manifest.get('sha256') != _own_hash(manifest):
    raise UserError(
      f'The corpus {path} is damaged: manifest.json is not what was written; '
      'prepare the corpus again.'
    )
  return manifest
