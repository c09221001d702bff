"""Whatever text comes in, as documents: what `prepare --input` takes.

Plain and packed text, tar archives, JSON Lines, Parquet, and sets of
TensorFlow Datasets.
"""

import dataclasses
import glob
import os
import pathlib
from collections.abc import Iterator, Sequence
from typing import IO

from shared_bert.data import (
  record_files,
  tar_files,
  text_files,
  text_tfds,
  unpacking,
)
from shared_bert.errors import UserError

TFDS = 'tfds:'
_KINDS = {
  '.tar': 'tar',
  **dict.fromkeys(unpacking.PACKED_TARS, 'tar'),
  '.jsonl': 'jsonl',
  '.ndjson': 'jsonl',
  '.json': 'jsonl',  # as c4 and others call theirs
  '.parquet': 'parquet',
}
_REFUSED = {
  **dict.fromkeys(
    ('.zip', '.7z', '.rar'),
    'an archive of a kind that is not read; unpack it and name the text files',
  ),
  **dict.fromkeys(('.gpg', '.pgp', '.age'), 'encrypted; decrypt it first'),
}


@dataclasses.dataclass(frozen=True)
class Source:
  """One file of text; to be read from its beginning, by any process.

  Attributes:
    path: the file.
    kind: `text`, `tar`, `jsonl`, `parquet`, or `tfds` for a file of a prepared
      set.
    name: what a manifest calls it: not where it lies.
    text_key: the key, column or feature that holds the text of a record.
    num_records: of a file of a set; -1 elsewhere.
  """

  path: pathlib.Path
  kind: str
  name: str
  text_key: str = 'text'
  num_records: int = -1

  def describe(self) -> dict:
    """What it is, wherever it lies.

    Returns:
      `name`; `bytes` and `sha256` of the file; and how it is `read_as`: equal
      hashes mean equal documents only where this is equal as well.

    Raises:
      UserError: it cannot be read.
    """
    read_as = self.kind
    # An archive may hold JSON Lines.
    if self.kind != 'text':
      read_as += f':{self.text_key}'
    try:
      return {
        'name': self.name,
        'bytes': self.path.stat().st_size,
        'sha256': text_files.file_hash(self.path),
        'read_as': read_as,
      }
    except OSError as error:
      raise UserError(
        f'Cannot read {self.path} ({error.strerror}); check that it is a file '
        'that you may read.'
      ) from error


def file_source(path: pathlib.Path, text_key: str = 'text') -> Source:
  """A file, read by what its name ends in.

  Args:
    path: the file; an unknown ending is plain text.
    text_key: as `Source` has it.

  Raises:
    UserError: files of that name are not read.
  """
  return Source(path, _kind(str(path), path.name), path.name, text_key)


def patterns_of(text: str) -> list[str]:
  """The patterns of a list with commas, as `find_sources` takes them."""
  return [part.strip() for part in text.split(',') if part.strip()]


def find_sources(
  patterns: Sequence[str],
  key: str,
  text_key: str = 'text',
  data_dir: str | pathlib.Path = 'data',
) -> list[Source]:
  """The files of all patterns, each once.

  Args:
    patterns: names or glob patterns of files (`**` for any folders), or
      `tfds:NAME`, a set of TensorFlow Datasets, which is fetched and prepared
      if it is not there.
    key: the flag or the config's key that holds them, for sentences.
    text_key: the key, column or feature that holds the text of a record.
    data_dir: the folder of TensorFlow Datasets.

  Returns:
    Sources in the order of the patterns; those of a pattern by their names.

  Raises:
    UserError: nothing is found, or it is of a kind that is not read, or a set
      cannot be prepared.
  """
  found: dict[Source, None] = {}
  for pattern in patterns:
    if pattern.startswith(TFDS):
      name = pattern.removeprefix(TFDS)
      for shard in text_tfds.find_shards(name, key, text_key, data_dir):
        found[
          Source(
            shard.path,
            'tfds',
            TFDS + shard.name,
            text_key,
            shard.num_records,
          )
        ] = None
    else:
      for path in _glob(pattern, key):
        found[file_source(path, text_key)] = None
  if not found:
    raise UserError(f'no {key} is given: name the text files to prepare.')
  return list(found)


