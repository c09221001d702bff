"""Tokenised blocks of documents on disk, between two stages of preparation.

A spill holds the documents of one block, those of a shard together, behind an
index: int64 [shards, 4], for each shard where its part begins in the file, and
its documents, lines and tokens. A part has the columns of `Documents` one after
the other, which is how a shuffle of Beam's carries them too.
"""

import os
import pathlib
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from shared_bert.data import row_files
from shared_bert.data.documents import Document, Documents

_COLUMNS = 4


def write_spill(
  path: pathlib.Path,
  documents: Iterable[tuple[int, Document]],
  num_shards: int,
  dtype: np.dtype,
) -> None:
  """Writes a spill, whole or not at all.

  Args:
    path: where to.
    documents: shard and document.
    num_shards: shards that there are.
    dtype: of the ids.

  Raises:
    OSError: it cannot be written.
  """
  index = np.zeros((num_shards, _COLUMNS), '<i8')
  parts = []
  start = index.nbytes
  for shard, (sizes, part) in parts_of_shards(documents, dtype).items():
    index[shard] = (start, *sizes)
    parts.append(part)
    start += len(part)
  row_files.write_file(path, [index.tobytes(), *parts])


def parts_of_shards(
  documents: Iterable[tuple[int, Document]], dtype: np.dtype
) -> Mapping[int, tuple[Sequence[int], bytes]]:
  """Puts the documents of each shard into the bytes of a part.

  Args:
    documents: shard and document.
    dtype: of the ids.

  Returns:
    Shard -> its documents, lines and tokens, and the part; ascending, without
    shards that have no document.
  """
  of_shards: dict[int, list[Document]] = {}
  for shard, document in documents:
    of_shards.setdefault(shard, []).append(document)
  parts = {}
  for shard in sorted(of_shards):
    table = Documents.of(of_shards[shard], dtype)
    sizes = len(table.digests), len(table.line_lengths), len(table.ids)
    parts[shard] = sizes, b''.join(column.tobytes() for column in table)
  return parts


def read_shard(
  paths: Iterable[pathlib.Path], shard: int, dtype: np.dtype
) -> Documents:
  """Reads the documents of a shard from all spills.

  Args:
    paths: of the spills.
    shard: which one.
    dtype: of the ids.

  Returns:
    The documents, in the order of the spills.

  Raises:
    OSError: a spill is missing or cut short.
  """
  tables = [Documents.of([], dtype)]
  for path in paths:
    handle = os.open(path, os.O_RDONLY)
    try:
      width = _COLUMNS * 8
      index = np.frombuffer(_read(handle, width, shard * width, path), '<i8')
      start, *sizes = index.tolist()
      if sizes[0]:
        part = _read(handle, _part_bytes(sizes, dtype), start, path)
        tables.append(read_part(sizes, part, dtype))
    finally:
      os.close(handle)
  return Documents.joined(tables)


def read_part(sizes: Sequence[int], part: bytes, dtype: np.dtype) -> Documents:
  """The documents of a part.

  Args:
    sizes: its documents, lines and tokens.
    part: of `parts_of_shards`.
    dtype: of the ids.

  Returns:
    The documents, as views of `part`.
  """
  arrays, place = [], 0
  for kind, shape in _columns(sizes, dtype):
    count = int(np.prod(shape))
    arrays.append(np.frombuffer(part, kind, count, place).reshape(shape))
    place += count * kind.itemsize
  return Documents(*arrays)


def _columns(
  sizes: Sequence[int], dtype: np.dtype
) -> tuple[tuple[np.dtype, tuple[int, ...]], ...]:
  """Types and shapes of the columns of `Documents`."""
  documents, lines, tokens = sizes
  return (
    (np.dtype('<u8'), (documents, 2)),
    (np.dtype('<u4'), (documents,)),
    (np.dtype('<u4'), (documents,)),
    (np.dtype('<u4'), (lines,)),
    (dtype, (tokens,)),
  )


def _part_bytes(sizes: Sequence[int], dtype: np.dtype) -> int:
  return sum(
    kind.itemsize * int(np.prod(shape))
    for kind, shape in _columns(sizes, dtype)
  )


def _read(handle: int, size: int, start: int, path: pathlib.Path) -> bytes:
  data = os.pread(handle, size, start)
  if len(data) != size:
    raise OSError(f'{path} is cut short')
  return data
