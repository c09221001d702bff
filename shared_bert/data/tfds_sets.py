"""A set of TensorFlow Datasets (TFDS), fetched and prepared once.

That needs TensorFlow and the internet; what is prepared is read without either.
"""

import contextlib
import dataclasses
import errno
import fcntl
import functools
import importlib
import io
import logging
import os
import pathlib
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

from shared_bert import errors
from shared_bert.tensorflow_cpu import import_tensorflow

FORMAT = 'array_record'
# Seconds to wait for a connection, then for the next bytes.
_TIMEOUTS = (5, 30)


@dataclasses.dataclass(frozen=True)
class TfdsSet:
  """Which set, and what sentences say of it.

  Attributes:
    name: such as `glue/cola`.
    make: makes TFDS's builder of it in a folder of sets.
    what: what needs the packages that preparing needs.
    instead: what a user without internet can do, after "or".
  """

  name: str
  make: Callable[[pathlib.Path], Any]
  what: str
  instead: str


def prepare(wanted: TfdsSet, data_dir: str | os.PathLike[str]) -> Any:
  """Fetches a set from the internet and prepares it, once.

  A second call, or a second process, finds it done. What a killed process left
  behind does no harm. A copy in another format, such as the TFRECORD files that
  TFDS makes by itself, is left alone: ours goes to `data_dir/array_record`.

  Args:
    wanted: the set.
    data_dir: TFDS's folder, made if it is not there.

  Returns:
    TFDS's builder of the prepared set.

  Raises:
    UserError: it cannot be fetched or written, or a package is missing.
  """
  data_dir = _folder(data_dir)
  builder = _find(wanted, data_dir)
  if _is_complete(builder):
    return builder
  if not hasattr(builder, '_split_generators'):
    # Files without the code that made them: not ours to remove.
    raise errors.UserError(damaged(builder, 'not all of its files are there'))
  _say(f'fetching and preparing {wanted.name} in {data_dir}')
  start = time.monotonic()
  try:
    with _lock(place(builder).parent):
      builder = _find(wanted, data_dir)
      if not _is_complete(builder):  # else another process was faster
        if place(builder).exists():
          shutil.rmtree(place(builder))
          builder = _find(wanted, data_dir)  # forgets what was there
        _download_and_prepare(builder, data_dir / 'downloads')
  except Exception as error:
    # Where a file system has no locks, two may have worked and one was first.
    if not _is_complete(_find(wanted, data_dir)):
      _raise_for_user(error, wanted, data_dir)
  _say(f'{wanted.name} is ready ({time.monotonic() - start:.0f} s)')
  return _find(wanted, data_dir)


def _folder(data_dir: str | os.PathLike[str]) -> pathlib.Path:
  """The folder as a path; array records are read from local disks only."""
  if '://' in os.fspath(data_dir):
    raise errors.UserError(
      f'{data_dir} is not a folder of this machine; name a local folder for '
      'TensorFlow Datasets.'
    )
  return pathlib.Path(data_dir).expanduser().absolute()


def _find(wanted: TfdsSet, data_dir: pathlib.Path) -> Any:
  """TFDS's builder of the set, at the place where our format is or goes."""
  try:
    from google.protobuf import json_format
  except ImportError as error:
    raise _missing_package(wanted, error) from error
  for root in (data_dir, data_dir / FORMAT):
    try:
      builder = wanted.make(root)
    except ImportError as error:
      raise _missing_package(wanted, error) from error
    except json_format.ParseError as error:
      raise errors.UserError(damaged(root / wanted.name, error)) from error
    formats = {x.value for x in builder.info.available_file_formats()}
    if not _info_file(builder).exists() or FORMAT in formats:
      return builder
  raise errors.UserError(
    f'{place(builder)} is not in the format {FORMAT}; remove it, or name '
    'another folder.'
  )


def place(builder: Any) -> pathlib.Path:
  """The folder of the prepared set, `…/glue/cola/2.0.0`."""
  return pathlib.Path(builder.data_dir)


