"""Reads one file of a GLUE task into examples.

The files are tab-separated without any quoting (a quotation mark is text), so
no CSV reader is used.
"""

import collections
import dataclasses
import math
import pathlib
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from shared_bert import errors
from shared_bert.data.glue_tasks import Derived, Task
from shared_bert.data.table_files import listed
from shared_bert.data.text_files import read_lines

_BLANK = 'blank line'
_NO_GOLD = 'no gold label'
_RAGGED = 'wrong number of columns'

# Official test files number their rows in `index`; QQP's calls it `id`.
_INDEX_COLUMNS = ('index', 'id')


@dataclasses.dataclass
class Examples:
  """The examples of one split, N of them.

  Attributes:
    text_a: N texts.
    text_b: N second texts of a pair task, otherwise None.
    labels: int32 [N] class ids, or float32 [N] scores of a regression task;
      None for a test split, whose labels GLUE keeps to itself.
    ids: N row numbers, from 0; for a test split the index that the leaderboard
      asks for.
    skip_reasons: how many lines of the file are not among the N, by reason.
  """

  text_a: list[str]
  text_b: list[str] | None
  labels: np.ndarray | None
  ids: list[int]
  skip_reasons: dict[str, int] = dataclasses.field(default_factory=dict)

  def __len__(self) -> int:
    return len(self.text_a)

  @property
  def skipped(self) -> int:
    """How many lines of the file are not among the examples."""
    return sum(self.skip_reasons.values())


def _header(
  path: pathlib.Path, lines: Iterator[tuple[int, str]], needed: Sequence[str]
) -> tuple[str, ...]:
  """Takes the header off `lines`; an error unless it names all `needed`."""
  _, header = next(lines, (0, None))
  if header is None:
    raise errors.UserError(f'{path} is empty; fetch it again.')
  columns = tuple(name.strip() for name in header.rstrip('\t').split('\t'))
  missing = [name for name in needed if name not in columns]
  twice = [name for name in needed if columns.count(name) > 1]
  if missing or twice:
    raise errors.UserError(
      f'{path}, line 1: '
      + (
        f'no column {listed(missing)}' if missing else f'{listed(twice)} twice'
      )
      + f' in the header, which has {listed(columns)}. Expected a '
      f'tab-separated header with {listed(needed)}.'
    )
  return columns


def read(
  task: Task,
  split: str,
  path: pathlib.Path,
  keep: Callable[[Sequence[str]], bool] | None = None,
  keep_columns: tuple[str, ...] = (),
) -> Examples:
  """Reads a file of the task.

  Args:
    task: the task.
    split: the split; a test split is read without labels.
    path: the file.
    keep: whether a row belongs to the split, by its `keep_columns`.
    keep_columns: the columns that `keep` wants.

  Returns:
    The rows of the file that belong to the split.

  Raises:
    UserError: the file does not hold what it should.
  """
  labelled = split not in task.test_splits
  needed = task.text_columns + keep_columns
  if labelled:
    needed += (task.label_column,)
  lines = read_lines(path)
  columns = task.headerless.get(split) or _header(path, lines, needed)
  place = {name: i for i, name in enumerate(columns)}
  index_column = next((name for name in _INDEX_COLUMNS if name in place), None)

  texts: tuple[list[str], ...] = tuple([] for _ in task.text_columns)
  labels: list[float] = []
  ids: list[int] = []
  skips: collections.Counter[str] = collections.Counter()
  row = -1
  for number, line in lines:
    if not line:
      skips[_BLANK] += 1
      continue
    row += 1
    fields = line.split('\t')
    # Empty fields past the last column carry nothing: not ragged.
    if len(fields) < len(columns) or any(fields[len(columns) :]):
      if labelled and task.skips_ragged:
        skips[_RAGGED] += 1
        continue
      raise errors.UserError(
        f'{path}, line {number}: {len(fields)} columns where {len(columns)} '
        f'are expected ({", ".join(columns)}). Mend the line (a text may hold '
        'neither a tab nor a line break), or fetch the file again.'
      )
    if keep is not None and not keep([fields[place[c]] for c in keep_columns]):
      continue
    if labelled:
      text = fields[place[task.label_column]].strip()
      if text == task.no_gold:
        skips[_NO_GOLD] += 1
        continue
      labels.append(_label(task, text, path, number))
    if labelled or index_column is None:
      ids.append(row)
    else:
      ids.append(_index(fields[place[index_column]], path, number))
    for column, into in zip(task.text_columns, texts, strict=True):
      into.append(fields[place[column]])

  if not ids:
    skipped = ''.join(f', {count} x {why}' for why, count in skips.items())
    raise errors.UserError(
      f'{path} holds no example of {task.name} {split}{skipped}; fetch the '
      'file again.'
    )
  if len(set(ids)) != len(ids):
    twice = collections.Counter(ids).most_common(1)[0][0]
    raise errors.UserError(
      f'{path}: index {twice} occurs twice, but the leaderboard wants one '
      'prediction an index. Fetch the file again.'
    )
  dtype = np.float32 if task.is_regression else np.int32
  return Examples(
    text_a=texts[0],
    text_b=texts[1] if task.is_pair else None,
    labels=np.asarray(labels, dtype) if labelled else None,
    ids=ids,
    skip_reasons=dict(skips),
  )


def read_derived(
  task: Task, derived: Derived, split: str, folder: pathlib.Path
) -> Examples:
  """Reads train or dev out of the one file that holds both.

  Args:
    task: the task.
    derived: where its train and dev come from.
    split: `train` or `dev`.
    folder: the folder of the two files.

  Returns:
    The rows of the split; their ids are row numbers of the common file.

  Raises:
    UserError: a file does not hold what it should.
  """
  file = folder / derived.file
  dev_ids = folder / derived.dev_ids
  dev_pairs = {
    tuple(line.split('\t')) for _, line in read_lines(dev_ids) if line
  }
  if not dev_pairs:
    raise errors.UserError(f'{dev_ids} is empty; fetch it again.')
  found = set()

  def keep(fields: Sequence[str]) -> bool:
    pair = tuple(fields)
    if pair in dev_pairs:
      found.add(pair)
    return (pair in dev_pairs) == (split == 'dev')

  examples = read(task, split, file, keep, derived.id_columns)
  if found != dev_pairs:
    absent = sorted(dev_pairs - found)[0]
    raise errors.UserError(
      f'{dev_ids} names {len(dev_pairs - found)} pairs that are not in {file}, '
      f'for example {" ".join(absent)}. Fetch both files again.'
    )
  return examples


def _label(task: Task, text: str, path: pathlib.Path, number: int) -> float:
  """Class id or score of a label as the file writes it."""
  if task.label_range is None:
    if text in task.labels_in_files:
      return task.labels_in_files.index(text)
    expected = f'one of {", ".join(task.labels_in_files)}'
  else:
    low, high = task.label_range
    try:
      score = float(text)
    except ValueError:
      score = math.nan
    if low <= score <= high:
      return score
    expected = f'a number from {low:g} to {high:g}'
  raise errors.UserError(
    f'{path}, line {number}: label {listed([text])} in column '
    f'{task.label_column!r} is not {expected}. Mend the line, or fetch the '
    'file again.'
  )


def _index(text: str, path: pathlib.Path, number: int) -> int:
  """Index of a test row."""
  if not (text.isascii() and text.isdigit() and len(text) < 19):
    raise errors.UserError(
      f'{path}, line {number}: index {listed([text])} is not a whole number. '
      'Mend the line, or fetch the file again.'
    )
  return int(text)
