"""A task of the user's own, from CSV, TSV or JSON-lines files.

`table_files.py` reads the files; here their columns become a `Task` and its
`Examples`, so that training, evaluation and predictions are those of GLUE.
"""

import math
import os
import re
from collections.abc import Mapping, Sequence

import numpy as np

from shared_bert import errors
from shared_bert.data import table_files
from shared_bert.data.glue_reader import Examples
from shared_bert.data.glue_tasks import Task
from shared_bert.data.table_files import Table, listed

# More classes than this that are all numbers with a fraction are scores.
_MOST_FRACTIONS = 1000
_LARGEST_SCORE = float(np.finfo(np.float32).max)
_SPLITS = ('train', 'dev', 'test')
_WHOLE = re.compile(r'[+-]?[0-9]{1,18}')


def load(
  train_file: str | os.PathLike[str],
  dev_file: str | os.PathLike[str],
  test_file: str | os.PathLike[str],
  *,
  text_columns: Sequence[str],
  label_column: str,
  label_names: Sequence[str] = (),
  regression: bool = False,
  name: str = 'own',
) -> tuple[Task, dict[str, Examples]]:
  """Reads classification, regression or pair data.

  A test file with the label column is evaluated like dev; one without is only
  predicted, and its ids are row numbers from 0, empty lines not counted, as
  pandas counts them. Texts are kept as they stand and may be empty; labels
  lose the white space around them. Scores are trained on as they are, without
  any scaling, and predictions are not clipped: scores of a size near 1 suit the
  usual learning rates.

  Args:
    train_file: a path, or '' to evaluate or predict only.
    dev_file: a path; '' without training, if there is a test file.
    test_file: a path or ''.
    text_columns: one column for single texts, two for pairs.
    label_column: the column of the labels.
    label_names: what class ids 0, 1, … mean; empty: the labels of the training
      file, sorted, as numbers if all of them are whole.
    regression: labels are finite numbers, not classes.
    name: of the task, to show.

  Returns:
    The task, and the examples of the splits that have a file, in the order
    train, dev, test.

  Raises:
    UserError: settings that do not fit each other, or a file that does not hold
      what it should; the sentence names the key, or the file and the line.
  """
  text_columns = _checked_columns(text_columns, label_column)
  label_names = checked_names(label_names, regression)
  files = {
    split: os.fspath(file)
    for split, file in zip(
      _SPLITS, (train_file, dev_file, test_file), strict=True
    )
    if os.fspath(file)
  }
  _check_files(files, bool(label_names) or regression)
  tables = {}
  for split, file in files.items():
    # Only a test file may lack labels.
    labels = () if split == 'test' else (label_column,)
    tables[split] = table_files.read_table(
      file,
      f'data.{split}_file',
      needed=(*text_columns, *labels),
      optional=(label_column,),
    )
  for table in tables.values():
    if label_column in table.columns:
      _strip_labels(table, label_column)
  if not (label_names or regression):
    label_names = _names_in(tables['train'], label_column)

  splits = {}
  for split, table in tables.items():
    labels = None
    if label_column in table.columns:
      if regression:
        labels = _scores(table, label_column)
      else:
        labels = _class_ids(table, label_column, label_names)
      if split == 'train':
        _check_variety(table, label_column, regression)
    splits[split] = Examples(
      text_a=table.columns[text_columns[0]],
      text_b=table.columns[text_columns[1]] if text_columns[1:] else None,
      labels=labels,
      ids=list(range(len(table.lines))),
      skip_reasons=(
        {'blank line': table.blank_lines} if table.blank_lines else {}
      ),
    )
  # Not F1, which needs to know which class is the positive one; Matthews shows
  # where accuracy is only that of the commonest class.
  metrics = ('pearson', 'spearman') if regression else ('accuracy', 'matthews')
  task = Task(
    name=name,
    folders=('',),
    text_columns=text_columns,
    metrics=metrics,
    label_column=label_column,
    label_names=label_names,
    label_range=(-math.inf, math.inf) if regression else None,
    splits={split: (file,) for split, file in files.items()},
    prediction_files={'test': 'test.tsv'} if 'test' in files else {},
  )
  return task, splits


