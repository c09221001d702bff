"""Rows in files: one array to index, and no damage that goes unnoticed."""

import numpy as np
import pytest

from shared_bert.data import row_files
from shared_bert.data.row_files import RowFiles, read_labels, write_rows
from shared_bert.errors import UserError

S = 16
SIZES = (700, 0, 1, 300)


@pytest.fixture
def files(tmp_path, monkeypatch):
  """Files of rows with many blocks: folder, facts, all rows."""
  monkeypatch.setattr(row_files, '_BLOCK_BYTES', 1000)  # 31 rows
  rng = np.random.default_rng(0)
  rows = rng.integers(0, 2**16, (sum(SIZES), S)).astype(np.uint16)
  facts = {}
  for k, part in enumerate(np.split(rows, np.cumsum(SIZES)[:-1])):
    facts[f'train-{k:05}.npy'] = write_rows(
      tmp_path / f'train-{k:05}.npy', part
    )
  return tmp_path, facts, rows


def opened(files):
  return RowFiles(files[0], files[1], S, np.dtype('<u2'))


KEYS = {
  'all': slice(None),
  'none': slice(5, 5),
  'across files': slice(690, 720),
  'steps': slice(900, 20, -7),
  'past the end': slice(1000, 2000),
  'one': 701,
  'the last': -1,
  'a NumPy integer': np.int64(3),
  'a list': [1, 700, 0, 1],
  'an array': np.random.default_rng(1).integers(-1001, 1001, 400),
  'narrow integers': np.array([3, 255], np.uint8),
  'nothing': [],
}


@pytest.mark.parametrize('case', KEYS)
def test_files_are_indexed_as_one_array(case, files):
  rows = opened(files)
  key = KEYS[case]
  expected = files[2][np.zeros(0, int) if case == 'nothing' else key]
  got = rows[key]
  assert type(got) is np.ndarray and got.dtype == np.uint16
  np.testing.assert_array_equal(got, expected)
  assert rows.shape == files[2].shape and len(rows) == 1001 and rows.ndim == 2
  np.testing.assert_array_equal(np.asarray(rows), files[2])


@pytest.mark.parametrize('key', [1001, -1002, [0, 1001], [0.5], [[1]]])
def test_rows_that_are_not_there_are_index_errors(key, files):
  with pytest.raises(IndexError):
    opened(files)[key]


def test_a_file_is_an_ordinary_npy_file(files):
  folder, _, rows = files
  stored = np.load(folder / 'train-00000.npy')
  np.testing.assert_array_equal(stored, rows[:700])


def test_no_files_are_no_rows(tmp_path):
  nothing = RowFiles(tmp_path, {}, S, np.dtype('<u2'))
  assert nothing.shape == nothing[:].shape == (0, S)
  assert nothing[[]].shape == (0, S)


@pytest.mark.parametrize('seed', range(12))
def test_a_flipped_bit_anywhere_is_found_and_named(seed, files):
  folder, facts, rows = files
  rng = np.random.default_rng(seed)
  name = ('train-00000.npy', 'train-00003.npy')[seed % 2]
  path = folder / name
  data = bytearray(path.read_bytes())
  head = len(data) - facts[name]['rows'] * S * 2
  # Every third time in the head.
  bit = rng.integers(0, 8 * (head if seed % 3 == 0 else len(data)))
  data[bit // 8] ^= 1 << int(bit % 8)
  path.write_bytes(data)
  if bit < 8 * head:
    with pytest.raises(UserError, match=f'{name} has another head'):
      opened(files)
    return
  damaged = (bit // 8 - head) // (2 * S)
  block = range(damaged // 31 * 31, damaged // 31 * 31 + 31)
  offset = 0 if name == 'train-00000.npy' else 701
  # What is not damaged can be read.
  mapped = opened(files)
  whole = [r for r in range(1001) if r - offset not in block]
  np.testing.assert_array_equal(mapped[whole], rows[whole])
  last = min(block.stop, facts[name]['rows']) - 1
  words = f'{name} has not the rows {block.start} to {last} that were'
  with pytest.raises(UserError, match=words):
    mapped[[0, offset + damaged]]
  with pytest.raises(UserError, match=words):
    opened(files)[:]
  with pytest.raises(UserError, match=words):
    opened(files)[offset + damaged]


def test_a_manifest_of_other_rows_is_refused(files):
  folder, facts, _ = files
  facts['train-00000.npy'] |= {'crc32': '00000000'}
  with pytest.raises(UserError, match='does not fit its manifest'):
    RowFiles(folder, facts, S, np.dtype('<u2'))


def test_labels_are_checked(tmp_path):
  path = tmp_path / 'train-00000.labels.npy'
  labels = np.arange(50, dtype=np.uint8) % 2
  facts = write_rows(path, labels)
  np.testing.assert_array_equal(read_labels(path, facts), labels)
  np.testing.assert_array_equal(np.load(path), labels)
  data = bytearray(path.read_bytes())
  data[-1] ^= 1
  path.write_bytes(data)
  with pytest.raises(UserError, match='labels.npy has not the contents'):
    read_labels(path, facts)


def test_a_file_that_cannot_be_written_leaves_nothing(tmp_path):
  path = tmp_path / 'a.npy'
  path.mkdir()  # so that the rename fails
  with pytest.raises(OSError):
    write_rows(path, np.zeros((3, S), np.uint16))
  assert [p.name for p in tmp_path.iterdir()] == ['a.npy']
