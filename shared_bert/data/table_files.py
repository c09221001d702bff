"""CSV, TSV and JSON-lines files as named columns of texts.

CSV is that of RFC 4180: commas, quotation marks around what holds a comma, a
quotation mark or a line break, and a quotation mark within doubled. TSV knows
no quoting, as GLUE's files: a quotation mark is text, and a text holds neither
a tab nor a line break. JSON lines are one object a line; numbers, `true` and
`false` count as texts, spelled as in the file, so that the same data give the
same texts in every format.

All are UTF-8, with or without a byte-order mark; lines end with a line feed or
carriage return and line feed, which is a plain line feed within a CSV text.
Empty lines are skipped and counted.
"""

import collections
import contextlib
import csv
import dataclasses
import difflib
import functools
import json
import os
import pathlib
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from shared_bert import errors
from shared_bert.data import text_files

# Characters of one CSV text; the csv module's own limit is 2¹⁷. Whatever is
# longer is rather a quotation mark that was never closed.
_LONGEST_FIELD = 2**24
_MOST_NAMES = 10

# Number of the line where a record begins, and the record: the fields of a
# CSV or TSV line, a JSON object, or None for an empty line.
_Record = tuple[int, list[str] | dict[str, Any] | None]


@dataclasses.dataclass(frozen=True)
class Table:
  """Some columns of a file, N rows each.

  Attributes:
    path: the file.
    columns: column name to N texts.
    lines: the N numbers, from 1, of the lines where the rows begin.
    blank_lines: how many lines were empty.
  """

  path: pathlib.Path
  columns: dict[str, list[str]]
  lines: list[int]
  blank_lines: int


def read_table(
  path: str | os.PathLike[str],
  key: str,
  needed: Sequence[str],
  optional: Sequence[str] = (),
  column_keys: str = 'data.text_columns and data.label_column',
  *,
  names: Sequence[str] = (),
  quoted_tabs: bool = False,
) -> Table:
  """Reads columns of a file; other columns are left alone.

  Args:
    path: a file whose name ends in .csv, .tsv, .jsonl or .json (one object a
      line, too), and then in .gz, .xz or .bz2 if it is packed.
    key: the config key that names the file, for the sentences.
    needed: columns to read.
    optional: columns to read if they are there: in the header, or in the first
      object of JSON lines.
    column_keys: what names the columns, for the sentences.
    names: of the columns of a .csv or .tsv file without a header.
    quoted_tabs: a .tsv file is CSV with tabs in place of commas.

  Returns:
    The columns that were wanted and are there; at least one row.

  Raises:
    UserError: no such file, or a file that does not hold what it should; the
      sentence names the file and the line.
  """
  path = pathlib.Path(path)
  read_records = _reader(path, key)
  if quoted_tabs:
    read_records = functools.partial(_csv_records, delimiter='\t')
  header: list[str] | None = None
  columns: dict[str, list[str]] = {}
  lines: list[int] = []
  blank_lines = 0
  with _long_fields():
    for line, record in read_records(path):
      if record is None:
        blank_lines += 1
        continue
      if header is None:
        header = list(names or record)
        if isinstance(record, list):
          header = [name.strip() for name in header]
        for name in needed:
          _check_column(path, line, name, header, column_keys)
        there = [name for name in optional if name in header]
        for name in there:
          _check_column(path, line, name, header, column_keys)
        columns = {name: [] for name in (*needed, *there)}
        if isinstance(record, list) and not names:
          continue
      if isinstance(record, list):
        record = _named(path, line, header, record)
      for name, values in columns.items():
        if name not in record:
          _check_column(path, line, name, list(record), column_keys)
        values.append(_text(path, line, name, record[name]))
      for name in optional:
        if name in record and name not in columns:
          raise errors.UserError(
            f'{path}, line {line}: {name!r} is there, but the lines before '
            'have none. Write it in every line, or in none.'
          )
      lines.append(line)
  if header is None:
    raise errors.UserError(f'{key}={path} is empty; name a file with data.')
  if not lines:
    raise errors.UserError(
      f'{key}={path} has a header but no example; name a file with data.'
    )
  return Table(path, columns, lines, blank_lines)