def remarks(task: Task, splits: Mapping[str, Examples]) -> list[str]:
  """What is allowed but seldom meant, in sentences to be said.

  The same examples in two splits are no error: training on the very rows that
  are evaluated shows whether a model can learn them at all. Found by their
  texts, since a copy of a file has another name.

  Args:
    task: of `load`.
    splits: of `load`.

  Returns:
    A sentence for each kind of thing and split; often none.
  """
  found = []
  seen = set(_texts(splits['train'])) if 'train' in splits else set()
  for split, examples in splits.items():
    rows = _texts(examples)
    empty = sum(not all(map(str.strip, row)) for row in rows)
    if empty:
      found.append(f'{split}: {empty:,} of {len(rows):,} have an empty text')
    if examples.labels is None:
      found.append(
        f'{split}: has no column {task.label_column!r}, so it is predicted '
        'and not evaluated'
      )
    elif split != 'train' and (known := sum(row in seen for row in rows)):
      found.append(
        f'{split}: the texts of {known:,} of {len(rows):,} are in train too, '
        'so its metrics say less about new texts'
      )
    elif split == 'train' and not task.is_regression:
      counts = np.bincount(examples.labels, minlength=task.num_outputs)
      absent = [task.label_names[i] for i in np.flatnonzero(counts == 0)]
      if absent:
        found.append(f'train: has no example of {listed(absent)}')
  if any(map(_has_fraction, task.label_names)) and all(
    map(_is_finite, task.label_names)
  ):
    found.append(
      'the labels are numbers but trained on as classes; set '
      'data.regression=True if they are scores'
    )
  return found


def _texts(examples: Examples) -> list[tuple[str, ...]]:
  """The one or two texts of each example."""
  if examples.text_b is None:
    return [(text,) for text in examples.text_a]
  return list(zip(examples.text_a, examples.text_b, strict=True))


def _checked_columns(
  text_columns: Sequence[str], label_column: str
) -> tuple[str, ...]:
  """The columns of the texts, if they can be."""
  if isinstance(text_columns, str):
    raise errors.UserError(
      f'data.text_columns={text_columns!r} must be a tuple: '
      f'({text_columns!r},) for one column.'
    )
  columns = tuple(text_columns)
  if len(columns) not in (1, 2) or not all(
    isinstance(column, str) and column for column in columns
  ):
    raise errors.UserError(
      f'data.text_columns={columns!r} must name one column, or two for '
      "pairs: ('sentence',) or ('sentence1', 'sentence2')."
    )
  if len(set(columns)) < len(columns):
    raise errors.UserError(
      f'data.text_columns={columns!r} names the same column twice; a pair has '
      'two different ones.'
    )
  if not label_column:
    raise errors.UserError(
      'data.label_column is empty; name the column of the labels.'
    )
  if label_column in columns:
    raise errors.UserError(
      f'data.label_column={label_column!r} is among data.text_columns='
      f'{columns!r}: the label would be part of the text. Name another column.'
    )
  return columns


def checked_names(
  label_names: Sequence[str], regression: bool
) -> tuple[str, ...]:
  """The names of the classes as texts, if they can be.

  Args:
    label_names: of a config; empty where it has none.
    regression: whether there are scores in place of classes.

  Returns:
    The names, without white space around them.

  Raises:
    UserError: names that are no tuple, too few, equal, empty, or of scores.
  """
  if isinstance(label_names, str):
    raise errors.UserError(
      f'data.label_names={label_names!r} must be a tuple, such as '
      "('negative', 'positive')."
    )
  names = tuple(str(name).strip() for name in label_names)
  if names and regression:
    raise errors.UserError(
      'data.label_names and data.regression=True exclude each other: scores '
      'have no names. Set only one of them.'
    )
  if names and (len(names) < 2 or len(set(names)) < len(names)):
    raise errors.UserError(
      f'data.label_names must be two different names or more, not '
      f'{listed(names)}.'
    )
  if not all(names):
    raise errors.UserError(
      'data.label_names holds an empty name; leave it out.'
    )
  return names


