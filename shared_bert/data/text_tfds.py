"""Text out of TensorFlow Datasets (TFDS): `lm1b`, `wikipedia/20230601.en`, ….

A set is prepared once as ArrayRecord files, which are read as they are, without
TensorFlow. An example of its split `train` is a document.
"""

import dataclasses
import difflib
import os
import pathlib
import re
from collections.abc import Iterator
from typing import Any

from shared_bert import errors
from shared_bert.data import tfds_sets
from shared_bert.data.record_files import document_lines
from shared_bert.data.table_files import listed

_SPLIT = 'train'
_RECORDS = 1000  # read at a time
# wiki40b's marks of structure, each on a line of its own but the last.
_WIKI40B = 'wiki40b/'
_WIKI40B_MARKS = {'_START_ARTICLE_', '_START_SECTION_', '_START_PARAGRAPH_'}
_WIKI40B_NEWLINE = '_NEWLINE_'


@dataclasses.dataclass(frozen=True)
class Shard:
  """A file of a prepared set.

  Attributes:
    path: the file.
    name: set, version and file, such as `lm1b/1.1.0/lm1b-train.array_record-…`.
    num_records: that it holds.
  """

  path: pathlib.Path
  name: str
  num_records: int


def find_shards(
  name: str, key: str, feature: str, data_dir: str | os.PathLike[str]
) -> list[Shard]:
  """Prepares a set if need be, and lists the files of its split `train`.

  Args:
    name: the set as TFDS calls it, `lm1b`, `c4/en`, `c4/en:3.1.0`; or one of
      your own that lies prepared in `data_dir`.
    key: the flag or the config's key that holds the name, for sentences.
    feature: that holds the text.
    data_dir: TFDS's folder.

  Returns:
    The files in their order.

  Raises:
    UserError: there is no such set, split or feature, or what
      `tfds_sets.prepare` raises.
  """
  wanted = tfds_sets.TfdsSet(
    name=name,
    make=lambda root: _builder(name, key, root),
    what=f'{key}=tfds:{name}',
    instead='name text files',
  )
  builder = tfds_sets.prepare(wanted, data_dir)
  where = f'{key}=tfds:{name}'
  splits = builder.info.splits
  if _SPLIT not in splits:
    raise errors.UserError(
      f'{where} has no split {_SPLIT!r}, but {listed(list(splits))}; name '
      'another set.'
    )
  features = builder.info.features
  texts = [name for name in features if _is_text(features[name])]
  if feature not in texts:
    raise errors.UserError(
      f'{where} has no text {feature!r}, but '
      f'{listed(texts) or "none at all"}. Set --text_key (in a config '
      'data.text_key) to one of them.'
    )
  split = splits[_SPLIT]
  return [
    Shard(path, f'{builder.info.full_name}/{path.name}', num_records)
    for path, num_records in zip(
      map(pathlib.Path, split.filepaths), split.shard_lengths, strict=True
    )
  ]


def read_shard(shard: Shard, feature: str) -> Iterator[tuple[list[str], int]]:
  """Reads a document of every record.

  Args:
    shard: of `find_shards`.
    feature: that holds the text.

  Yields:
    As `text_files.read_documents`; bytes are those of the texts.

  Raises:
    UserError: the file is damaged, or array_record is not installed.
  """
  try:
    from array_record.python import array_record_data_source
  except ImportError as error:
    raise errors.UserError(
      f'{shard.path} needs {error.name or error}, which is not installed; '
      'install it, or name text files.'
    ) from error
  offset = 0
  try:
    source = array_record_data_source.ArrayRecordDataSource(str(shard.path))
    if len(source) != shard.num_records:
      raise RuntimeError(f'{len(source)} records, not {shard.num_records}')
    for start in range(0, shard.num_records, _RECORDS):
      stop = min(start + _RECORDS, shard.num_records)
      records = tfds_sets.read_records(source, start, stop)
      for number, record in enumerate(records, start=start):
        # A file that is cut at 64 KiB has every record, and nothing in it.
        if feature not in record:
          raise RuntimeError(f'a record without {feature}')
        raw = record[feature].bytes_list.value[0]
        offset += len(raw)
        text = raw.decode()
        if shard.name.startswith(_WIKI40B):
          text = text.replace(_WIKI40B_NEWLINE, '\n')
        where = f'{shard.path}, record {number}'
        lines = document_lines(where, feature, text)
        if shard.name.startswith(_WIKI40B):
          lines = [line for line in lines if line not in _WIKI40B_MARKS]
        if lines:
          yield lines, offset
  except (RuntimeError, OSError, UnicodeDecodeError, IndexError) as error:
    sentence = tfds_sets.damaged(shard.path.parent, error)
    raise errors.UserError(sentence) from error


def _builder(name: str, key: str, root: pathlib.Path) -> Any:
  """TFDS's builder of a set; an error with a near name if there is none."""
  import tensorflow_datasets as tfds

  try:
    # Else a set of somebody else's, which asks the internet what it is.
    if not re.fullmatch(r'[^:]+(:[\d.*]+)?', name):
      raise ValueError('a namespace')
    return tfds.builder(name, data_dir=root)
  except (ValueError, AssertionError) as error:
    base, _, config = name.partition(':')[0].partition('/')
    names = tfds.list_builders(with_community_datasets=False)
    near: list[str] = difflib.get_close_matches(base, names, n=1)
    if base in names:
      configs = list(tfds.builder_cls(base).builder_configs)
      close = difflib.get_close_matches(config, configs, n=3)
      near = [f'{base}/{other}' for other in close or configs[:3]] or [base]
    hint = f' Did you mean {listed(near)}?' if near else ''
    raise errors.UserError(
      f'{key}=tfds:{name}: TensorFlow Datasets has no such set, and neither '
      f'has {root}.{hint}'
    ) from error


def _is_text(feature: Any) -> bool:
  """Whether a feature is one string."""
  return feature.shape == () and feature.np_dtype in (str, object)
