"""Tokenised blocks of documents on disk, between two stages of preparation.

A spill holds the documents of one block, those of a shard together, behind an
index: int64 [shards, 4], for each shard where its part begins in the file, and
its documents, lines and tokens. A part has the columns of `Documents` one after
the other.
"""

import os
import pathlib
from collections.abc import Iterable

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
  of_shards: list[list[Document]] = [[] for _ in range(num_shards)]
  for shard, document in documents:
    of_shards[shard].append(document)
  index = np.zeros((num_shards, _COLUMNS), '<i8')
  parts = []
  start = index.nbytes
  for shard, members in enumerate(of_shards):
    if not members:
      continue
    table = Documents.of(members, dtype)
    index[shard] = (
      start,
      len(table.digests),
      len(table.line_lengths),
      len(table.ids),
    )
    parts += [column.tobytes() for column in table]
    start += sum(column.nbytes for column in table)
  row_files.write_file(path, [index.tobytes(), *parts])


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
        tables.append(_table(handle, start, sizes, dtype, path))
    finally:
      os.close(handle)
  return Documents.joined(tables)


def _table(
  handle: int, start: int, sizes: list[int], dtype: np.dtype, path: pathlib.Path
) -> Documents:
  """The part of a spill that begins at `start`."""
  documents, lines, tokens = sizes
  columns = (
    (np.dtype('<u8'), (documents, 2)),
    (np.dtype('<u4'), (documents,)),
    (np.dtype('<u4'), (documents,)),
    (np.dtype('<u4'), (lines,)),
    (dtype, (tokens,)),
  )
  size = sum(kind.itemsize * int(np.prod(shape)) for kind, shape in columns)
  data = _read(handle, size, start, path)
  arrays, place = [], 0
  for kind, shape in columns:
    count = int(np.prod(shape))
    arrays.append(np.frombuffer(data, kind, count, place).reshape(shape))
    place += count * kind.itemsize
  return Documents(*arrays)


def _read(handle: int, size: int, start: int, path: pathlib.Path) -> bytes:
  data = os.pread(handle, size, start)
  if len(data) != size:
    raise OSError(f'{path} is cut short')
  return data
