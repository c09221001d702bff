"""A GLUE set is prepared once, whatever comes in between."""

import errno
import fcntl
import functools
import http.server
import os
import pathlib
import shutil
import signal
import threading

import pytest

from shared_bert import errors
from shared_bert.data import glue, glue_tfds, tfds_sets
from tests.glue_files import (
  WITHOUT,
  as_downloads,
  assert_equal,
  run_python,
  write_odd_glue,
)


@pytest.fixture(scope='module')
def glue_dir(tmp_path_factory):
  """Local files of every task."""
  folder = tmp_path_factory.mktemp('glue')
  write_odd_glue(folder)
  return folder


def test_preparation_says_a_line_before_and_after(glue_dir, tmp_path, capfd):
  with as_downloads(glue_dir):
    glue_tfds.prepare('wnli', tmp_path / 'made')
    out, err = capfd.readouterr()
    assert out == ''
    first, last = err.splitlines()
    assert (
      first == f'prepare: fetching and preparing glue/wnli in {tmp_path}/made'
    )
    assert last.startswith('prepare: glue/wnli is ready (')
    glue_tfds.prepare('wnli', tmp_path / 'made')
  assert capfd.readouterr() == ('', '')


def test_tensorflow_is_kept_off_accelerators(glue_dir, tmp_path, monkeypatch):
  import tensorflow as tf

  hidden = []
  monkeypatch.setattr(
    tf.config,
    'set_visible_devices',
    lambda devices, kind: hidden.append((kind, devices)),
  )
  with as_downloads(glue_dir):
    glue_tfds.prepare('wnli', tmp_path)
  assert hidden == [('GPU', []), ('TPU', [])]


def test_without_internet_a_sentence_comes_soon_and_nothing_breaks(
  glue_dir, tmp_path, monkeypatch, capfd
):
  from tensorflow_datasets.text.glue import Glue

  # Nobody listens on port 9 here; TFDS would try for minutes.
  url = 'http://127.0.0.1:9/WNLI.zip'
  monkeypatch.setenv('NO_PROXY', '127.0.0.1')
  monkeypatch.setattr(Glue.builder_configs['wnli'], 'data_url', url)
  with pytest.raises(errors.UserError) as caught:
    glue_tfds.load_split('wnli', tmp_path, 'train')
  sentence = str(caught.value)
  assert f'{tmp_path} yet and could not be fetched ({url}: Conn' in sentence
  assert '--config.data.source=local --config.data.glue_dir=FOLDER' in sentence
  assert 'Retrying' not in capfd.readouterr().err
  with as_downloads(glue_dir):
    train = glue_tfds.load_split('wnli', tmp_path, 'train')
  assert_equal(train, glue.load_split('wnli', glue_dir, 'train'))


def test_a_download_waits_for_seconds_and_tries_again_once(monkeypatch):
  from tensorflow_datasets.core.download import downloader

  calls = []
  monkeypatch.setattr(
    downloader, '_open_url', lambda url, **options: calls.append(options)
  )
  with tfds_sets._no_long_waits():
    assert downloader.MAX_RETRIES == 1
    downloader._open_url('http://a/b', verify=True)
  assert calls == [{'verify': True, 'timeout': (5, 30)}]
  assert downloader.MAX_RETRIES > 1


def test_an_archive_is_downloaded_and_unpacked(glue_dir, tmp_path, monkeypatch):
  from tensorflow_datasets.text.glue import Glue

  served = tmp_path / 'served'
  served.mkdir()
  shutil.make_archive(str(served / 'WNLI'), 'zip', glue_dir, 'WNLI')
  handler = functools.partial(
    http.server.SimpleHTTPRequestHandler, directory=served
  )
  with http.server.ThreadingHTTPServer(('127.0.0.1', 0), handler) as server:
    threading.Thread(target=server.serve_forever).start()
    url = f'http://127.0.0.1:{server.server_port}/WNLI.zip'
    monkeypatch.setenv('NO_PROXY', '127.0.0.1')
    monkeypatch.setattr(Glue.builder_configs['wnli'], 'data_url', url)
    try:
      train = glue_tfds.load_split('wnli', tmp_path / 'tfds', 'train')
    finally:
      server.shutdown()
  assert_equal(train, glue.load_split('wnli', glue_dir, 'train'))


