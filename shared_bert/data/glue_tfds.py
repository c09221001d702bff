"""GLUE as TensorFlow Datasets (TFDS) has it: `glue/cola`, `glue/sst2`, ….

A set is fetched and prepared once, which needs TensorFlow and the internet,
and read from then on without either. From the official archives, the examples
are those of the reader of local files (`glue.load_split`), in the same order,
with the same ids. Where the two come apart:

- MRPC is cut out of Microsoft's files by the ids of dev, and a row keeps its
  number. So does the local reader where there is no `train.tsv`; the rows of
  `train.tsv` and `dev.tsv` are the same in the same order, but numbered anew.
- A test row's id is its place in the file, not what `index` says. In the
  official files that is the same number.
- A row with too few columns is left out of every task, and what follows keeps
  its number. The local reader leaves such rows out of QQP alone, where they
  occur, and counts them; here they are seen as gaps between the numbers, which
  miss those at the end. A gap in a test split is an error, as in a local file.
- What no official file holds: a carriage return within a line ends the line
  here; fields past the last column are ignored; a byte-order mark is taken for
  text (but for MRPC's, which must be there); and MNLI's label `-` for "no
  agreement", which GLUE took out of train and dev, cannot be prepared.
"""

import os
import pathlib
from typing import Any

import numpy as np

from shared_bert import errors
from shared_bert.data import tfds_sets
from shared_bert.data.glue_reader import Examples
from shared_bert.data.glue_tasks import Task, get_task

# TFDS's names where they are not the names of the files' columns.
_TEXT_FEATURES = {
  'mrpc': ('sentence1', 'sentence2'),
  'mnli': ('premise', 'hypothesis'),
  'ax': ('premise', 'hypothesis'),
}
_INSTEAD = (
  'read GLUE from files with --config.data.source=local '
  '--config.data.glue_dir=FOLDER, a folder in the layout of the official GLUE '
  'archives'
)


def load_split(
  task: str | Task, data_dir: str | os.PathLike[str], split: str
) -> Examples:
  """Reads one split of one task, after preparing the task where need be.

  Args:
    task: a task of `TASKS`, or its name.
    data_dir: TFDS's folder; `~` is the home folder.
    split: a split of the task, for example `dev` or `dev_matched`. TFDS has
      all of them, so that none is ever absent.

  Returns:
    The examples in the order of the official file; their ids are TFDS's `idx`,
    numbers of rows in that file, from 0.

  Raises:
    UserError: no such task or split, or what `prepare` raises, or the prepared
      files are damaged.
  """
  task = get_task(task)
  task.check_split(split)
  builder = prepare(task, data_dir)
  rows = _rows(builder, split)
  rows.sort(key=lambda row: row['idx'].int64_list.value[0])

  ids = [row['idx'].int64_list.value[0] for row in rows]
  texts = [
    [row[name].bytes_list.value[0].decode() for row in rows]
    for name in _TEXT_FEATURES.get(task.name, task.text_columns)
  ]
  if task.is_regression:
    scores = [row['label'].float_list.value[0] for row in rows]
    labels = np.asarray(scores, np.float32)
  else:
    classes = [row['label'].int64_list.value[0] for row in rows]
    labels = np.asarray(classes, np.int32)
  is_test = split in task.test_splits
  # MRPC's train and dev are numbered through one file that holds both.
  numbers = len(ids) if task.derived and not is_test else ids[-1] + 1
  absent = numbers - len(ids)
  if is_test and absent:
    raise errors.UserError(
      f'{tfds_sets.place(builder)} lacks {absent} rows of {task.name} '
      f'{split}, but the leaderboard wants one prediction a row; remove the '
      f'folder and run again, or {_INSTEAD}.'
    )
  return Examples(
    text_a=texts[0],
    text_b=texts[1] if task.is_pair else None,
    labels=None if is_test else labels,
    ids=ids,
    skip_reasons={'left out by TFDS': absent} if absent else {},
  )


def prepare(task: str | Task, data_dir: str | os.PathLike[str]) -> Any:
  """Fetches a task's set from the internet and prepares it, once.

  Args:
    task: a task of `TASKS`, or its name.
    data_dir: TFDS's folder, made if it is not there.

  Returns:
    TFDS's builder of the prepared set.

  Raises:
    UserError: as `tfds_sets.prepare`.
  """
  task = get_task(task)

  def make(root: pathlib.Path) -> Any:
    # Not by `tfds.builder`, which does not know `glue` without TensorFlow.
    from tensorflow_datasets.text.glue import Glue

    return Glue(config=task.name, data_dir=root)

  wanted = tfds_sets.TfdsSet(
    name=f'glue/{task.name}',
    make=make,
    what='GLUE from TensorFlow Datasets',
    instead=_INSTEAD,
  )
  return tfds_sets.prepare(wanted, data_dir)


def _rows(builder: Any, split: str) -> list[Any]:
  """The rows of a split, features by name, in TFDS's shuffled order."""
  import tensorflow_datasets as tfds

  try:
    # It has no word for splits called dev.
    source = builder.as_data_source(
      split.replace('dev', 'validation'),
      deserialize_method=tfds.decode.DeserializeMethod.RAW_BYTES,
      file_format=tfds_sets.FORMAT,
    )
    rows = tfds_sets.read_records(source, 0, len(source))
  except (RuntimeError, OSError) as error:
    raise errors.UserError(tfds_sets.damaged(builder, error)) from error
  # A file that is cut at 64 KiB has every record, and nothing in it.
  if not all('idx' in row for row in rows):
    raise errors.UserError(tfds_sets.damaged(builder, 'rows without idx'))
  return rows
