"""Answers of a model as people and programs read them, by a file's ending.

  .jsonl, .json   JSON lines with all that is known; `text` is a list of a pair
  .csv, .tsv      a table: `text`, or `text_a` and `text_b` of a pair, and then
                  word_1, probability_1, word_2, …   best of each mask in turn
                  label, probability; or score       of a class
                  answer, probability, start, end    of a question
                  embedding_1, embedding_2, …        one number each
  .txt or none    what is printed: an answer and its text, tabs between

CSV is that of RFC 4180. TSV has no quoting, as `data/table_files.py` reads it:
what would part a text there is a space.
"""

import csv
import io
import json
import pathlib
from collections.abc import Iterable, Iterator
from typing import Any

from shared_bert.errors import UserError, printable
from shared_bert.texts import Text

Answer = dict[str, Any]
_FORMATS = {
  '.jsonl': 'json',
  '.json': 'json',
  '.csv': 'csv',
  '.tsv': 'tsv',
  '.txt': 'lines',
  '': 'lines',
}
# Of an embedding, where a person looks on.
_FEW = 4


def format_of(name: str | None, as_json: bool) -> str:
  """How answers are to be written: `json`, `csv`, `tsv` or `lines`.

  Args:
    name: of the file; None for the standard output.
    as_json: whether JSON lines are asked for, whatever the ending.

  Raises:
    UserError: for an ending that says something else than what would be there.
  """
  ending = pathlib.Path(name or '').suffix.lower()
  if ending not in _FORMATS:
    known = ', '.join(filter(None, _FORMATS))
    raise UserError(
      f'--output={name}: answers are not written as {ending}: let the name end '
      f'in {known}.'
    )
  found = _FORMATS[ending]
  if as_json and found in ('csv', 'tsv'):
    raise UserError(
      f'--output={name} is a table, and --json writes JSON lines: let the name '
      'end in .jsonl, or leave --json out.'
    )
  return 'json' if as_json else found


def lines(
  kind: str,
  texts: Iterable[Text],
  answers: list[Answer],
  brief: bool = False,
) -> Iterator[str]:
  """The answers, written.

  Args:
    kind: as `format_of`.
    texts: N, of the answers.
    answers: N, of `inference.Predictor`, for one task.
    brief: whether embeddings are shortened in lines; a person reads them.

  Yields:
    Lines without their ends; a CSV record may have several.
  """
  pairs = zip(texts, answers, strict=True)
  if kind in ('csv', 'tsv'):
    yield from _table(kind, list(pairs))
    return
  for text, answer in pairs:
    yield _json(text, answer) if kind == 'json' else _line(text, answer, brief)


def _json(text: Text, answer: Answer) -> str:
  if 'embedding' in answer:
    answer = {'embedding': [float(x) for x in answer['embedding']]}
  return json.dumps({'text': text, **answer}, ensure_ascii=False)


def _line(text: Text, answer: Answer, brief: bool) -> str:
  if 'masks' in answer:
    found = '; '.join(
      ', '.join(f'{w["token"]} {w["probability"]:.3f}' for w in words)
      for words in answer['masks']
    )
  elif 'embedding' in answer:
    vector = answer['embedding']
    found = ' '.join(f'{x:.6g}' for x in vector[: _FEW if brief else None])
    if brief:
      found += f' … {len(vector)} numbers; --json or --output for all'
  elif 'score' in answer:
    found = f'{answer["score"]:.4f}'
  elif 'answers' in answer:
    words = ' '.join(answer['answer'].split())
    found = f'{words}\t{answer["probability"]:.4f}'
  else:
    found = f'{answer["label"]}\t{answer["probability"]:.4f}'
  shown = text if isinstance(text, str) else '\t'.join(text)
  return printable(f'{found}\t{" ".join(shown.splitlines())}')


def _table(kind: str, pairs: list[tuple[Text, Answer]]) -> Iterator[str]:
  single = all(isinstance(text, str) for text, _ in pairs)
  rows = [_columns(answer) for _, answer in pairs]
  # Texts may have different numbers of masks.
  names = max(rows, key=len)
  columns = [*(['text'] if single else ['text_a', 'text_b']), *names]
  write = _csv_record if kind == 'csv' else _tsv_record
  yield write(columns)
  for (text, _), row in zip(pairs, rows, strict=True):
    texts = [text] if isinstance(text, str) else text
    yield write([*texts, *(row.get(name, '') for name in names)])


def _csv_record(values: list[Any]) -> str:
  stream = io.StringIO()
  # What has one of these within is put into quotation marks.
  csv.writer(stream, lineterminator='\r\n').writerow(values)
  return stream.getvalue().removesuffix('\r\n')


def _tsv_record(values: list[Any]) -> str:
  texts = (str(value).replace('\t', ' ') for value in values)
  return '\t'.join(' '.join(text.splitlines()) for text in texts)


def _columns(answer: Answer) -> dict[str, Any]:
  """The values of an answer by column."""
  if 'masks' in answer:
    return {
      key: value
      for number, (best, *_) in enumerate(answer['masks'], 1)
      for key, value in (
        (f'word_{number}', best['token']),
        (f'probability_{number}', best['probability']),
      )
    }
  if 'embedding' in answer:
    return {f'embedding_{n}': x for n, x in enumerate(answer['embedding'], 1)}
  return {
    key: value
    for key, value in answer.items()
    if key not in ('probabilities', 'answers')
  }
