"""The format of a prepared corpus: rows for pre-training, on disk.

A corpus is a folder:

  train.npy, heldout.npy   rows `[CLS] chunk [SEP] [PAD]...`, [N, S], uint16
                           where the vocabulary allows, else int32
  vocab.txt, tokenizer_config.json
  manifest.json            what it was made of, counts, sizes and hashes

`preparation.py` writes it.
"""

import dataclasses
import hashlib
import json
import pathlib

import numpy as np

from shared_bert.data import text_files
from shared_bert.data.tokenizer import Tokenizer
from shared_bert.errors import UserError

FORMAT = 1
_IN_MANIFEST = (
  'seq_len',
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
    train: [N, S] uint16 or int32, mapped from disk.
    heldout: [M, S], the same of documents kept out of training; M may be 0.
    tokenizer: the tokenizer that made the ids.
    seq_len: S.
    manifest: the contents of manifest.json.
    fingerprint: hex digest over all the rows: the identity of the data.
    train_labels: uint8 [N] where each row is a pair of texts: 0 if the second
      follows the first, 1 if it is a random one; else None.
    heldout_labels: [M], the same.
  """

  train: np.ndarray
  heldout: np.ndarray
  tokenizer: Tokenizer
  seq_len: int
  manifest: dict
  fingerprint: str
  train_labels: np.ndarray | None = None
  heldout_labels: np.ndarray | None = None


def open_corpus(
  path: str | pathlib.Path,
  seq_len: int | None = None,
  verify: bool = False,
) -> Corpus:
  """Opens a prepared corpus.

  Args:
    path: the folder that `prepare_corpus` made.
    seq_len: the length of rows that is expected; `None` takes any.
    verify: also hashes every file, which reads all of it.

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
  for name, expected in manifest['files'].items():
    file = path / name
    size = file.stat().st_size if file.is_file() else None
    if size != expected['bytes']:
      state = 'missing' if size is None else f'{size} bytes long'
      raise UserError(
        f'The corpus {path} is damaged: {name} is {state}, where its manifest '
        f'has {expected["bytes"]} bytes; prepare it again.'
      )
    if verify and text_files.file_hash(file) != expected['sha256']:
      raise UserError(
        f'The corpus {path} is damaged: {name} has not the contents that were '
        'written (its hash differs); prepare it again.'
      )
  tokenizer = Tokenizer.load(path)
  if tokenizer.sha256 != manifest['tokenizer']['sha256']:
    raise UserError(
      f'The vocabulary in {path} is not the one its rows were made with; '
      'prepare the corpus again.'
    )
  return Corpus(
    train=_load_rows(path / 'train.npy'),
    heldout=_load_rows(path / 'heldout.npy'),
    tokenizer=tokenizer,
    seq_len=manifest['seq_len'],
    manifest=manifest,
    fingerprint=manifest['fingerprint'],
  )


def _load_rows(path: pathlib.Path) -> np.ndarray:
  """Rows [N, S], mapped where there are any: nothing cannot be mapped."""
  try:
    with path.open('rb') as stream:
      np.lib.format.read_magic(stream)
      shape, _, _ = np.lib.format.read_array_header_1_0(stream)
    return np.load(path, mmap_mode='r' if shape[0] else None)
  except ValueError as error:
    raise UserError(
      f'{path} is damaged ({error}); prepare the corpus again.'
    ) from error


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
  except ValueError as error:
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
  return manifest


class RowFile:
  """A .npy file of rows that grows while it is written.

  Attributes:
    num_rows: rows written so far.
  """

  def __init__(self, path: pathlib.Path, seq_len: int, dtype: np.dtype):
    self._seq_len = seq_len
    self._dtype = dtype
    self._hash = hashlib.sha256()
    self.num_rows = 0
    self._stream = path.open('wb')
    self._write_header()
    self._start = self._stream.tell()

  def __enter__(self) -> 'RowFile':
    return self

  def __exit__(self, *unused) -> None:
    with self._stream:
      self._stream.seek(0)
      self._write_header()
      # NumPy leaves room in a header for the first axis to grow.
      assert self._stream.tell() == self._start

  def append(self, rows: np.ndarray) -> None:
    """Adds rows.

    Args:
      rows: int32 [n, S].
    """
    data = rows.astype(self._dtype).tobytes()
    self._stream.write(data)
    self._hash.update(data)
    self.num_rows += len(rows)

  def digest(self) -> str:
    """Identifies the rows so far.

    Returns:
      Hex sha256 over the bytes of the rows.
    """
    return self._hash.hexdigest()

  def _write_header(self) -> None:
    np.lib.format.write_array_header_1_0(
      self._stream,
      {
        'descr': np.lib.format.dtype_to_descr(self._dtype),
        'fortran_order': False,
        'shape': (self.num_rows, self._seq_len),
      },
    )