def check(path: str | os.PathLike[str], key: str) -> None:
  """Refuses a file that `read_table` cannot open.

  Args:
    path: as there.
    key: as there.

  Raises:
    UserError: no such file, or one of another kind.
  """
  _reader(pathlib.Path(path), key)


def _reader(
  path: pathlib.Path, key: str
) -> Callable[[pathlib.Path], Iterator[_Record]]:
  """What reads files of this name; an error if the file cannot be opened."""
  inner = path.with_suffix('') if path.suffix in text_files.PACKED else path
  reader = _READERS.get(inner.suffix.lower())
  # Before the name is judged: a folder is named by mistake more often than a
  # format.
  if os.path.isdir(path):  # Path.is_dir raises where it may not look.
    raise errors.UserError(
      f'{key}={path} is a folder; name the file in it that is meant.'
    )
  if reader is None:
    raise errors.UserError(
      f'{key}={path}: the name must end in {", ".join(_READERS)}, and may have '
      f'{", ".join(text_files.PACKED)} behind it. Save a spreadsheet as CSV '
      'in UTF-8, or rename the file after what it holds.'
    )
  try:
    with path.open('rb'):
      return reader
  except FileNotFoundError as error:
    raise errors.UserError(
      f'{key}={path}: there is no such file (looked for {path.absolute()}); '
      'check the path.'
    ) from error
  except OSError as error:
    raise errors.UserError(
      f'{key}={path} cannot be opened ({error.strerror}); name a file that '
      'you may read.'
    ) from error


def _lines(path: pathlib.Path) -> Iterator[tuple[int, str]]:
  """Lines of text; an error if it is none."""
  for number, line in text_files.read_lines(path):
    if '\0' in line:
      raise errors.UserError(
        f'{path}, line {number}: a NUL byte, so this is not a text file, or '
        'one in UTF-16. Save it as UTF-8.'
      )
    yield number, line


@contextlib.contextmanager
def _long_fields() -> Iterator[None]:
  """Lets the csv module read long texts; its limit is the whole process's."""
  before = csv.field_size_limit(_LONGEST_FIELD)
  try:
    yield
  finally:
    csv.field_size_limit(before)


def _csv_records(path: pathlib.Path, delimiter: str = ',') -> Iterator[_Record]:
  # `strict`, because else a quotation mark that is not closed swallows the
  # rest of the file without a word.
  lines = (f'{line}\n' for _, line in _lines(path))
  reader = csv.reader(lines, delimiter=delimiter, strict=True)
  while True:
    line = reader.line_num + 1
    try:
      fields = next(reader)
    except StopIteration:
      return
    except csv.Error as error:
      raise errors.UserError(
        f'{path}: the record that begins in line {line} is not valid CSV '
        f'({error}). A text with a comma, a quotation mark or a line break '
        'stands in quotation marks, those within it are doubled, and lines '
        f'end with a line feed; a text has at most {_LONGEST_FIELD:,} '
        'characters.'
      ) from error
    yield line, fields or None


def _tsv_records(path: pathlib.Path) -> Iterator[_Record]:
  for number, line in _lines(path):
    yield number, line.split('\t') if line else None


def _json_records(path: pathlib.Path) -> Iterator[_Record]:
  # Numbers stay as they are spelled: 1.50 is the label '1.50', as in CSV.
  decoder = json.JSONDecoder(
    object_pairs_hook=_object,
    parse_int=str,
    parse_float=str,
    parse_constant=_refuse_constant,
  )
  for number, line in _lines(path):
    text = line.strip()
    if not text:
      yield number, None
      continue
    try:
      value = decoder.decode(text)
    except (ValueError, RecursionError) as error:
      if text.startswith('['):
        raise errors.UserError(_array_sentence(path, number)) from error
      what = str(error)
      if isinstance(error, json.JSONDecodeError):
        # Not its line, which is always the first.
        what = f'{error.msg}, character {error.colno}'
      raise errors.UserError(
        f'{path}, line {number}: not valid JSON ({what}). Write one whole '
        'object a line.'
      ) from error
    if isinstance(value, list):
      raise errors.UserError(_array_sentence(path, number))
    if not isinstance(value, dict):
      raise errors.UserError(
        f'{path}, line {number}: {_short(text)} is not a JSON object. Write '
        'one object a line, such as {"sentence": "…", "label": "…"}.'
      )
    yield number, value


