"""Sets of other domains: read as they are, folded by one rule, or refused."""

import dataclasses

import numpy as np
import pytest

from shared_bert.data import outside
from shared_bert.data.glue_tasks import TASKS
from shared_bert.data.outside import OUTSIDE
from shared_bert.errors import UserError

# Examples of each class, as the files' own counts say.
COUNTS = {
  'hans': (7500, 7500),
  'snli': (3329, 3235, 3278),
  'scitail': (842, 1284),
  'amazon_books': (1000, 1000),
  'amazon_dvds': (1000, 1000),
  'amazon_electronics': (1000, 1000),
  'amazon_kitchen': (1000, 1000),
  'pawsx': (1137, 863),
  'cola_in_domain': (160, 367),
  'cola_out_of_domain': (162, 354),
}
COLUMNS = ('sentence1', 'sentence2')


def own(path, task='mnli', columns=COLUMNS, **more):
  row = outside.own_set(str(path), TASKS[task], columns, 'label', **more)
  return outside.load(row, path, 'outside.files')


@pytest.mark.parametrize('name', OUTSIDE)
def test_every_set_is_read_from_its_real_file(name, shared_data):
  path = shared_data / 'ood' / OUTSIDE[name].file
  row, examples = outside.load(OUTSIDE[name], path)
  counts = np.bincount(examples.labels, minlength=len(row.labels))
  assert tuple(counts) == COUNTS[name]
  assert examples.skipped == 0
  assert all(map(str.strip, examples.text_a))
  assert (examples.text_b is not None) == (len(row.text_columns) == 2)
  if examples.text_b:
    assert all(map(str.strip, examples.text_b))


@pytest.mark.parametrize('name', OUTSIDE)
def test_every_set_fits_the_models_that_read_it(name):
  row = OUTSIDE[name]
  assert row.source
  for task in (TASKS[t] for t in row.tasks):
    assert len(row.text_columns) == len(task.text_columns)
    assert len(row.labels) == len(row.classes)
    classes = [n for ids in row.classes for n in ids]
    assert sorted(classes) == list(range(task.num_outputs))
    assert 'accuracy' in row.metrics


def test_two_classes_of_three_count_as_one_by_the_sum_of_their_shares():
  shares = np.array(
    [
      [0.40, 0.35, 0.25],  # the likeliest of three, and less likely than not
      [0.51, 0.49, 0.00],
      [0.49, 0.02, 0.49],
      [0.10, 0.80, 0.10],
    ]
  )
  with np.errstate(divide='ignore'):
    logits = np.log(shares).astype(np.float32) + 3  # of any scale
  folded = outside.fold(OUTSIDE['hans'], logits)
  assert folded.argmax(axis=1).tolist() == [1, 0, 1, 1]
  np.testing.assert_allclose(np.exp(folded - 3)[:, 0], shares[:, 0], rtol=1e-5)
  np.testing.assert_allclose(
    np.exp(folded - 3)[:, 1], shares[:, 1:].sum(axis=1), rtol=1e-5
  )
  np.testing.assert_array_equal(outside.fold(OUTSIDE['snli'], logits), logits)


def test_sets_are_found_by_task_and_by_name(tmp_path):
  for name in ('hans', 'snli', 'pawsx'):
    path = tmp_path / OUTSIDE[name].file
    path.parent.mkdir(exist_ok=True)
    path.write_text('')
  found = outside.find(tmp_path, 'mnli')
  assert [row.name for row, _ in found] == ['hans', 'snli']
  assert [r.name for r, _ in outside.find(tmp_path, 'mnli', ['snli'])] == [
    'snli'
  ]
  assert outside.find(tmp_path, 'rte') == []
  for folder, task, named, message in (
    (tmp_path / 'no', 'mnli', (), 'is not a folder that is there'),
    (tmp_path, 'mnli', ('pawsx',), 'reads hans, snli, scitail'),
    (tmp_path, 'rte', ('hans',), 'none that is known here'),
    (tmp_path, 'mnli', ('scitail',), 'there is no .*scitail_test.jsonl'),
  ):
    with pytest.raises(UserError, match=message):
      outside.find(folder, task, named)


def test_quoted_tabs_and_lines_are_text_and_no_gold_is_left_out(tmp_path):
  path = tmp_path / 'reviews.tsv'
  path.write_text('sentence\tlabel\n"a\tb\n""c"""\t1\nplain\t0\n')
  _, examples = outside.load(OUTSIDE['amazon_books'], path)
  assert examples.text_a == ['a\tb\n"c"', 'plain']
  assert examples.labels.tolist() == [1, 0]
  path.write_text('premise\thypothesis\tlabel\na\tb\t-1\nc\td\t2\n')
  _, examples = outside.load(OUTSIDE['snli'], path)
  assert (examples.ids, examples.labels.tolist()) == ([1], [2])
  assert examples.skip_reasons == {'no gold label': 1}


