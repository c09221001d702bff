"""Plain and packed text files as a stream of documents or of lines."""

import hashlib
import pathlib
from collections.abc import Iterator
from typing import IO

from shared_bert.data import unpacking
from shared_bert.errors import UserError

PACKED = unpacking.PACKED

# A document longer than this (in bytes) is cut at the end of a line, so that
# text without blank lines needs no more memory than other text.
_LONGEST_DOCUMENT = 16 * 2**20
_ARCHIVES = ('.tar', *unpacking.PACKED_TARS, '.zip', '.7z', '.rar')

# How files begin that are no text, whatever they are called.
_BEGINNINGS = {
  b'\xff\xfe': 'text in UTF-16',
  b'\xfe\xff': 'text in UTF-16',
  b'\x1f\x8b': 'gzip (.gz)',
  b'\xfd7zXZ\0': 'xz (.xz)',
  b'BZh91AY&SY': 'bzip2 (.bz2)',
  b'\x28\xb5\x2f\xfd': 'Zstandard (.zst)',
  b'PK\x03\x04': 'zip (or an office document)',
  b"7z\xbc\xaf'\x1c": '7z',
  b'Rar!\x1a\x07': 'rar',
  b'%PDF-': 'PDF',
  b'PAR1': 'Parquet (.parquet)',
}


def read_documents(path: pathlib.Path) -> Iterator[tuple[list[str], int]]:
  """Reads the documents of a file, which blank lines separate.

  Args:
    path: UTF-8 text, with or without a byte-order mark, packed if its name
      ends in one of `PACKED`.

  Yields:
    The document's lines, stripped and none empty, and the bytes of (unpacked)
    text read so far.

  Raises:
    UserError: the file cannot be unpacked, or is not UTF-8.
  """
  with unpacking.open_packed(path) as stream:
    yield from split_documents(str(path), stream)


def split_documents(
  place: str, stream: IO[bytes]
) -> Iterator[tuple[list[str], int]]:
  """Reads documents as `read_documents` does, out of unpacked bytes.

  Args:
    place: what sentences call the stream.
    stream: the bytes.

  Yields:
    As `read_documents`.

  Raises:
    UserError: as `read_documents`.
  """
  lines: list[str] = []
  size = offset = 0
  for number, raw in enumerate(raw_lines(place, stream)):
    text = _decode(place, raw, offset)
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
  inner = path.with_suffix('') if path.suffix in PACKED else path
  if inner.suffix in _ARCHIVES:
    raise UserError(
      f'{path} is an archive of a kind that is not read; unpack it and name '
      f'the text files ({", ".join(PACKED)} of a single text are read).'
    )
  with unpacking.open_packed(path) as stream:
    for number, raw in enumerate(_stream_lines(str(path), stream), start=1):
      yield number, decode_line(str(path), number, raw)


def decode_line(place: str, number: int, raw: bytes) -> str:
  """A line of UTF-8 without its end or a byte-order mark.

  Args:
    place: what a sentence calls the file.
    number: of the line, from 1.
    raw: its bytes.

  Raises:
    UserError: it is not UTF-8; the sentence names the line.
  """
  try:
    line = raw.decode('utf-8-sig' if number == 1 else 'utf-8')
  except UnicodeDecodeError as error:
    raise UserError(
      f'{place}, line {number}: not UTF-8 ({error.reason}). Save the file '
      'as UTF-8, or fetch it again.'
    ) from error
  return line.removesuffix('\n').removesuffix('\r')


def file_hash(path: pathlib.Path) -> str:
  """Hex sha256 over the bytes of a file as it lies on disk."""
  with path.open('rb') as stream:
    return hashlib.file_digest(stream, 'sha256').hexdigest()


def raw_lines(place: str, stream: IO[bytes]) -> Iterator[bytes]:
  """Lines with their ends, if they look like text.

  Args:
    place: what a sentence calls the stream.
    stream: unpacked bytes.

  Raises:
    UserError: unpacking fails, or the beginning is that of another format.
  """
  for number, raw in enumerate(_stream_lines(place, stream)):
    if number == 0:
      _check_beginning(place, raw)
    yield raw


def damaged(place: str, error: Exception) -> UserError:
  """For what cannot be unpacked."""
  return UserError(
    f'{place} cannot be read to its end ({error}); it may be damaged or '
    'incomplete: fetch it again.'
  )


def _stream_lines(place: str, stream: IO[bytes]) -> Iterator[bytes]:
  """Lines with their ends, and a sentence where unpacking fails."""
  try:
    yield from stream
  except unpacking.DAMAGED as error:
    raise damaged(place, error) from error


def _check_beginning(place: str, line: bytes) -> None:
  """An error if a first line shows that this is no text in UTF-8."""
  for beginning, what in _BEGINNINGS.items():
    if line.startswith(beginning):
      raise UserError(
        f'{place} is not UTF-8 text: it begins as {what} does. Convert it to '
        'text, or give it the ending of what it is.'
      )
  # Later ones are noise, which the tokenizer removes.
  if b'\0' in line:
    raise UserError(
      f'{place} is not UTF-8 text: byte {line.index(0)} is NUL, so it is in '
      'UTF-16 or no text at all; convert it, or leave it out.'
    )


def _decode(place: str, raw: bytes, offset: int) -> str:
  """A line of UTF-8; `offset` is where it starts in the unpacked text."""
  try:
    return raw.decode('utf-8')
  except UnicodeDecodeError as error:
    raise UserError(
      f'{place} is not UTF-8 text: byte {offset + error.start} of the '
      f'(unpacked) text is 0x{raw[error.start]:02x}; convert the file, for '
      'instance with iconv, or leave it out.'
    ) from error
