"""Every GLUE file, odd as it is, gives right examples or a clear error."""

import numpy as np
import pytest

from shared_bert import errors
from shared_bert.data import glue
from tests.glue_files import (
  MNLI_COLUMNS,
  MRPC_COLUMNS,
  QQP_COLUMNS,
  STSB_COLUMNS,
  table,
  write,
)


def test_cola_train_and_dev_have_no_header_and_dev_no_final_newline(tmp_path):
  rows = [
    ('gj04', '1', '', 'He said "go.'),
    ('gj04', '0', '*', 'They "drank the pub.'),
  ]
  write(tmp_path / 'CoLA', 'train.tsv', rows)
  write(tmp_path / 'CoLA', 'dev.tsv', rows[1:], last=False)
  train = glue.load_split('cola', tmp_path, 'train')
  assert train.text_a == ['He said "go.', 'They "drank the pub.']
  assert train.text_b is None
  assert train.labels.dtype == np.int32
  assert train.labels.tolist() == [1, 0]
  assert train.ids == [0, 1]
  assert train.skipped == 0
  dev = glue.load_split('cola', tmp_path, 'dev')
  assert dev.text_a == ['They "drank the pub.']


def test_cola_test_has_a_header_and_its_own_index(tmp_path):
  rows = [('index', 'sentence'), ('7', 'A.'), ('3', 'B.')]
  write(tmp_path / 'CoLA', 'test.tsv', rows)
  test = glue.load_split('cola', tmp_path, 'test')
  assert (test.text_a, test.ids, test.labels) == (['A.', 'B.'], [7, 3], None)


def test_a_line_ends_at_a_line_feed_only(tmp_path):
  rows = [('sentence', 'label'), ('a\u2028b\x85c\x0cd ', '1')]
  write(tmp_path / 'SST-2', 'train.tsv', rows)
  train = glue.load_split('sst2', tmp_path, 'train')
  assert train.text_a == ['a\u2028b\x85c\x0cd ']


def test_windows_line_ends_and_byte_order_mark_change_nothing(tmp_path):
  rows = [('gj04', '1', '', 'A text is last.'), ('gj04', '0', '*', 'B.')]
  prints = []
  for place, style in (('a', {}), ('b', {'end': '\r\n', 'start': '\ufeff'})):
    write(tmp_path / place / 'CoLA', 'dev.tsv', rows, **style)
    dev = glue.load_split('cola', tmp_path / place, 'dev')
    assert dev.text_a == ['A text is last.', 'B.']
    prints.append(glue.fingerprint({'dev': dev}))
  assert prints[0] == prints[1]


_MRPC_ROWS = [
  ('1', '10', '11', 'a "b', 'c'),
  ('0', '20', '21', 'd', 'e'),
  ('1', '11', '10', 'f', 'g'),
]


def test_mrpc_starts_with_a_byte_order_mark(tmp_path):
  rows = [MRPC_COLUMNS, *_MRPC_ROWS]
  write(tmp_path / 'MRPC', 'train.tsv', rows, start='\ufeff')
  train = glue.load_split('mrpc', tmp_path, 'train')
  assert train.text_a == ['a "b', 'd', 'f']
  assert train.text_b == ['c', 'e', 'g']
  assert train.labels.tolist() == [1, 0, 1]


def test_mrpc_is_cut_from_the_raw_files_by_the_ids_of_dev(tmp_path):
  folder = tmp_path / 'MRPC'
  rows = [MRPC_COLUMNS, *_MRPC_ROWS]
  write(folder, 'msr_paraphrase_train.txt', rows, start='\ufeff')
  write(folder, 'msr_paraphrase_test.txt', rows, start='\ufeff')
  write(folder, 'dev_ids.tsv', [('10', '11')])
  train = glue.load_split('mrpc', tmp_path, 'train')
  assert (train.text_a, train.labels.tolist()) == (['d', 'f'], [0, 1])
  dev = glue.load_split('mrpc', tmp_path, 'dev')
  assert (dev.text_a, dev.labels.tolist()) == (['a "b'], [1])
  # Microsoft's test file has labels and no index; GLUE's rows are its order.
  test = glue.load_split('mrpc', tmp_path, 'test')
  assert (test.ids, test.labels) == ([0, 1, 2], None)
  # The official files win where they are there.
  write(folder, 'dev.tsv', [MRPC_COLUMNS, _MRPC_ROWS[1]], start='\ufeff')
  assert glue.load_split('mrpc', tmp_path, 'dev').text_a == ['d']


