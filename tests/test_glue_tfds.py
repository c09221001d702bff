"""GLUE out of TFDS's own builders is GLUE out of the local files."""

import pytest

from shared_bert import config as config_lib
from shared_bert import errors, task_data
from shared_bert.data import glue, glue_tfds
from tests.glue_files import (
  MNLI_COLUMNS,
  WITHOUT,
  as_downloads,
  assert_equal,
  run_python,
  table,
  write,
  write_odd_glue,
)

TASKS = {name: task for name, task in glue.TASKS.items() if task.is_in_tfds}


@pytest.fixture(scope='module')
def glue_dir(tmp_path_factory):
  """Local files of every task."""
  folder = tmp_path_factory.mktemp('glue')
  write_odd_glue(folder)
  return folder


@pytest.fixture(scope='module')
def data_dir(tmp_path_factory, glue_dir):
  """TFDS's folder, with what its builders made of the local files."""
  folder = tmp_path_factory.mktemp('tfds')
  with as_downloads(glue_dir):
    for task in TASKS:
      glue_tfds.prepare(task, folder)
  return folder


@pytest.mark.parametrize('task', TASKS)
def test_examples_equal_those_of_the_local_files(glue_dir, data_dir, task):
  for split in TASKS[task].splits:
    expected = glue.load_split(task, glue_dir, split)
    with as_downloads(None):
      found = glue_tfds.load_split(task, data_dir, split)
    assert len(expected) >= 2
    assert_equal(found, expected)
    assert glue.fingerprint({split: found}) == glue.fingerprint(
      {split: expected}
    )


@pytest.mark.parametrize('task', ['cola', 'mnli'])
def test_a_job_finds_the_same_splits_in_both_sources(glue_dir, data_dir, task):
  config = config_lib.glue_config(None, task)
  config.data.dir = str(data_dir)
  assert config.data.source == 'tfds'
  found = task_data.load_task(config.data)
  config.data.source = 'local'
  config.data.glue_dir = str(glue_dir)
  expected = task_data.load_task(config.data)
  assert list(found.splits) == list(expected.splits)
  assert ('ax' in found.splits) == (task == 'mnli')
  assert glue.fingerprint(found.splits) == glue.fingerprint(expected.splits)


def test_broken_lines_of_qqp_are_seen_unless_they_are_the_last(
  glue_dir, data_dir
):
  local = glue.load_split('qqp', glue_dir, 'train')
  found = glue_tfds.load_split('qqp', data_dir, 'train')
  assert found.ids == local.ids == [0, 1, 2, 3, 4, 7]
  assert local.skip_reasons == {'wrong number of columns': 4}
  assert found.skip_reasons == {'left out by TFDS': 2}


def test_rows_of_dev_are_not_counted_as_left_out_of_mrpc(data_dir):
  train = glue_tfds.load_split('mrpc', data_dir, 'train')
  dev = glue_tfds.load_split('mrpc', data_dir, 'dev')
  assert (train.ids, dev.ids) == ([0, 2, 4], [1, 3])
  assert train.skipped == dev.skipped == 0


def test_prepared_data_is_read_without_tensorflow(data_dir):
  code = WITHOUT + (
    'from shared_bert.data import glue_tfds\n'
    'for task in ("cola", "stsb", "mnli"):\n'
    '  print(len(glue_tfds.load_split(task, sys.argv[1], "train")))\n'
    'assert "tensorflow" not in sys.modules\n'
  )
  process = run_python(code, data_dir, 'tensorflow')
  out, err = process.communicate()
  assert not process.returncode, err
  assert out.split() == ['6', '5', '5']


def test_unknown_tasks_and_splits_are_user_errors(tmp_path):
  with pytest.raises(errors.UserError, match='cola, sst2, mrpc'):
    glue_tfds.load_split('copa', tmp_path, 'train')
  with pytest.raises(errors.UserError, match='has train, dev_matched'):
    glue_tfds.load_split('mnli', tmp_path, 'dev')


@pytest.fixture
def sst2(tmp_path):
  """Prepares SST-2 with a train and a test file of one's own."""

  def make(train, test):
    folder = tmp_path / 'glue' / 'SST-2'
    write(folder, 'train.tsv', [('sentence', 'label'), *train])
    write(folder, 'dev.tsv', [('sentence', 'label'), ('a', '1')])
    write(folder, 'test.tsv', [('index', 'sentence'), *test])
    with as_downloads(tmp_path / 'glue'):
      glue_tfds.prepare('sst2', tmp_path / 'tfds')
    return tmp_path / 'tfds'

  return make


def test_where_the_two_readers_come_apart(sst2, tmp_path):
  train = [('a\rb', '1'), ('c',), ('d', '0', 'more')]
  data_dir = sst2(train, [('7', 'x'), ('3', 'y')])
  # A carriage return ends a line, which has too few columns then; the rest of
  # it, 'b', is a row. Both 'a' and 'c' are left out, but counted.
  found = glue_tfds.load_split('sst2', data_dir, 'train')
  assert (found.text_a, found.ids) == (['b', 'd'], [1, 3])
  assert found.skip_reasons == {'left out by TFDS': 2}
  with pytest.raises(errors.UserError, match='line 3: 1 columns'):
    glue.load_split('sst2', tmp_path / 'glue', 'train')
  # Test rows are numbered by their place.
  assert glue_tfds.load_split('sst2', data_dir, 'test').ids == [0, 1]
  assert glue.load_split('sst2', tmp_path / 'glue', 'test').ids == [7, 3]


def test_a_test_split_that_lacks_a_row_is_refused(sst2):
  data_dir = sst2([('a', '1')], [('0', 'x'), ('1',), ('2', 'y')])
  with pytest.raises(errors.UserError, match='lacks 1 rows of sst2 test'):
    glue_tfds.load_split('sst2', data_dir, 'test')


def test_mnli_without_a_gold_label_cannot_be_prepared(tmp_path):
  columns = [*MNLI_COLUMNS, 'label1', 'gold_label']
  row = {'sentence1': 'p', 'sentence2': 'h', 'gold_label': '-'}
  write(tmp_path / 'MNLI', 'train.tsv', table(columns, row))
  with as_downloads(tmp_path), pytest.raises(ValueError, match="'-'"):
    glue_tfds.prepare('mnli', tmp_path / 'tfds')


@pytest.mark.slow
@pytest.mark.parametrize('task', ['cola', 'mrpc', 'wnli', 'ax'])
def test_official_files_come_out_the_same(shared_data, tmp_path, task):
  with as_downloads(shared_data / 'glue'):
    glue_tfds.prepare(task, tmp_path)
  for split in TASKS[task].splits:
    found = glue_tfds.load_split(task, tmp_path, split)
    expected = glue.load_split(task, shared_data / 'glue', split)
    if task == 'mrpc' and split != 'test':
      # Official train.tsv and dev.tsv number their rows anew.
      assert found.ids != expected.ids
      expected.ids = found.ids
    assert_equal(found, expected)
    assert found.skipped == 0
