"""Rows on disk: files that are written whole, and checked where they are read.

A file of rows is an ordinary `.npy` file. Its checksums are in the corpus's
manifest: one of its head, and one of each block of rows, which is compared when
a row of the block is asked for first. So damage anywhere is found before it is
trained on, and nothing has to be read twice.
"""

import hashlib
import io
import mmap
import os
import pathlib
import secrets
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from shared_bert.errors import UserError

# Small enough to be read for the sake of one row, large enough for checksums
# to be few.
_BLOCK_BYTES = 2**16


def block_rows(seq_len: int, dtype: np.dtype) -> int:
  """Rows that share a checksum."""
  return max(1, _BLOCK_BYTES // (seq_len * dtype.itemsize))


def write_file(path: pathlib.Path, parts: Sequence[Any]) -> None:
  """Writes a file so that it is on disk whole or not there at all.

  Args:
    path: where to; its folder must exist.
    parts: contiguous bytes-like objects, one after the other.

  Raises:
    OSError: it cannot be written.
  """
  # Another process may be writing the same bytes, if its parent was killed; on
  # another machine it may even have the number of this one.
  draft = path.with_name(f'{path.name}.{secrets.token_hex(4)}.tmp')
  try:
    with draft.open('wb') as stream:
      for part in parts:
        stream.write(part)
      stream.flush()
      os.fsync(stream.fileno())
    draft.rename(path)
  except BaseException:
    draft.unlink(missing_ok=True)
    raise


def write_rows(path: pathlib.Path, rows: np.ndarray) -> dict[str, Any]:
  """Writes a file of rows.

  Args:
    path: where to.
    rows: [N, S], or [N]: labels, which are one block.

  Returns:
    What the manifest says of it: `bytes`, `sha256`, `rows`, and `crc32`, eight
    hexadecimal digits for the head and for each block of rows.

  Raises:
    OSError: it cannot be written.
  """
  rows = np.ascontiguousarray(rows)
  head = _head(rows.shape, rows.dtype)
  data = rows.reshape(-1).view(np.uint8).data
  digest = hashlib.sha256(head)
  digest.update(data)
  step = len(data)
  if rows.ndim > 1:
    step = block_rows(rows.shape[1], rows.dtype) * rows[:1].nbytes
  sums = [zlib.crc32(head)]
  sums += [
    zlib.crc32(data[start : start + step])
    for start in range(0, len(data), step or 1)
  ]
  write_file(path, [head, data])
  return {
    'bytes': len(head) + len(data),
    'sha256': digest.hexdigest(),
    'rows': len(rows),
    'crc32': ''.join(f'{value:08x}' for value in sums),
  }


def _head(shape: tuple[int, ...], dtype: np.dtype) -> bytes:
  """What stands before the data of a .npy file."""
  stream = io.BytesIO()
  np.lib.format.write_array_header_1_0(
    stream,
    {
      'descr': np.lib.format.dtype_to_descr(dtype),
      'fortran_order': False,
      'shape': shape,
    },
  )
  return stream.getvalue()


class _File:
  """One file of rows, mapped into memory."""

  def __init__(self, path: pathlib.Path, facts: dict, seq_len: int, dtype):
    self._path = path
    self._step = block_rows(seq_len, dtype)
    self._sums = np.frombuffer(bytes.fromhex(facts['crc32']), '>u4')
    num_rows = facts['rows']
    data_bytes = num_rows * seq_len * dtype.itemsize
    head_bytes = facts['bytes'] - data_bytes
    try:
      with path.open('rb') as stream:
        mapped = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError) as error:
      raise UserError(
        f'The corpus file {path} cannot be opened ({error}); check that it can '
        'be read, and `ulimit -n` where there are many files.'
      ) from error
    expected = 1 + -(-num_rows // self._step)
    if head_bytes < 0 or len(self._sums) != expected:
      raise _damage(path, 'does not fit its manifest')
    if zlib.crc32(mapped[:head_bytes]) != self._sums[0]:
      raise _damage(path, 'has another head than was written')
    self.rows = np.frombuffer(
      mapped, dtype, num_rows * seq_len, head_bytes
    ).reshape(num_rows, seq_len)
    self._unchecked = np.ones(len(self._sums) - 1, bool)
    self._done = not num_rows

  def check(self, rows: np.ndarray | range) -> None:
    """Compares the blocks of these rows, those that never were."""
    if self._done:
      return
    if isinstance(rows, range):
      first, last = rows.start // self._step, -(-rows.stop // self._step)
      blocks = first + np.flatnonzero(self._unchecked[first:last])
    else:
      of_rows = rows // self._step
      blocks = np.unique(of_rows[self._unchecked[of_rows]])
    for block in blocks.tolist():
      start = block * self._step
      data = self.rows[start : start + self._step]
      if zlib.crc32(data.data) != self._sums[1 + block]:
        last = min(start + self._step, len(self.rows)) - 1
        raise _damage(
          self._path, f'has not the rows {start} to {last} that were written'
        )
      self._unchecked[block] = False
    self._done = not self._unchecked.any()


def _damage(path: pathlib.Path, what: str) -> UserError:
  return UserError(
    f'The corpus {path.parent} is damaged: {path.name} {what}; restore the '
    'file, or prepare the corpus again.'
  )


class RowFiles:
  """The rows of several files as one array to be indexed.

  Takes integers, slices and integer arrays, as NumPy does along the first axis,
  and gives copies. Rows are read where they are asked for.

  Attributes:
    shape: (N, S).
    dtype: of the ids.
    ndim: 2.
  """

  ndim = 2

  def __init__(
    self,
    folder: pathlib.Path,
    files: dict[str, dict],
    seq_len: int,
    dtype: np.dtype,
  ):
    """Maps the files.

    Args:
      folder: that holds them.
      files: name -> what `write_rows` returned.
      seq_len: S.
      dtype: of the ids.

    Raises:
      UserError: a file's head is damaged, or it cannot be opened.
    """
    # A file without rows would only be a place to trip over.
    self._files = [
      file
      for name, facts in files.items()
      if len((file := _File(folder / name, facts, seq_len, dtype)).rows)
    ]
    sizes = [len(file.rows) for file in self._files]
    self._starts = np.cumsum([0, *sizes])
    self.shape = (int(self._starts[-1]), seq_len)
    self.dtype = dtype

  def __len__(self) -> int:
    return self.shape[0]

  def __array__(self, dtype=None, copy=None) -> np.ndarray:
    del copy  # always one
    return self[:].astype(dtype or self.dtype, copy=False)

  def __getitem__(self, key) -> np.ndarray:
    """Rows of the files.

    Args:
      key: an integer, a slice, or integers [n] in an array or list.

    Returns:
      [S] for an integer, else [n, S]; a copy.

    Raises:
      IndexError: there is no such row.
      UserError: a block of rows is not what was written.
    """
    if isinstance(key, slice):
      start, stop, step = key.indices(len(self))
      if step == 1:
        return self._consecutive(start, max(start, stop))
      key = np.arange(start, stop, step)
    rows = np.asarray(key)
    if rows.ndim == 0:
      return self[rows[None]][0]
    if rows.ndim > 1 or (rows.size and rows.dtype.kind not in 'iu'):
      raise IndexError(f'rows are chosen by integers [n], not by {key!r}')
    rows = rows.astype(np.int64)
    rows[rows < 0] += len(self)
    if rows.size and not 0 <= rows.min() <= rows.max() < len(self):
      raise IndexError(f'a row is outside of the {len(self)} that there are')
    if len(self._files) == 1:
      return self._gather(0, rows)
    # Together what lies in one file, then back into the order asked for.
    taken = np.empty((len(rows), self.shape[1]), self.dtype)
    order = np.argsort(rows)
    ascending = rows[order]
    bounds = np.searchsorted(ascending, self._starts)
    for number in np.flatnonzero(np.diff(bounds)).tolist():
      first, last = bounds[number], bounds[number + 1]
      within = ascending[first:last] - self._starts[number]
      taken[order[first:last]] = self._gather(number, within)
    return taken

  def _gather(self, number: int, rows: np.ndarray) -> np.ndarray:
    file = self._files[number]
    file.check(rows)
    return file.rows.take(rows, axis=0)

  def _consecutive(self, start: int, stop: int) -> np.ndarray:
    parts = [np.empty((0, self.shape[1]), self.dtype)]
    for number, file in enumerate(self._files):
      first = max(0, start - int(self._starts[number]))
      last = min(len(file.rows), stop - int(self._starts[number]))
      if first < last:
        file.check(range(first, last))
        parts.append(file.rows[first:last])
    return np.concatenate(parts)


def read_labels(path: pathlib.Path, facts: dict) -> np.ndarray:
  """Reads a file of labels.

  Args:
    path: of the file.
    facts: what `write_rows` returned.

  Returns:
    uint8 [N].

  Raises:
    UserError: it is not what was written.
  """
  data = path.read_bytes()
  if hashlib.sha256(data).hexdigest() != facts['sha256']:
    raise _damage(path, 'has not the contents that were written')
  return np.frombuffer(data, np.uint8)[len(data) - facts['rows'] :]