def test_mrpc_dev_ids_of_another_file_are_refused(tmp_path):
  folder = tmp_path / 'MRPC'
  write(folder, 'msr_paraphrase_train.txt', [MRPC_COLUMNS, *_MRPC_ROWS])
  write(folder, 'dev_ids.tsv', [('10', '11'), ('98', '99')])
  with pytest.raises(errors.UserError, match='1 pairs that are not in .*98 99'):
    glue.load_split('mrpc', tmp_path, 'dev')


def test_stsb_scores_are_floats_found_by_name(tmp_path):
  columns = [*STSB_COLUMNS, 'score']
  row = {'sentence1': '"a', 'sentence2': 'b', 'score': '3.800'}
  write(tmp_path / 'STS-B', 'dev.tsv', table(columns, row))
  # The same columns in another order.
  write(tmp_path / 'STS-B', 'train.tsv', table(sorted(columns), row))
  for split in ('train', 'dev'):
    examples = glue.load_split('stsb', tmp_path, split)
    assert (examples.text_a, examples.text_b) == (['"a'], ['b'])
    assert examples.labels.dtype == np.float32
    assert examples.labels.tolist() == [np.float32(3.8)]


def test_qqp_records_broken_over_two_lines_are_skipped_and_counted(tmp_path):
  rows = [
    QQP_COLUMNS,
    ('1', '2', '3', 'Why?', 'How?', '0'),
    ('4', '5', '6', '"A question that breaks here.'),
    ('"', 'Another?', '1'),
    ('7', '8', '9', 'Who?', '', '1'),
    ('10', '11', '12', 'Where?', '"A question that breaks here.'),
    ('"', '0'),
  ]
  write(tmp_path / 'QQP', 'train.tsv', rows)
  train = glue.load_split('qqp', tmp_path, 'train')
  assert (train.text_a, train.text_b) == (['Why?', 'Who?'], ['How?', ''])
  assert train.labels.tolist() == [0, 1]
  assert train.skipped == 4
  assert train.skip_reasons == {'wrong number of columns': 4}


def test_qqp_test_wants_every_id_so_a_broken_row_is_an_error(tmp_path):
  rows = [('id', 'question1', 'question2'), ('0', 'a', 'b')]
  write(tmp_path / 'QQP', 'test.tsv', rows)
  assert glue.load_split('qqp', tmp_path, 'test').ids == [0]
  write(tmp_path / 'QQP', 'test.tsv', [*rows, ('1', 'c')])
  with pytest.raises(errors.UserError, match='test.tsv, line 3: 2 columns'):
    glue.load_split('qqp', tmp_path, 'test')


def test_mnli_takes_the_gold_label_and_counts_rows_without_one(tmp_path):
  folder = tmp_path / 'MNLI'
  train = [*MNLI_COLUMNS, 'label1', 'gold_label']
  dev = [*MNLI_COLUMNS, *(f'label{i}' for i in range(1, 6)), 'gold_label']
  rows = [
    {'sentence1': 'p', 'sentence2': 'h', 'label1': 'x', 'gold_label': gold}
    for gold in ('entailment', 'neutral', '-', 'contradiction')
  ]
  write(folder, 'train.tsv', table(train, *rows))
  write(folder, 'dev_matched.tsv', table(dev, *rows))
  for split in ('train', 'dev_matched'):
    examples = glue.load_split('mnli', tmp_path, split)
    assert examples.labels.tolist() == [0, 1, 2]
    assert examples.skip_reasons == {'no gold label': 1}
  write(folder, 'test_mismatched.tsv', table(MNLI_COLUMNS, {'index': '5'}))
  assert glue.load_split('mnli', tmp_path, 'test_mismatched').ids == [5]
  # Optional splits whose file is absent.
  assert glue.load_split('mnli', tmp_path, 'dev_mismatched') is None
  assert glue.load_split('mnli', tmp_path, 'test_matched') is None