def _info_file(builder: Any) -> pathlib.Path:
  return place(builder) / 'dataset_info.json'


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
  if isinstance(builder, tfds.core.BeamBasedBuilder):
    beam_options = importlib.import_module(
      'apache_beam.options.pipeline_options'
    )
    # Without any TFDS may wait for an answer at the keyboard.
    config.beam_options = beam_options.PipelineOptions()
  tfds.display_progress_bar(sys.stderr.isatty())
  # TFDS prints two lines of its own, which say less than ours.
  with _no_long_waits(), contextlib.redirect_stdout(io.StringIO()):
    builder.download_and_prepare(
      download_dir=downloads, download_config=config, file_format=FORMAT
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


def read_records(source: Any, start: int, stop: int) -> list[Any]:
  """The features by name of rows of a source of raw records.

  Args:
    source: of array_record or of TFDS, in the latter case of undecoded rows:
      TFDS takes five times as long to decode one, a minute for MNLI.
    start: the first row.
    stop: the row after the last.

  Returns:
    Features of TensorFlow's `Example`.

  Raises:
    RuntimeError: the file is damaged. OSError: so is this.
  """
  from google.protobuf import message
  from tensorflow_datasets.proto import tf_example_pb2

  messages: Any = tf_example_pb2  # its classes are made when it is imported
  try:
    return [
      messages.Example.FromString(record).features.feature
      for record in source.__getitems__(range(start, stop))
    ]
  except message.DecodeError as error:
    raise RuntimeError(str(error)) from error


def _raise_for_user(
  error: Exception, wanted: TfdsSet, data_dir: pathlib.Path
) -> None:
  """Says what went wrong in preparing; a bug goes on as it is."""
  import requests
  import tensorflow_datasets as tfds
  from tensorflow_datasets.core.download.download_manager import (
    NonMatchingChecksumError,
  )

  name = wanted.name
  if isinstance(error, ImportError):
    raise _missing_package(wanted, error) from error
  if isinstance(error, requests.RequestException | tfds.download.DownloadError):
    reason = str(error)
    if isinstance(error, requests.RequestException) and error.request:
      url = str(error.request.url).partition('?')[0]
      reason = f'{url}: {type(error).__name__}'
    raise errors.UserError(
      f'{name} is not in {data_dir} yet and could not be fetched ({reason}); '
      f'run again where there is internet, or {wanted.instead}.'
    ) from error
  if isinstance(error, NonMatchingChecksumError):
    raise errors.UserError(
      f'What was fetched for {name} is not the file that TensorFlow Datasets '
      f'knows ({_line(error)}); run again, or {wanted.instead}.'
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
  # TFDS asserts that what it cannot fetch was put there by hand.
  if isinstance(error, AssertionError) and 'anual' in str(error):
    raise errors.UserError(
      f'{name} cannot be fetched without you: {" ".join(str(error).split())}'
    ) from error
  raise error


def _missing_package(wanted: TfdsSet, error: ImportError) -> errors.UserError:
  """For what is installed with shared_bert, but may have been left out."""
  return errors.UserError(
    f'{wanted.what} needs {error.name or error}, which is not installed; '
    f'install it, or {wanted.instead}.'
  )


def damaged(builder_or_folder: Any, error: Exception | str) -> str:
  """A sentence.

  Args:
    builder_or_folder: of the set.
    error: what is wrong.
  """
  folder = getattr(builder_or_folder, 'data_dir', builder_or_folder)
  return (
    f'The prepared files in {os.fspath(folder)} are damaged ({_line(error)}); '
    'remove the folder and run again.'
  )


def _line(error: Exception | str) -> str:
  """The beginning of an error's text."""
  return str(error).partition('\n')[0].rstrip(':')


def _say(message: str) -> None:
  print(f'prepare: {message}', file=sys.stderr, flush=True)