def test_a_file_that_is_refused_by_the_server_is_a_sentence(
  tmp_path, monkeypatch
):
  import tensorflow_datasets as tfds

  def refuse(manager, url):
    raise tfds.download.DownloadError(
      f'Failed to get url {url}. HTTP code: 404.'
    )

  monkeypatch.setattr(
    tfds.download.DownloadManager, 'download_and_extract', refuse
  )
  with pytest.raises(errors.UserError, match=r'\(Failed .*404.*source=local'):
    glue_tfds.prepare('wnli', tmp_path)


@pytest.mark.parametrize(
  'error',
  [
    OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
    # So says the writer of array records, and TFDS before it starts.
    RuntimeError('write() failed: No space left on device; writing /a'),
    OSError('Not enough disk space. Needed: 1 GiB'),
  ],
)
def test_a_full_disk_is_a_sentence_and_leaves_nothing_half_done(
  glue_dir, tmp_path, monkeypatch, error
):
  from tensorflow_datasets.text.glue import Glue

  def fail(*arguments, **options):
    yield 0, {'sentence1': 'a', 'sentence2': 'b', 'label': 0, 'idx': 0}
    raise error

  with as_downloads(glue_dir):
    with monkeypatch.context() as patch:
      patch.setattr(Glue, '_generate_examples', fail)
      with pytest.raises(errors.UserError, match=f'No space .* {tmp_path} to'):
        glue_tfds.prepare('wnli', tmp_path)
    assert not list((tmp_path / 'glue' / 'wnli').iterdir())
    assert len(glue_tfds.load_split('wnli', tmp_path, 'dev')) == 5


def test_a_folder_that_cannot_be_written_is_a_sentence(tmp_path, monkeypatch):
  file = tmp_path / 'file'
  file.write_text('')
  for place in (file, file / 'below'):
    with pytest.raises(errors.UserError, match=f'glue/cola in {place} .*Not a'):
      glue_tfds.prepare('cola', place)
  with pytest.raises(errors.UserError, match='not a folder of this machine'):
    glue_tfds.prepare('cola', 'gs://bucket/tfds')

  def refuse(*arguments, **options):
    raise PermissionError(errno.EACCES, 'Permission denied', str(tmp_path))

  monkeypatch.setattr(pathlib.Path, 'mkdir', refuse)
  with pytest.raises(errors.UserError, match='Permission denied.*may write'):
    glue_tfds.prepare('cola', tmp_path)


@pytest.mark.parametrize(
  'package',
  [
    'tensorflow',
    # TFDS imports it late and does not declare it.
    pytest.param('importlib_resources', marks=pytest.mark.slow),
  ],
)
def test_a_missing_package_is_named(tmp_path, package):
  code = WITHOUT + (
    'from shared_bert import errors\n'
    'from shared_bert.data import glue_tfds\n'
    'try:\n'
    '  glue_tfds.prepare("wnli", sys.argv[1])\n'
    'except errors.UserError as error:\n'
    '  print(error)\n'
  )
  process = run_python(code, tmp_path, package)
  out, err = process.communicate()
  assert f'needs {package}, which is not installed' in out, err


def test_a_copy_in_tfrecord_is_left_alone(glue_dir, tmp_path):
  from tensorflow_datasets.text.glue import Glue

  with as_downloads(glue_dir):
    Glue(config='cola', data_dir=tmp_path).download_and_prepare()
  before = sorted((tmp_path / 'glue').rglob('*'))
  assert any('tfrecord' in path.name for path in before)
  with as_downloads(glue_dir):
    glue_tfds.prepare('cola', tmp_path)
  with as_downloads(None):
    dev = glue_tfds.load_split('cola', tmp_path, 'dev')
  assert_equal(dev, glue.load_split('cola', glue_dir, 'dev'))
  assert sorted((tmp_path / 'glue').rglob('*')) == before


@pytest.mark.parametrize('pattern', ['*-train.*', 'dataset_info.json', '*'])
def test_a_folder_copied_in_part_is_prepared_again(glue_dir, tmp_path, pattern):
  with as_downloads(glue_dir):
    glue_tfds.prepare('cola', tmp_path)
    for path in (tmp_path / 'glue' / 'cola').glob(f'*/{pattern}'):
      path.unlink()
    train = glue_tfds.load_split('cola', tmp_path, 'train')
  assert_equal(train, glue.load_split('cola', glue_dir, 'train'))