def _check_files(files: Mapping[str, str], knows_labels: bool) -> None:
  """An error unless these splits can be trained on or evaluated."""
  if not files:
    raise errors.UserError(
      'data.train_file and data.dev_file are not set: name .csv, .tsv or '
      '.jsonl files.'
    )
  if 'train' in files and 'dev' not in files:
    raise errors.UserError(
      'data.dev_file is not set: name a file of labelled examples to evaluate '
      'on, other ones than data.train_file has.'
    )
  if 'train' not in files and not knows_labels:
    raise errors.UserError(
      'set data.label_names as in the training run (its class ids follow '
      'their order), or data.regression=True: without data.train_file nothing '
      'else tells what the labels are.'
    )


def _strip_labels(table: Table, column: str) -> None:
  """Strips the labels; an error for one that is empty or would break lines."""
  labels = [label.strip() for label in table.columns[column]]
  for line, label in zip(table.lines, labels, strict=True):
    if not label:
      raise errors.UserError(
        f'{table.path}, line {line}: the label in column {column!r} is empty. '
        'Write it, or leave the line out; a test file may leave out the whole '
        'column.'
      )
    # A file of predictions has one a line.
    if re.search(r'[\t\r\n]', label):
      raise errors.UserError(
        f'{table.path}, line {line}: the label {listed([label])} holds a tab '
        'or a line break. Name another column as data.label_column, or mend '
        'the line.'
      )
  table.columns[column][:] = labels


def _names_in(table: Table, column: str) -> tuple[str, ...]:
  """The distinct labels, sorted."""
  names = sorted(set(table.columns[column]))
  if all(map(_WHOLE.fullmatch, names)):
    names.sort(key=int)
  if (
    len(names) > _MOST_FRACTIONS
    and all(map(_is_finite, names))
    and any(map(_has_fraction, names))
  ):
    raise errors.UserError(
      f'{table.path}: column {column!r} holds {len(names):,} different numbers '
      f'({listed(names[:3])}, …), which look like scores, not classes. Set '
      'data.regression=True, or data.label_names if they are classes.'
    )
  return tuple(names)


def _class_ids(table: Table, column: str, names: Sequence[str]) -> np.ndarray:
  """Class ids, int32 [N]; an error for a label that is none of the names."""
  ids = {name: i for i, name in enumerate(names)}
  labels = table.columns[column]
  for line, label in zip(table.lines, labels, strict=True):
    if label not in ids:
      raise errors.UserError(
        f'{table.path}, line {line}: the label {listed([label])} in column '
        f'{column!r} is not one of {listed(names)}. Mend the line, or name all '
        'labels in data.label_names (by default those of data.train_file).'
      )
  return np.array([ids[label] for label in labels], np.int32)


def _scores(table: Table, column: str) -> np.ndarray:
  """Scores, float32 [N]; an error for a label that is no finite number."""
  labels = table.columns[column]
  for line, label in zip(table.lines, labels, strict=True):
    if not _is_finite(label):
      raise errors.UserError(
        f'{table.path}, line {line}: the label {listed([label])} in column '
        f'{column!r} is not a finite number (with a decimal point, of at most '
        '3.4e38). Mend the line, or set data.regression=False if labels are '
        'classes.'
      )
  return np.array([float(label) for label in labels], np.float32)


def _is_finite(text: str) -> bool:
  """Whether the text is a number that float32 holds."""
  try:
    number = float(text)
  except ValueError:
    return False
  # Python takes 1_000 for a number, other readers of the file do not.
  return abs(number) <= _LARGEST_SCORE and '_' not in text


def _has_fraction(text: str) -> bool:
  return _is_finite(text) and not float(text).is_integer()


def _check_variety(table: Table, column: str, scores: bool) -> None:
  """An error if all labels of the training file are the same."""
  texts = table.columns[column]
  labels = dict.fromkeys(map(float, texts) if scores else texts)
  if len(labels) == 1:
    raise errors.UserError(
      f'{table.path}: all {len(table.lines):,} labels in column {column!r} are '
      f'{listed(texts[:1])}, so there is nothing to learn. Name a file with '
      'different labels, or another data.label_column.'
    )