def test_own_files_have_the_classes_of_the_model_or_two_for_three(tmp_path):
  path = tmp_path / 'new.v2.csv'
  head = 'sentence1,sentence2,label\n'
  path.write_text(head + 'a,b,neutral\nc,d,entailment\n')
  row, examples = own(path)
  assert (row.name, examples.labels.tolist()) == ('new', [1, 0])
  assert row.classes == ((0,), (1,), (2,))
  path.write_text(head + 'a,b,not_entailment\nc,d,entailment\n')
  row, examples = own(path)
  assert (row.classes, examples.labels.tolist()) == (((0,), (1, 2)), [1, 0])
  path.write_text(head + 'a,b,no\nc,d,yes\n')
  row, examples = own(path, label_names=('yes', 'maybe', 'no'))
  assert examples.labels.tolist() == [2, 0]
  path.write_text(head + 'a,b,2.5\nc,d,0\n')
  row, examples = own(path, 'stsb')
  assert examples.labels.tolist() == [2.5, 0.0]
  assert row.metrics == TASKS['stsb'].metrics
  path.write_text('sentence,label\na,1\nb,unacceptable\n')
  _, examples = own(path, 'cola', ('sentence',))
  assert examples.labels.tolist() == [1, 0]


def test_names_that_are_given_are_the_only_spellings(tmp_path):
  path = tmp_path / 'new.csv'
  path.write_text('sentence,label\na,1\nb,1\nc,2\n')
  for names in (('1', '2'), (1, ' 2')):
    _, examples = own(path, 'sst2', ('sentence',), label_names=names)
    assert examples.labels.tolist() == [0, 0, 1]
  for label in ('0', 'negative'):
    path.write_text(f'sentence,label\na,1\nb,{label}\n')
    with pytest.raises(UserError, match=f"line 3: .*'{label}'.* '1', '2'"):
      own(path, 'sst2', ('sentence',), label_names=('1', '2'))
  # The model's own names, given, are still those of two classes too.
  path.write_text('sentence1,sentence2,label\na,b,not_entailment\n')
  row, examples = own(path, label_names=TASKS['mnli'].label_names)
  assert (row.classes, examples.labels.tolist()) == (((0,), (1, 2)), [1])


@pytest.mark.parametrize(
  ('text', 'task', 'message'),
  [
    ('sentence1,text,label\na,b,neutral\n', 'mnli', "no column 'sentence2'"),
    (
      'sentence1,sentence2,label\na,b,neutral\nc,d,maybe\n',
      'mnli',
      "line 3: the label 'maybe' in column 'label' is not one of 'entailment'",
    ),
    ('sentence1,sentence2,label\na,b,high\n', 'stsb', 'not a finite number'),
    ('sentence1,sentence2,label\na,b,1e99\n', 'stsb', 'not a finite number'),
    ('sentence1,sentence2,label\n', 'mnli', 'has a header but no example'),
  ],
)
def test_own_files_that_do_not_fit_are_refused(text, task, message, tmp_path):
  path = tmp_path / 'new.csv'
  path.write_text(text)
  with pytest.raises(UserError, match=message):
    own(path, task)


def test_files_of_sets_that_are_not_theirs_are_refused(tmp_path):
  path = tmp_path / 'hans.tsv'
  path.write_text('premise\thypothesis\tgold_label\na\tb\tentailment\n')
  with pytest.raises(UserError, match='the columns of OUTSIDE'):
    outside.load(OUTSIDE['hans'], path)
  path.write_text('a\tb\t1\nc\td\n')
  with pytest.raises(UserError, match='line 2: 2 columns where the header has'):
    outside.load(OUTSIDE['pawsx'], path)
  path.write_text('a\tb\t7\n')
  with pytest.raises(UserError, match="line 1: the label '7'.* Mend the line."):
    outside.load(OUTSIDE['pawsx'], path)
  path.write_text('a\tb\t7\n')
  never = dataclasses.replace(OUTSIDE['pawsx'], no_gold=('7',))
  with pytest.raises(UserError, match='no row has a label'):
    outside.load(never, path)


def test_own_columns_and_names_must_be_as_many_as_the_models(tmp_path):
  with pytest.raises(UserError, match='names 1, and a model of mnli reads 2'):
    own(tmp_path / 'a.csv', columns=('sentence',))
  with pytest.raises(UserError, match='names 2 classes, and a model of mnli'):
    own(tmp_path / 'a.csv', label_names=('yes', 'no'))
  with pytest.raises(UserError, match='two different names'):
    own(tmp_path / 'a.csv', label_names=('yes', 'no', 'no'))
  with pytest.raises(UserError, match='stsb gives scores: leave'):
    own(tmp_path / 'a.csv', 'stsb', label_names=('yes', 'no'))