def _array_sentence(path: pathlib.Path, number: int) -> str:
  return (
    f'{path}, line {number}: a JSON array, where one object a line is '
    'expected. Write its objects on a line each, for instance with jq -c '
    "'.[]'."
  )


_READERS: dict[str, Callable[[pathlib.Path], Iterator[_Record]]] = {
  '.csv': _csv_records,
  '.tsv': _tsv_records,
  '.jsonl': _json_records,
  '.json': _json_records,
}
ENDINGS = tuple(_READERS)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
  """A JSON object, if its keys differ."""
  result = dict(pairs)
  if len(result) != len(pairs):
    counts = collections.Counter(key for key, _ in pairs)
    raise ValueError(f'the key {counts.most_common(1)[0][0]!r} occurs twice')
  return result


def _refuse_constant(name: str) -> None:
  """Python reads NaN and Infinity, which JSON does not have."""
  raise ValueError(f'{name} is no JSON value')


def _check_column(
  path: pathlib.Path,
  line: int,
  name: str,
  header: Sequence[str],
  keys: str,
) -> None:
  """An error unless the column is there, once."""
  count = header.count(name)
  if count == 1:
    return
  place = f'{path}, line {line}: '
  if count:
    raise errors.UserError(
      f'{place}column {name!r} is there {count} times; rename all but one.'
    )
  # Other spellings first, which are less alike than they look.
  folded = {other.casefold(): other for other in reversed(header)}
  close = difflib.get_close_matches(name.casefold(), folded, n=1)
  hint = f' Did you mean {folded[close[0]]!r}?' if close else ''
  if len(header) == 1 and name in re.split(r'[,;\t|]', header[0]):
    hint = (
      ' Its columns stand apart by something else: a .csv file wants commas, '
      'a .tsv file tabs.'
    )
  elif set(parts := name.split(',')) <= set(header):
    hint = f' For several write "{tuple(parts)!r}".'
  raise errors.UserError(
    f'{place}no column {name!r}; there are {listed(header)}.{hint} Set '
    f'{keys} to columns that are there.'
  )


def _named(
  path: pathlib.Path, line: int, header: Sequence[str], fields: list[str]
) -> dict[str, str]:
  """The fields by column; an error if they are too few or too many."""
  # Empty fields past the last column carry nothing, as in GLUE's files.
  if len(fields) < len(header) or any(fields[len(header) :]):
    raise errors.UserError(
      f'{path}, line {line}: {len(fields)} columns where the header has '
      f'{len(header)} ({listed(header)}). Mend the line: a text with a comma '
      '(in .csv) stands in quotation marks, and one with a tab or a line break '
      'cannot stand in a .tsv file.'
    )
  return dict(zip(header, fields, strict=False))


def _text(path: pathlib.Path, line: int, name: str, value: Any) -> str:
  """A value as text; an error for what is none."""
  if isinstance(value, bool):
    return 'true' if value else 'false'
  if not isinstance(value, str):
    kind = {dict: 'an object', list: 'a list'}.get(type(value), 'null')
    raise errors.UserError(
      f'{path}, line {line}: {name!r} is {kind}, where a text or a number is '
      'expected. Mend the line or leave it out.'
    )
  check_text(f'{path}, line {line}', name, value)
  return value


def check_text(where: str, name: str, text: str) -> None:
  """Refuses a text that UTF-8 cannot hold, as JSON may spell one.

  Args:
    where: the file and the place in it, for the sentence.
    name: of the column or field.
    text: that stands there.

  Raises:
    UserError: for half of a surrogate pair.
  """
  try:
    text.encode()
  except UnicodeEncodeError as error:
    raise errors.UserError(
      f'{where}: {name!r} holds half of a surrogate pair '
      f'({text[error.start]!a}), which is no character. Mend the text.'
    ) from error


def listed(names: Sequence[str]) -> str:
  """Names for a sentence: quoted, shortened, ten at most.

  Args:
    names: any number.

  Returns:
    Such as `'a', 'b'`.
  """
  texts = [_short(repr(name)) for name in names[:_MOST_NAMES]]
  if len(names) > _MOST_NAMES:
    texts.append(f'… ({len(names):,} in all)')
  return ', '.join(texts)


def _short(text: str) -> str:
  return text if len(text) <= 60 else f'{text[:59]}…'
