"""SQuAD's files, versions 1.1 and 2.0, and the files of its predictions.

Rajpurkar et al. 2016 (arXiv 1606.05250) and 2018 (arXiv 1806.03822). Which
answers can be trained on follows google-research/bert `run_squad.py`,
`read_squad_examples`.
"""

import dataclasses
import hashlib
import json
import os
import pathlib
import re
import zlib
from collections.abc import Iterator, Sequence
from typing import Any

from shared_bert.data import table_files
from shared_bert.errors import UserError


@dataclasses.dataclass(frozen=True)
class Questions:
  """N questions, each about a paragraph.

  Attributes:
    path: of the file.
    ids: as the file has them.
    texts: the questions.
    contexts: the paragraph of each; several share one.
    answers: of each the gold answers, text and first character in the context;
      none where there is no answer.
    has_unanswerable: whether the file is one of version 2.0, where having no
      answer is an answer.
    num_skipped: questions of the file that cannot be trained on.
  """

  path: pathlib.Path
  ids: Sequence[str]
  texts: Sequence[str]
  contexts: Sequence[str]
  answers: Sequence[tuple[tuple[str, int], ...]]
  has_unanswerable: bool
  num_skipped: int = 0

  def __len__(self) -> int:
    return len(self.ids)

  @property
  def gold_texts(self) -> dict[str, list[str]]:
    """The texts of the gold answers, by the ids of the questions."""
    texts = ([text for text, _ in gold] for gold in self.answers)
    return dict(zip(self.ids, texts, strict=True))

  @property
  def numbers(self) -> list[int]:
    """By which noise is drawn, below 2^31: of the ids, whatever else is asked.

    Some two of the 10,570 of SQuAD 1.1 may share one, which does no harm.
    """
    return [zlib.crc32(name.encode()) >> 1 for name in self.ids]

  def take(self, chosen: Sequence[int]) -> 'Questions':
    """Some of the questions, by their places from 0."""
    return dataclasses.replace(
      self,
      ids=[self.ids[i] for i in chosen],
      texts=[self.texts[i] for i in chosen],
      contexts=[self.contexts[i] for i in chosen],
      answers=[self.answers[i] for i in chosen],
    )

  def place(self, index: int) -> str:
    """What errors call a question, by its place from 0."""
    return f'{self.path}, question {self.ids[index]}'


def read(
  path: str | os.PathLike[str], key: str, *, training: bool
) -> Questions:
  """Reads a file of SQuAD.

  To train on, a question has one gold answer, the first where there are more,
  and is left out and counted where its text is not at its place (`locate`).

  Args:
    path: a JSON file in the layout of `train-v1.1.json` or `dev-v2.0.json`.
    key: the config key that names it, for the sentences.
    training: whether it is to be trained on.

  Returns:
    The questions in the order of the file.

  Raises:
    UserError: no such file, or one that does not hold what it should; the
      sentence names the file and the question.
  """
  path = pathlib.Path(path)
  content = _load(path, key)
  is_second = str(content.get('version', '')).lower().lstrip('v')[:1] == '2'
  rows: list[tuple[str, str, str, tuple[tuple[str, int], ...]]] = []
  seen: set[str] = set()
  num_skipped = 0
  for where, context, question in _questions(path, content):
    name = _field(where, question, 'id', str)
    where = f'{where} ({name})'
    if name in seen:
      raise UserError(
        f'{where}: the id is there twice, and predictions are found by it: '
        'give each question its own.'
      )
    seen.add(name)
    text = _field(where, question, 'question', str)
    answers = tuple(
      (
        _field(f'{where}, answer {n}', answer, 'text', str),
        _field(f'{where}, answer {n}', answer, 'answer_start', int),
      )
      for n, answer in enumerate(_field(where, question, 'answers', list), 1)
    )
    is_impossible = question.get('is_impossible', False)
    if not isinstance(is_impossible, bool) or (is_impossible and answers):
      raise UserError(
        f'{where}: is_impossible={is_impossible!r} beside {len(answers)} '
        'answers: it should be true without any, or false.'
      )
    is_second |= is_impossible
    if training and not is_impossible:
      if not answers:
        raise UserError(
          f'{where}: has no answer to learn: add one, or "is_impossible": true.'
        )
      if locate(context, *answers[0]) is None:
        num_skipped += 1
        continue
      answers = answers[:1]
    rows.append((name, text, context, answers))
  if not rows:
    raise UserError(
      f'{key}={path} has no question'
      + (f' whose answer is in its context, of {len(seen):,}' if seen else '')
      + ': name a file in the layout of SQuAD.'
    )
  if not is_second:
    for name, _, _, answers in rows:
      if not answers:
        raise UserError(
          f'{path}, question {name}: has no answer, which only files of '
          'version 2.0 may have: set "version": "v2.0" if it is one, or leave '
          'the question out.'
        )
  ids, texts, contexts, answers = zip(*rows, strict=True)
  return Questions(path, ids, texts, contexts, answers, is_second, num_skipped)


