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

import contextlib
import errno
import fcntl
import functools
import io
import logging
import os
import pathlib
import shutil
import sys
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from shared_bert import errors
from shared_bert.data.glue_reader import Examples
from shared_bert.data.glue_tasks import Task, get_task
from shared_bert.tensorflow_cpu import import_tensorflow

_FORMAT = 'array_record'
# TFDS's names where they are not the names of the files' columns.
_TEXT_FEATURES = {
  'mrpc': ('sentence1', 'sentence2'),
  'mnli': ('premise', 'hypothesis'),
  'ax': ('premise', 'hypothesis'),
}
# Seconds to wait for a connection, then for the next bytes.
_TIMEOUTS = (5, 30)
_OR_LOCAL = (
  'or read GLUE from files with --config.data.source=local '
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
  prepare(task, data_dir)
  builder = _builder(task, _folder(data_dir))
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
      f'{_place(builder)} lacks {absent} rows of {task.name} {split}, but '
      'the leaderboard wants one prediction a row; remove the folder and run '
      f'again, {_OR_LOCAL}.'
    )
  return Examples(
    text_a=texts[0],
    text_b=texts[1] if task.is_pair else None,
    labels=None if is_test else labels,
    ids=ids,
    skip_reasons={'left out by TFDS': absent} if absent else {},
  )


def prepare(task: str | Task, data_dir: str | os.PathLike[str]) -> None:
  """Fetches a task's set from the internet and prepares it, once.

  A second call, or a second process, finds it done. What a killed process left
  behind does no harm. A copy in another format, such as the TFRECORD files that
  TFDS makes by itself, is left alone: ours goes to `data_dir/array_record`.

  Args:
    task: a task of `TASKS`, or its name.
    data_dir: TFDS's folder, made if it is not there.

  Raises:
    UserError: it cannot be fetched or written, or a package is missing.
  """
  task = get_task(task)
  data_dir = _folder(data_dir)
  builder = _builder(task, data_dir)
  if _is_complete(builder):
    return
  _say(f'fetching and preparing glue/{task.name} in {data_dir}')
  start = time.monotonic()
  try:
    with _lock(_place(builder).parent):
      builder = _builder(task, data_dir)
      if not _is_complete(builder):  # else another process was faster
        if _place(builder).exists():
          shutil.rmtree(_place(builder))
          builder = _builder(task, data_dir)  # forgets what was there
        _download_and_prepare(builder, data_dir / 'downloads')
  except Exception as error:
    # Where a file system has no locks, two may have worked and one was first.
    if not _is_complete(_builder(task, data_dir)):
      _raise_for_user(error, task, data_dir)
  _say(f'glue/{task.name} is ready ({time.monotonic() - start:.0f} s)')


def _folder(data_dir: str | os.PathLike[str]) -> pathlib.Path:
  """The folder as a path; array records are read from local disks only."""
  if '://' in os.fspath(data_dir):
    raise errors.UserError(
      f'{data_dir} is not a folder of this machine; name a local folder for '
      'TensorFlow Datasets.'
    )
  return pathlib.Path(data_dir).expanduser().absolute()


def _builder(task: Task, data_dir: pathlib.Path) -> Any:
  """TFDS's builder of the task, at the place where our format is or goes."""
  try:
    from google.protobuf import json_format

    # Not by `tfds.builder`, which does not know `glue` without TensorFlow.
    from tensorflow_datasets.text.glue import Glue
  except ImportError as error:
    raise _missing_package(error) from error
  for root in (data_dir, data_dir / _FORMAT):
    try:
      builder = Glue(config=task.name, data_dir=root)
    except json_format.ParseError as error:
      folder = root / 'glue' / task.name
      raise errors.UserError(_damaged(folder, error)) from error
    formats = {x.value for x in builder.info.available_file_formats()}
    if not _info_file(builder).exists() or _FORMAT in formats:
      return builder
  raise errors.UserError(
    f'{_place(builder)} is not in the format {_FORMAT}; remove it, or name '
    'another folder.'
  )


def _place(builder: Any) -> pathlib.Path:
  """The folder of the prepared set, `…/glue/cola/2.0.0`."""
  return pathlib.Path(builder.data_dir)


def _info_file(builder: Any) -> pathlib.Path:
  return _place(builder) / 'dataset_info.json'


def _is_complete(builder: Any) -> bool:
  """Whether every file of the prepared set is there."""
  # TFDS gives the folder its name at the end, so that files are missing only
  # where the folder was copied or cleaned up in part.
  return _info_file(builder).exists() and all(
    os.path.exists(path)
    for split in builder.info.splits.values()
    for path in split.filepaths
  )


def _download_and_prepare(builder: Any, downloads: pathlib.Path) -> None:
  """Has TFDS do its work; its bars are for terminals."""
  import tensorflow_datasets as tfds

  import_tensorflow()  # TFDS imports it as well, but for all devices
  config = tfds.download.DownloadConfig(try_download_gcs=False)
  tfds.display_progress_bar(sys.stderr.isatty())
  # TFDS prints two lines of its own, which say less than ours.
  with _no_long_waits(), contextlib.redirect_stdout(io.StringIO()):
    builder.download_and_prepare(
      download_dir=downloads, download_config=config, file_format=_FORMAT
    )


