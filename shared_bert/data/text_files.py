"""Plain and packed text files as a stream of documents or of lines."""

import bz2
import gzip
import hashlib
import lzma
import pathlib
import zlib
from collections.abc import Iterator, Sequence
from typing import IO, Any

from shared_bert.errors import UserError

# A document longer than this (in bytes) is cut at the end of a line, so that
# text without blank lines needs no more memory than other text.
_LONGEST_DOCUMENT = 16 * 2**20
_OPENERS: dict[str, Any] = {
  '.xz': lzma.open,
  '.gz': gzip.open,
  '.bz2': bz2.open,
}

# Endings of the names of packed files.
PACKED = tuple(_OPENERS)


def read_documents(path: pathlib.Path) -> Iterator[tuple[list[str], int]]:
  """Reads the documents of a file, which blank lines separate.

  Args:
    path: UTF-8 text, with or without a byte-order mark, packed if its name
      ends in `.xz`, `.gz` or `.bz2`.

  Yields:
    The document's lines, stripped and none empty, and the bytes of (unpacked)
    text read so far.

  Raises:
    UserError: the file cannot be unpacked, or is not UTF-8.
  """
  lines: list[str] = []
  size = offset = 0
  with _open(path) as stream:
    for number, raw in enumerate(_lines(path, stream)):
      text = _decode(path, raw, offset)
      offset += len(raw)
      if number == 0:
        text = text.removeprefix('\ufeff')
      text = text.strip()
      if text:
        lines.append(text)
        size += len(raw)
      if lines and (not text or size >= _LONGEST_DOCUMENT):
        yield lines, offset
        lines, size = [], 0
  if lines:
    yield lines, offset


def read_lines(path: pathlib.Path) -> Iterator[tuple[int, str]]:
  """Reads the lines of a file as they stand.

  Lines end at a line feed only: Python's `splitlines` would break sentences at
  characters such as U+2028.

  Args:
    path: as `read_documents` takes.

  Yields:
    Line number, from 1, and the line without its end or a byte-order mark.

  Raises:
    UserError: as `read_documents`; the sentence names the line.
  """
  with _open(path) as stream:
    for number, raw in enumerate(_lines(path, stream), start=1):
      try:
        line = raw.decode('utf-8-sig' if number == 1 else 'utf-8')
      except UnicodeDecodeError as error:
        raise UserError(
          f'{path}, line {number}: not UTF-8 ({error.reason}). Save the file '
          'as UTF-8, or fetch it again.'
        ) from error
      yield number, line.removesuffix('\n').removesuffix('\r')


def sample_lines(
  paths: Sequence[pathlib.Path], num_bytes: int
) -> Iterator[str]:
  """The beginning of every file, up to a total of about `num_bytes`.

  Args:
    paths: text files, as `read_documents` takes.
    num_bytes: bytes of unpacked text; each file has an equal share.

  Yields:
    Lines.

  Raises:
    UserError: as `read_documents`.
  """
  share = num_bytes // max(1, len(paths))
  for path in paths:
    for lines, offset in read_documents(path):
      yield from lines
      if offset >= share:
        break


def file_hash(path: pathlib.Path) -> str:
  """Hex sha256 over the bytes of a file as it lies on disk."""
  with path.open('rb') as stream:
    return hashlib.file_digest(stream, 'sha256').hexdigest()


def _open(path: pathlib.Path) -> IO[bytes]:
  """The file's unpacked bytes."""
  if '.tar' in path.suffixes or path.suffix in ('.zip', '.tgz', '.zst', '.7z'):
    raise UserError(
      f'{path} is an archive of a kind that is not read; unpack it and name '
      'the text files (.xz, .gz and .bz2 of a single text are read).'
    )
  try:
    return _OPENERS.get(path.suffix, open)(path, 'rb')
  except OSError as error:
    raise UserError(
      f'Cannot read {path} ({error.strerror}); check that it is a file that '
      'you may read.'
    ) from error


def _lines(path: pathlib.Path, stream: IO[bytes]) -> Iterator[bytes]:
  """Lines with their ends, and a sentence where unpacking fails."""
  try:
    yield from stream
  except (lzma.LZMAError, zlib.error, EOFError, OSError) as error:
    raise UserError(
      f'{path} cannot be read to its end ({error}); it may be damaged or '
      'incomplete: fetch it again.'
    ) from error


def _decode(path: pathlib.Path, raw: bytes, offset: int) -> str:
  """A line of UTF-8; `offset` is where it starts in the unpacked text."""
  try:
    return raw.decode('utf-8')
  except UnicodeDecodeError as error:
    raise UserError(
      f'{path} is not UTF-8 text: byte {offset + error.start} of the '
      f'(unpacked) text is 0x{raw[error.start]:02x}; convert the file, for '
      'instance with iconv, or leave it out.'
    ) from error