def check(path: str | os.PathLike[str], key: str) -> None:
  """Refuses a file that is not there, or by its name is no JSON.

  Args:
    path: as for `read`.
    key: as for `read`.

  Raises:
    UserError: naming the key and the mend.
  """
  mend = 'name a file of SQuAD, such as train-v1.1.json.'
  if os.path.isdir(path):
    raise UserError(f'{key}={path} is a folder: {mend}')
  if not os.path.isfile(path):
    raise UserError(f'{key}={path} is not there: {mend}')
  if pathlib.Path(path).suffix.lower() != '.json':
    raise UserError(f'{key}={path} does not end in .json: {mend}')


def locate(context: str, answer: str, start: int) -> tuple[int, int] | None:
  """Where an answer stands, as characters `context[first:last]`.

  It is looked for within the whole words that it should be in, as run_squad.py
  does, which keeps answers whose start is off by a few characters. Kinds of
  white space are alike.

  Args:
    context: the paragraph.
    answer: its text.
    start: its first character, as the file says.

  Returns:
    None where it is not there.
  """
  end, words = start + len(answer), answer.split()
  if start < 0 or end > len(context) or not words:
    return None
  if context[start:end] == answer:
    return start, end
  while start and not context[start - 1].isspace():
    start -= 1
  while end < len(context) and not context[end].isspace():
    end += 1
  pattern = r'\s+'.join(map(re.escape, words))
  found = re.search(pattern, context[start:end])
  return (start + found.start(), start + found.end()) if found else None


def fingerprint(splits: dict[str, Questions]) -> str:
  """A hash that changes whenever a question, a text or an answer changes.

  Args:
    splits: by name, whose order does not count.

  Returns:
    A SHA-256 as 64 hexadecimal digits.
  """
  digest = hashlib.sha256()
  for split in sorted(splits):
    it = splits[split]
    digest.update(json.dumps([split, len(it), it.has_unanswerable]).encode())
    rows = zip(it.ids, it.texts, it.contexts, it.answers, strict=True)
    for row in rows:
      digest.update(json.dumps(row).encode())
  return digest.hexdigest()


def _load(path: pathlib.Path, key: str) -> dict[str, Any]:
  check(path, key)
  try:
    content = json.loads(path.read_text(encoding='utf-8-sig'))
  except OSError as error:
    raise UserError(
      f'{key}={path} cannot be read ({error.strerror}): mend its permissions.'
    ) from error
  except (ValueError, RecursionError) as error:
    raise UserError(
      f'{key}={path} is not JSON in UTF-8 ({error}): bring the file of SQuAD '
      'whole.'
    ) from error
  if not isinstance(content, dict) or 'data' not in content:
    raise UserError(
      f'{key}={path} is JSON of something else: SQuAD has an object with '
      '"data", a list of articles with "paragraphs".'
    )
  return content


def _questions(
  path: pathlib.Path, content: dict[str, Any]
) -> Iterator[tuple[str, str, dict[str, Any]]]:
  """Place, context and question, for each in turn."""
  articles = _field(str(path), content, 'data', list)
  for a, article in enumerate(articles, 1):
    here = f'{path}, article {a}'
    for p, paragraph in enumerate(_field(here, article, 'paragraphs', list), 1):
      where = f'{here}, paragraph {p}'
      context = _field(where, paragraph, 'context', str)
      for q, question in enumerate(_field(where, paragraph, 'qas', list), 1):
        yield f'{where}, question {q}', context, question


def _field(where: str, value: Any, name: str, kind: type) -> Any:
  """A field of an object, of its kind."""
  found = value.get(name) if isinstance(value, dict) else None
  if type(found) is not kind:
    what = {str: 'a text', int: 'a whole number', list: 'a list'}[kind]
    raise UserError(
      f'{where}: {name!r} should be {what}, as in the files of SQuAD, and is '
      + ('not there.' if found is None else f'{found!r:.60}.')
    )
  if kind is str:
    table_files.check_text(where, name, found)
  return found
