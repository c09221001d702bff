"""GLUE: splits in the layout of the official archives, leaderboard files.

The tasks are a table in `glue_tasks.py`; `glue_reader.py` reads one file.
"""

import hashlib
import os
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np

from shared_bert import errors
from shared_bert.data import glue_reader
from shared_bert.data.glue_reader import Examples
from shared_bert.data.glue_tasks import TASKS, Task, get_task

__all__ = [
  'TASKS',
  'Examples',
  'Task',
  'check_files',
  'fingerprint',
  'get_task',
  'load_split',
  'write_predictions',
]


def load_split(
  task: str | Task, glue_dir: str | os.PathLike[str], split: str
) -> Examples | None:
  """Reads one split of one task.

  Columns are found by the names in the header. The texts are kept as they
  stand in the file.

  Args:
    task: a task of `TASKS`, or its name.
    glue_dir: folder that holds the folders CoLA, SST-2, MRPC, ….
    split: a split of the task, for example `dev` or `dev_matched`.

  Returns:
    The examples in the order of the file, or None when the split is optional
    (a test split, MNLI's `dev_mismatched`) and its file is not there.

  Raises:
    UserError: no such task or split, a missing file, or a file that does not
      hold what it should; the sentence names the file and the line.
  """
  task = get_task(task)
  glue_dir = pathlib.Path(glue_dir)
  task.check_split(split)
  source = _source(task, glue_dir, split)
  if source is None:
    return None
  if task.derived is not None and source == glue_dir / task.folder:
    return glue_reader.read_derived(task, task.derived, split, source)
  return glue_reader.read(task, split, source)


def check_files(task: str | Task, glue_dir: str | os.PathLike[str]) -> None:
  """Sees that the files are there without which a task cannot be trained.

  Args:
    task: a task of `TASKS`, or its name.
    glue_dir: as for `load_split`.

  Raises:
    UserError: no such task, or a missing file.
  """
  task = get_task(task)
  for split in task.required_splits:
    _source(task, pathlib.Path(glue_dir), split)


def write_predictions(
  task: str | Task,
  split: str,
  ids: Sequence[int] | np.ndarray,
  predictions: Sequence[int] | Sequence[float] | np.ndarray,
  directory: str | os.PathLike[str],
) -> pathlib.Path:
  """Writes one file of a GLUE leaderboard submission, or of a task like it.

  A file is complete or not there: it is written beside its place and renamed.

  Args:
    task: a task of `TASKS`, its name, or a task of `own_files.load`.
    split: a test split of the task.
    ids: int [N], the index of each example, in any order.
    predictions: int [N] class ids, or float [N] scores of a regression task,
      which are clipped to the range of its labels, if that has ends.
    directory: where the file goes; made when it is not there.

  Returns:
    The path of the file: a header `index<TAB>prediction`, then a row per
    example by ascending index.

  Raises:
    UserError: the split has no file on the leaderboard, or a score is not a
      finite number.
    ValueError: ids and predictions do not fit each other or the task.
  """
  task = get_task(task)
  if split not in task.prediction_files:
    raise errors.UserError(
      f'The leaderboard takes no file for split {split!r} of {task.name}; it '
      f'takes {", ".join(task.prediction_files)}.'
    )
  indices = np.asarray(ids)
  values = np.asarray(predictions)
  if indices.ndim != 1 or indices.shape != values.shape:
    raise ValueError(f'{indices.shape} ids for {values.shape} predictions')
  if len(np.unique(indices)) != len(indices):
    raise ValueError('an id occurs twice')
  order = np.argsort(indices)
  texts = _prediction_texts(task, values[order])
  rows = zip(indices[order].tolist(), texts, strict=True)
  lines = [f'{index}\t{text}\n' for index, text in rows]

  path = pathlib.Path(directory) / task.prediction_files[split]
  temporary = path.with_name(f'.{path.name}.{os.getpid()}.tmp')
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    with temporary.open('w', encoding='utf-8', newline='\n') as file:
      file.write('index\tprediction\n')
      file.writelines(lines)
    os.replace(temporary, path)
  except OSError as error:
    raise errors.UserError(
      f'Cannot write the predictions {path} ({error.strerror}); make the '
      'folder writable or name another one.'
    ) from error
  finally:
    temporary.unlink(missing_ok=True)
  return path


