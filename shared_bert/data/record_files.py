"""JSON Lines and Parquet as streams of documents, one a record."""

import json
import pathlib
from collections.abc import Iterator
from typing import IO, Any

from shared_bert.data import text_files
from shared_bert.data.table_files import listed
from shared_bert.errors import UserError

_PARQUET_ROWS = 1000  # read at a time
_OR_LEAVE_OUT = 'Mend the record or leave it out.'


def read_json_lines(
  place: str, stream: IO[bytes], key: str
) -> Iterator[tuple[list[str], int]]:
  """Reads a document of every line that is not blank.

  Args:
    place: what sentences call the file.
    stream: its unpacked bytes.
    key: of a line's object, whose value is the text.

  Yields:
    As `text_files.read_documents`. A text without a letter is no document.

  Raises:
    UserError: a line is no JSON object with a text under that key; the
      sentence names the line.
  """
  offset = 0
  for number, raw in enumerate(text_files.raw_lines(place, stream), start=1):
    offset += len(raw)
    line = text_files.decode_line(place, number, raw)
    if line.strip():
      where = f'{place}, line {number}'
      lines = document_lines(where, key, _text_of(where, line, key))
      if lines:
        yield lines, offset


def _text_of(where: str, line: str, key: str) -> Any:
  """The value of the key in a line."""
  try:
    record = json.loads(line)
  except (ValueError, RecursionError) as error:
    what = str(error)
    if isinstance(error, json.JSONDecodeError):
      # Not its line, which is always the first.
      what = f'{error.msg}, character {error.colno}'
    raise UserError(
      f'{where}: not valid JSON ({what}). Write one whole object a line, for '
      "instance with jq -c '.[]' where the file is one array."
    ) from error
  if not isinstance(record, dict):
    raise UserError(
      f'{where}: not a JSON object. Write one object a line, such as '
      '{"text": "…"}.'
    )
  if key not in record:
    raise _no_such_key(where, key, list(record))
  return record[key]


def read_parquet(
  path: pathlib.Path, column: str
) -> Iterator[tuple[list[str], int]]:
  """Reads a document of every row.

  Args:
    path: a Parquet file.
    column: that holds the text.

  Yields:
    As `text_files.read_documents`; bytes are those of the column's texts.

  Raises:
    UserError: the file is damaged, the column is not there or no text, or
      pyarrow is not installed.
  """
  try:
    import pyarrow
    from pyarrow import parquet
  except ImportError as error:
    raise UserError(
      f'{path} is a Parquet file, which needs the package pyarrow; install it '
      '(pip install pyarrow), or convert the file to JSON Lines.'
    ) from error
  types = pyarrow.types
  row = offset = 0
  try:
    with parquet.ParquetFile(path, page_checksum_verification=True) as file:
      schema = file.schema_arrow
      if schema.names.count(column) != 1:
        raise _no_such_key(str(path), column, schema.names)
      kind = schema.field(column).type
      if types.is_dictionary(kind):
        kind = kind.value_type
      if not (types.is_string(kind) or types.is_large_string(kind)):
        raise UserError(
          f'{path}: the column {column!r} holds {kind}, where texts are '
          'expected. Set --text_key to a column of texts.'
        )
      for batch in file.iter_batches(_PARQUET_ROWS, columns=[column]):
        for value in batch.column(0):
          row += 1
          where = f'{path}, row {row}'
          text = _decoded(where, value)
          lines = document_lines(where, column, text)
          offset += len(text.encode())
          if lines:
            yield lines, offset
  except (pyarrow.ArrowException, OSError) as error:
    raise text_files.damaged(str(path), error) from error


def _decoded(where: str, value: Any) -> Any:
  """A value of Arrow as Python has it."""
  try:
    return value.as_py()
  except UnicodeDecodeError as error:
    raise UserError(
      f'{where}: not UTF-8 ({error.reason}). {_OR_LEAVE_OUT}'
    ) from error


def document_lines(where: str, key: str, text: Any) -> list[str]:
  """The lines of a record's text, stripped and none empty.

  Args:
    where: what sentences call the record.
    key: under which it has the text.
    text: the value; a text is expected.

  Raises:
    UserError: it is no text, or half a character of UTF-16.
  """
  if not isinstance(text, str):
    kind = {dict: 'an object', list: 'a list', type(None): 'null'}.get(
      type(text), 'a number'
    )
    raise UserError(
      f'{where}: {key!r} is {kind}, where a text is expected. {_OR_LEAVE_OUT}'
    )
  try:
    text.encode()
  except UnicodeEncodeError as error:
    raise UserError(
      f'{where}: {key!r} holds half of a surrogate pair '
      f'({text[error.start]!a}), which is no character. {_OR_LEAVE_OUT}'
    ) from error
  stripped = (line.strip() for line in text.removeprefix('\ufeff').split('\n'))
  return [line for line in stripped if line]


def _no_such_key(where: str, key: str, there: list[str]) -> UserError:
  lacks = f'no {key!r}' + (' of its own' if key in there else '')
  return UserError(
    f'{where}: {lacks}, but {listed(there) or "nothing"}. Set --text_key '
    '(in a config data.text_key) to the one that holds the text.'
  )