@pytest.mark.parametrize(
  ('name', 'size'),
  [('*-train.*', 1000), ('*-train.*', 2**16), ('dataset_info.json', 1000)],
)
def test_files_cut_short_are_named(glue_dir, tmp_path, name, size):
  with as_downloads(glue_dir):
    glue_tfds.prepare('cola', tmp_path)
  (path,) = (tmp_path / 'glue' / 'cola').glob(f'*/{name}')
  assert path.stat().st_size > size
  os.truncate(path, size)
  with pytest.raises(
    errors.UserError, match='glue/cola.* damaged .*remove the'
  ):
    glue_tfds.load_split('cola', tmp_path, 'train')


_PREPARE = (
  'import os, pathlib, signal, sys\n'
  'from tensorflow_datasets.text.glue import Glue\n'
  'from shared_bert.data import glue_tfds\n'
  'from tests.glue_files import as_downloads\n'
  'def die(*arguments, **options):\n'
  '  yield 0, {"sentence": "a", "label": 0, "idx": 0}\n'
  '  os.kill(os.getpid(), signal.SIGKILL)\n'
  'if "die" in sys.argv:\n'
  '  Glue._generate_examples = die\n'
  'with as_downloads(pathlib.Path(sys.argv[1])):\n'
  '  glue_tfds.prepare("cola", sys.argv[2])\n'
)


@pytest.mark.slow
def test_a_killed_preparation_is_made_good_by_the_next(glue_dir, tmp_path):
  killed = run_python(_PREPARE, glue_dir, tmp_path, 'die')
  _, err = killed.communicate()
  assert killed.returncode == -signal.SIGKILL, err
  assert list((tmp_path / 'glue' / 'cola').glob('incomplete*'))
  with as_downloads(glue_dir):
    train = glue_tfds.load_split('cola', tmp_path, 'train')
  assert_equal(train, glue.load_split('cola', glue_dir, 'train'))


@pytest.mark.slow
def test_of_two_processes_one_prepares_and_the_other_waits(glue_dir, tmp_path):
  (tmp_path / 'glue' / 'cola').mkdir(parents=True)
  handle = os.open(tmp_path / 'glue' / 'cola', os.O_RDONLY)
  fcntl.flock(handle, fcntl.LOCK_EX)
  pair = [run_python(_PREPARE, glue_dir, tmp_path) for _ in range(2)]
  for process in pair:  # both wait for us, then one for the other
    lines = [process.stderr.readline() for _ in range(2)]
    assert 'waiting for another process' in lines[1]
  os.close(handle)
  for process in pair:
    _, err = process.communicate()
    assert not process.returncode, err
    assert 'glue/cola is ready' in err
  train = glue_tfds.load_split('cola', tmp_path, 'train')
  assert_equal(train, glue.load_split('cola', glue_dir, 'train'))


def test_where_there_are_no_locks_the_slower_of_two_is_fine(
  glue_dir, tmp_path, monkeypatch
):
  import tensorflow_datasets as tfds

  def no_locks(handle, operation):
    raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

  monkeypatch.setattr(fcntl, 'flock', no_locks)
  # A context of its own: undone later, it would bring the downloads back.
  with as_downloads(glue_dir), monkeypatch.context() as patch:
    extract = tfds.download.DownloadManager.download_and_extract

    def overtake(manager, url):
      patch.setattr(
        tfds.download.DownloadManager, 'download_and_extract', extract
      )
      glue_tfds.prepare('cola', tmp_path)
      return extract(manager, url)

    patch.setattr(
      tfds.download.DownloadManager, 'download_and_extract', overtake
    )
    glue_tfds.prepare('cola', tmp_path)
  assert [path.name for path in (tmp_path / 'glue' / 'cola').iterdir()] == [
    '2.0.0'
  ]
  dev = glue_tfds.load_split('cola', tmp_path, 'dev')
  assert_equal(dev, glue.load_split('cola', glue_dir, 'dev'))