def fingerprint(splits: Mapping[str, Examples | None]) -> str:
  """A hash that changes whenever a text, a label or their order changes.

  The way a file writes its lines (line ends, byte-order mark, other columns)
  does not enter, nor does the order of the mapping.

  Args:
    splits: split name to its examples; None counts as absent.

  Returns:
    A SHA-256 as 64 hexadecimal digits.
  """
  digest = hashlib.sha256()

  def add(data: bytes) -> None:
    # The length in front keeps ('ab', 'c') apart from ('a', 'bc').
    digest.update(len(data).to_bytes(8, 'little'))
    digest.update(data)

  for split in sorted(splits):
    examples = splits[split]
    if examples is None:
      continue
    add(split.encode())
    for texts in (examples.text_a, examples.text_b):
      if texts is None:
        add(b'no texts')
        continue
      add(f'{len(texts)} texts'.encode())
      for text in texts:
        add(text.encode())
    if examples.labels is None:
      add(b'no labels')
    else:
      is_score = np.issubdtype(examples.labels.dtype, np.floating)
      add(b'scores' if is_score else b'classes')
      dtype = '<f4' if is_score else '<i4'
      add(examples.labels.astype(dtype).tobytes())
  return digest.hexdigest()


def _prediction_texts(task: Task, values: np.ndarray) -> list[str]:
  """What the leaderboard wants to read for predictions [N]."""
  if task.label_range is not None:
    if not np.isfinite(values).all():
      raise errors.UserError(
        f'A prediction for {task.name} is not a finite number: the training '
        'has diverged. Lower train.learning_rate and train again.'
      )
    # Scores without bounds may be of any size; nine digits tell all float32
    # numbers apart.
    digits = '.6f' if np.isfinite(task.label_range).all() else '.9g'
    return [f'{value:{digits}}' for value in np.clip(values, *task.label_range)]
  if not np.issubdtype(values.dtype, np.integer):
    raise ValueError(f'class ids must be integers, not {values.dtype}')
  names = task.labels_in_files
  if values.size and not 0 <= values.min() <= values.max() < len(names):
    raise ValueError(f'a class id is not one of 0 … {len(names) - 1}')
  return [names[value] for value in values.tolist()]


def _source(
  task: Task, glue_dir: pathlib.Path, split: str
) -> pathlib.Path | None:
  """The file of a split, the task's folder where train and dev are derived.

  None for an optional split that is not there; a required one is an error.
  """
  for path in task.paths(glue_dir, split):
    if path.exists():
      return path
  folder = glue_dir / task.folder
  if task.derived is not None and split in ('train', 'dev'):
    files = (task.derived.file, task.derived.dev_ids)
    if all((folder / file).exists() for file in files):
      return folder
  if split not in task.required_splits:
    return None
  raise errors.UserError(_missing(task, split, glue_dir))


def _missing(task: Task, split: str, glue_dir: pathlib.Path) -> str:
  """The sentence for a required split that is not there."""
  path = task.paths(glue_dir, split)[0]
  if not glue_dir.is_dir():
    what = 'a file' if glue_dir.is_file() else 'not there'
    return (
      f'data.glue_dir={glue_dir} is {what}: name the folder that holds '
      f'{task.folder} and the others, in the layout of the official archives.'
    )
  layout = [f'{task.folder}/{files[0]}' for files in task.splits.values()]
  sentence = (
    f'Task {task.name} needs the file {path}, which is not there. '
    'data.glue_dir must name a folder in the layout of the official GLUE '
    f'archives, here with {", ".join(layout)}'
  )
  if task.derived is not None:
    sentence += (
      f' (or {task.folder}/{task.derived.file} with '
      f'{task.folder}/{task.derived.dev_ids} for train and dev)'
    )
  if (glue_dir / path.name).exists():
    sentence += f'. {glue_dir} holds {path.name} itself: name its parent'
  return sentence + '.'