def read_documents(source: Source) -> Iterator[tuple[list[str], int]]:
  """Reads the documents of a source.

  Text is split at blank lines, that of an archive's members too; a record is
  one document.

  Args:
    source: of `find_sources`.

  Yields:
    The document's lines, stripped and none empty, and the bytes of (unpacked)
    text read so far.

  Raises:
    UserError: it is damaged or not what its name says; the sentence says
      where.
  """
  if source.kind == 'tfds':
    name = source.name.removeprefix(TFDS)
    shard = text_tfds.Shard(source.path, name, source.num_records)
    yield from text_tfds.read_shard(shard, source.text_key)
  elif source.kind == 'parquet':
    yield from record_files.read_parquet(source.path, source.text_key)
  else:
    place = str(source.path)
    with unpacking.open_packed(source.path) as stream:
      if source.kind == 'tar':
        yield from _read_tar(place, stream, source.text_key)
      else:
        yield from _read(source.kind, place, stream, source.text_key)


def sample_lines(sources: Sequence[Source], num_bytes: int) -> Iterator[str]:
  """The beginning of every source, up to a total of about `num_bytes`.

  Args:
    sources: of `find_sources`.
    num_bytes: bytes of unpacked text; each source has an equal share.

  Yields:
    Lines.

  Raises:
    UserError: as `read_documents`.
  """
  share = num_bytes // max(1, len(sources))
  for source in sources:
    for lines, offset in read_documents(source):
      yield from lines
      if offset >= share:
        break


def _read(
  kind: str, place: str, stream: IO[bytes], text_key: str
) -> Iterator[tuple[list[str], int]]:
  """The documents of text or of JSON Lines."""
  if kind == 'jsonl':
    return record_files.read_json_lines(place, stream, text_key)
  return text_files.split_documents(place, stream)


def _read_tar(
  place: str, stream: IO[bytes], text_key: str
) -> Iterator[tuple[list[str], int]]:
  """The documents of an archive's members, one after another."""
  before = 0
  for name, packed in tar_files.read_members(place, stream):
    offset = 0
    member = f'{place}, member {name}'
    kind = _kind(member, name)
    if kind in ('tar', 'parquet'):
      raise UserError(
        f'{member} cannot be read within another archive; unpack the outer '
        'one and name the files.'
      )
    file = unpacking.unpack(member, packed, name)
    for lines, offset in _read(kind, member, file, text_key):
      yield lines, before + offset
    before += offset


def _kind(place: str, name: str) -> str:
  """How files of this name are read; `place` is for sentences."""
  path = pathlib.PurePath(name.lower())
  is_packed = path.suffix in unpacking.PACKED
  ending = pathlib.PurePath(path.stem).suffix if is_packed else path.suffix
  if ending in _REFUSED:
    raise UserError(f'{place} is {_REFUSED[ending]}.')
  kind = _KINDS.get(ending, 'text')
  if is_packed and kind == 'parquet':
    raise UserError(
      f'{place} is a packed Parquet file, which cannot be read piece by piece; '
      'unpack it first.'
    )
  return kind


def _glob(pattern: str, key: str) -> list[pathlib.Path]:
  """The files of a pattern, in the order of their names."""
  names = [pattern]
  # A name may look like a pattern.
  if not os.path.lexists(pattern):
    names = sorted(glob.glob(pattern, recursive=True))
  files = [path for path in map(pathlib.Path, names) if path.is_file()]
  if files:
    return files
  if names:
    raise UserError(
      f'{key}={pattern}: {names[0]} is not a file but a folder or the like; '
      "name the files in it, such as 'folder/*.txt'."
    )
  raise UserError(
    f'{key}={pattern}: there is no such file; patterns are relative to '
    f'{pathlib.Path.cwd()}.'
  )