@contextlib.contextmanager
def _no_long_waits() -> Iterator[None]:
  """Lets a download fail within a minute where there is no internet.

  By itself TFDS tries eleven times, for three and a half minutes, and waits
  for each connection as long as the system does, which may be minutes again.
  It has no setting for either.
  """
  from tensorflow_datasets.core.download import downloader as tfds_downloader

  downloader: Any = tfds_downloader
  retries, open_url = downloader.MAX_RETRIES, downloader._open_url
  urllib3 = logging.getLogger('urllib3')
  level = urllib3.level
  downloader.MAX_RETRIES = 1
  downloader._open_url = functools.partial(open_url, timeout=_TIMEOUTS)
  urllib3.setLevel(logging.ERROR)  # it would log each retry
  try:
    yield
  finally:
    downloader.MAX_RETRIES, downloader._open_url = retries, open_url
    urllib3.setLevel(level)


@contextlib.contextmanager
def _lock(folder: pathlib.Path) -> Iterator[None]:
  """Makes the folder and holds it for this process, or waits for it."""
  folder.mkdir(parents=True, exist_ok=True)
  # The lock ends with the process, however that ends.
  handle = os.open(folder, os.O_RDONLY)
  try:
    try:
      fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      _say(f'waiting for another process that prepares {folder}')
      fcntl.flock(handle, fcntl.LOCK_EX)
    except OSError:
      pass  # some network file systems have no locks
    yield
  finally:
    os.close(handle)


def _rows(builder: Any, split: str) -> list[Any]:
  """The rows of a split, features by name, in TFDS's shuffled order."""
  import tensorflow_datasets as tfds
  from tensorflow_datasets.proto import tf_example_pb2

  try:
    # Raw, since TFDS takes five times as long to decode a row: a minute for
    # MNLI. It has no word for splits called dev.
    source = builder.as_data_source(
      split.replace('dev', 'validation'),
      deserialize_method=tfds.decode.DeserializeMethod.RAW_BYTES,
      file_format=_FORMAT,
    )
    records = source.__getitems__(range(len(source)))
  except (RuntimeError, OSError) as error:
    raise errors.UserError(_damaged(_place(builder), error)) from error
  messages: Any = tf_example_pb2  # its classes are made when it is imported
  rows = [
    messages.Example.FromString(record).features.feature for record in records
  ]
  # A file that is cut at 64 KiB has every record, and nothing in it.
  if not all('idx' in row for row in rows):
    raise errors.UserError(_damaged(_place(builder), 'rows without idx'))
  return rows


def _raise_for_user(
  error: Exception, task: Task, data_dir: pathlib.Path
) -> None:
  """Says what went wrong in preparing; a bug goes on as it is."""
  import requests
  import tensorflow_datasets as tfds
  from tensorflow_datasets.core.download.download_manager import (
    NonMatchingChecksumError,
  )

  name = f'glue/{task.name}'
  if isinstance(error, ImportError):
    raise _missing_package(error) from error
  if isinstance(error, requests.RequestException | tfds.download.DownloadError):
    reason = str(error)
    if isinstance(error, requests.RequestException) and error.request:
      url = str(error.request.url).partition('?')[0]
      reason = f'{url}: {type(error).__name__}'
    raise errors.UserError(
      f'{name} is not in {data_dir} yet and could not be fetched ({reason}); '
      f'run again where there is internet, {_OR_LOCAL}.'
    ) from error
  if isinstance(error, NonMatchingChecksumError):
    raise errors.UserError(
      f'What was fetched for {name} is not the file that TensorFlow Datasets '
      f'knows ({_line(error)}); run again, {_OR_LOCAL}.'
    ) from error
  # A full disk has as many faces as there are libraries that write.
  if os.strerror(errno.ENOSPC) in str(error) or 'disk space' in str(error):
    raise errors.UserError(
      f'No space is left in {data_dir} to prepare {name}; make room, or name '
      'another folder.'
    ) from error
  if isinstance(error, OSError):
    raise errors.UserError(
      f'Cannot prepare {name} in {data_dir} ({_line(error)}); name a folder '
      'that you may write to.'
    ) from error
  raise error


def _missing_package(error: ImportError) -> errors.UserError:
  """For what is installed with shared_bert, but may have been left out."""
  return errors.UserError(
    f'GLUE from TensorFlow Datasets needs {error.name or error}, which is not '
    f'installed; install it, {_OR_LOCAL}.'
  )


def _damaged(folder: os.PathLike[str], error: Exception | str) -> str:
  return (
    f'The prepared files in {os.fspath(folder)} are damaged ({_line(error)}); '
    'remove the folder and run again.'
  )


def _line(error: Exception | str) -> str:
  """The beginning of an error's text."""
  return str(error).partition('\n')[0].rstrip(':')


def _say(message: str) -> None:
  print(f'prepare: {message}', file=sys.stderr, flush=True)
