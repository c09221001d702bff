"""Files as streams of their unpacked bytes.

A stream that ends early or holds something else raises while it is read; what
it raises is one of `DAMAGED`.
"""

import bz2
import gzip
import io
import lzma
import pathlib
import sys
import tarfile
import zlib
from typing import IO, Any

from shared_bert.errors import UserError

# What reading a damaged file may raise.
DAMAGED = (lzma.LZMAError, zlib.error, EOFError, OSError, tarfile.TarError)

_OPENERS: dict[str, Any] = {
  '.xz': lzma.open,
  '.gz': gzip.open,
  '.bz2': bz2.open,
  '.zst': lambda stream, mode: _open_zstd(stream),
}
# Endings of the names of packed files.
PACKED = tuple(_OPENERS)
# What packs the archives of these endings.
_SHORT = {
  '.tgz': '.gz',
  '.txz': '.xz',
  '.tbz': '.bz2',
  '.tbz2': '.bz2',
  '.tzst': '.zst',
}
PACKED_TARS = tuple(_SHORT)
_ZSTD_BLOCK = 2**17
# zstd's largest window, 2 GiB, what `zstd --long=31` writes.
_ZSTD_WINDOW = 2**31


def open_packed(path: pathlib.Path) -> IO[bytes]:
  """The file's bytes, unpacked if its name ends in one of `PACKED`.

  Args:
    path: any file.

  Raises:
    UserError: it cannot be opened, is packed and empty, or the package that
      unpacks it is missing.
  """
  packing = _packing(path.name)
  try:
    if packing and not path.stat().st_size:
      raise UserError(
        f'{path} has no bytes at all, which no {packing} file has; fetch it '
        'again.'
      )
    return _OPENERS.get(packing, open)(path, 'rb')
  except ImportError as error:
    raise _no_zstd(str(path)) from error
  except OSError as error:
    raise UserError(
      f'Cannot read {path} ({error.strerror}); check that it is a file that '
      'you may read.'
    ) from error


def unpack(place: str, stream: IO[bytes], name: str) -> IO[bytes]:
  """As `open_packed`, for a file within another.

  Args:
    place: what a sentence calls it.
    stream: its bytes.
    name: its name, whose end says how it is packed.

  Raises:
    UserError: the package that unpacks it is missing.
  """
  packing = _packing(name)
  try:
    return _OPENERS[packing](stream, 'rb') if packing else stream
  except ImportError as error:
    raise _no_zstd(place) from error


def _packing(name: str) -> str:
  """One of `PACKED`, or nothing."""
  ending = pathlib.PurePath(name).suffix.lower()
  return ending if ending in PACKED else _SHORT.get(ending, '')


def _no_zstd(place: str) -> UserError:
  return UserError(
    f'{place} is packed by Zstandard, which needs Python 3.14 or the package '
    'zstandard; install it (pip install zstandard), or unpack the file.'
  )


def _zstd() -> tuple[Any, type[Exception]]:
  """What makes an object that unpacks one frame, and what that raises."""
  if sys.version_info >= (3, 14):
    from compression import zstd

    window = {zstd.DecompressionParameter.window_log_max: 31}
    return lambda: zstd.ZstdDecompressor(options=window), zstd.ZstdError
  import zstandard

  options = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW)
  return options.decompressobj, zstandard.ZstdError


def _open_zstd(file: pathlib.Path | IO[bytes]) -> IO[bytes]:
  make, error = _zstd()
  if isinstance(file, pathlib.Path):
    file = file.open('rb')
  return io.BufferedReader(_ZstdStream(file, make, error), _ZSTD_BLOCK)


class _ZstdStream(io.RawIOBase):
  """All frames of a Zstandard file, one after another.

  The readers of the package zstandard take a file that is cut short for one
  that ends there.
  """

  def __init__(self, file: IO[bytes], make: Any, error: type[Exception]):
    super().__init__()
    self._file = file
    self._make = make
    self._error = error
    self._frame: Any = make()
    self._packed = b''  # behind the end of a frame
    self._plain = memoryview(b'')  # unpacked and not read yet

  def readable(self) -> bool:
    return True

  def close(self) -> None:
    self._file.close()
    super().close()

  def readinto(self, buffer: Any) -> int:
    while not self._plain:
      packed = self._packed or self._file.read(_ZSTD_BLOCK)
      self._packed = b''
      if not packed:
        if self._frame is not None:
          raise EOFError('it ends within a frame')
        return 0
      if self._frame is None:
        self._frame = self._make()
      try:
        self._plain = memoryview(self._frame.decompress(packed))
      except self._error as error:
        raise OSError(str(error)) from error
      if self._frame.eof:
        self._packed = self._frame.unused_data
        self._frame = None
    count = min(len(buffer), len(self._plain))
    buffer[:count] = self._plain[:count]
    self._plain = self._plain[count:]
    return count