@pytest.mark.parametrize(
  ('task', 'columns', 'expected'),
  [
    ('qnli', ('question', 'sentence'), ('entailment', 'not_entailment')),
    ('rte', ('sentence1', 'sentence2'), ('entailment', 'not_entailment')),
    ('wnli', ('sentence1', 'sentence2'), ('0', '1')),
  ],
)
def test_entailment_tasks_have_the_label_order_of_tfds(
  tmp_path, task, columns, expected
):
  header = ('index', *columns, 'label')
  rows = [(str(i), 'p', 'h', label) for i, label in enumerate(expected)]
  write(tmp_path / glue.TASKS[task].folder, 'dev.tsv', [header, *rows])
  dev = glue.load_split(task, tmp_path, 'dev')
  assert (dev.text_a, dev.text_b) == (['p', 'p'], ['h', 'h'])
  assert dev.labels.tolist() == [0, 1]


@pytest.mark.parametrize('place', ['AX', 'diagnostic'])
def test_the_diagnostic_set_is_found_under_either_name(tmp_path, place):
  rows = [('index', 'sentence1', 'sentence2'), ('0', 'p', 'h')]
  assert glue.load_split('ax', tmp_path, 'test') is None
  write(tmp_path / place, 'diagnostic.tsv', rows, last=False)
  assert glue.load_split('ax', tmp_path, 'test').text_b == ['h']


_SST2 = 'sentence\tlabel\n'


@pytest.mark.parametrize(
  ('content', 'message'),
  [
    (b'', 'is empty'),
    (_SST2.encode(), 'holds no example of sst2 train'),
    (f'{_SST2}good\t1\n\nbad\t2\n'.encode(), "line 4: label '2' .* 0, 1"),
    (f'{_SST2}good\t1\nbad\n'.encode(), 'line 3: 1 columns where 2'),
    (f'{_SST2}a tab\there\t1\n'.encode(), 'line 2: 3 columns where 2'),
    (f'{_SST2}caf'.encode() + b'\xe9\t1\n', 'line 2: not UTF-8'),
    (_SST2.encode('utf-16'), 'line 1: not UTF-8'),
    (b'sentence,label\ngood,1\n', "line 1: no column 'sentence', 'label'"),
    (b'sentence\tgold\n', "no column 'label' .* has 'sentence', 'gold'"),
  ],
)
def test_a_bad_file_is_an_error_that_names_file_and_line(
  tmp_path, content, message
):
  path = tmp_path / 'SST-2' / 'train.tsv'
  path.parent.mkdir()
  path.write_bytes(content)
  with pytest.raises(errors.UserError, match=message) as caught:
    glue.load_split('sst2', tmp_path, 'train')
  assert str(path) in str(caught.value)


def test_blank_lines_are_counted_and_empty_extra_fields_are_not_ragged(
  tmp_path,
):
  path = tmp_path / 'SST-2' / 'train.tsv'
  path.parent.mkdir()
  path.write_text(_SST2 + 'good\t1\n\nbad\t0\t\n\n')
  train = glue.load_split('sst2', tmp_path, 'train')
  assert train.labels.tolist() == [1, 0]
  assert train.skip_reasons == {'blank line': 2}


@pytest.mark.parametrize('score', ['5.1', '-1', 'nan', 'high', ''])
def test_a_score_outside_the_scale_is_an_error(tmp_path, score):
  row = {'sentence1': 'a', 'sentence2': 'b', 'score': score}
  columns = [*STSB_COLUMNS, 'score']
  write(tmp_path / 'STS-B', 'train.tsv', table(columns, row))
  with pytest.raises(errors.UserError, match='line 2.*a number from 0 to 5'):
    glue.load_split('stsb', tmp_path, 'train')


@pytest.mark.parametrize(
  ('indices', 'message'),
  [(('0', 'x'), "line 3: index 'x'"), (('4', '4'), 'index 4 occurs twice')],
)
def test_a_test_file_with_a_wrong_index_is_an_error(tmp_path, indices, message):
  rows = [('index', 'sentence'), *((index, 'a') for index in indices)]
  write(tmp_path / 'SST-2', 'test.tsv', rows)
  with pytest.raises(errors.UserError, match=message):
    glue.load_split('sst2', tmp_path, 'test')


@pytest.mark.parametrize('task', [t for t in glue.TASKS if t != 'ax'])
def test_missing_training_data_names_the_path_and_the_layout(tmp_path, task):
  folder = glue.TASKS[task].folder
  for split in glue.TASKS[task].required_splits:
    with pytest.raises(errors.UserError) as caught:
      glue.load_split(task, tmp_path, split)
    assert str(tmp_path / folder / f'{split}.tsv') in str(caught.value)
    assert f'with {folder}/train.tsv, {folder}/dev' in str(caught.value)
  for split in glue.TASKS[task].test_splits:
    assert glue.load_split(task, tmp_path, split) is None


def test_glue_dir_that_names_one_task_is_told_to_name_its_parent(tmp_path):
  write(tmp_path, 'train.tsv', [('sentence', 'label'), ('a', '1')])
  with pytest.raises(errors.UserError, match='name its parent'):
    glue.load_split('sst2', tmp_path, 'train')


def test_unknown_tasks_splits_and_unreadable_files_are_user_errors(tmp_path):
  with pytest.raises(errors.UserError, match='cola, sst2, mrpc'):
    glue.load_split('copa', tmp_path, 'train')
  with pytest.raises(errors.UserError, match='dev_matched, dev_mismatched'):
    glue.load_split('mnli', tmp_path, 'dev')
  (tmp_path / 'RTE' / 'train.tsv').mkdir(parents=True)
  with pytest.raises(errors.UserError, match='Cannot read .*train.tsv'):
    glue.load_split('rte', tmp_path, 'train')


_REAL = {
  'cola': {'train': 8551, 'dev': 1043, 'test': 1063},
  'sst2': {'train': 67349, 'dev': 872, 'test': 1821},
  'mrpc': {'train': 3668, 'dev': 408, 'test': 1725},
  'wnli': {'train': 635, 'dev': 71, 'test': 146},
  'qnli': {'dev': 5463, 'test': 5463},
  'mnli': {'dev_matched': 9815},
  'ax': {'test': 1104},
}


@pytest.mark.parametrize('task', _REAL)
def test_official_files_have_the_published_number_of_rows(shared_data, task):
  for split, count in _REAL[task].items():
    examples = glue.load_split(task, shared_data / 'glue', split)
    assert len(examples) == count
    assert examples.skipped == 0
    if examples.labels is None:
      assert examples.ids == list(range(count))
    else:
      classes = np.arange(glue.TASKS[task].num_outputs)
      assert np.array_equal(np.unique(examples.labels), classes)


def test_mrpc_cut_from_the_raw_files_is_the_official_one(shared_data, tmp_path):
  official = shared_data / 'glue' / 'MRPC'
  (tmp_path / 'MRPC').mkdir()
  for name in ('train.txt', 'test.txt'):
    name = f'msr_paraphrase_{name}'
    (tmp_path / 'MRPC' / name).symlink_to(official / name)
  (tmp_path / 'MRPC' / 'dev_ids.tsv').symlink_to(official / 'dev_ids.tsv')

  def rows(glue_dir, split):
    examples = glue.load_split('mrpc', glue_dir, split)
    labels = examples.labels
    labels = [None] * len(examples) if labels is None else labels.tolist()
    return list(zip(examples.text_a, examples.text_b, labels, strict=True))

  for split in ('train', 'dev', 'test'):
    cut = rows(tmp_path, split)
    assert sorted(cut) == sorted(rows(official.parent, split))
  assert rows(tmp_path, 'test') == rows(official.parent, 'test')
