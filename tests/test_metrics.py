"""The metrics agree with scikit-learn and SciPy, degenerate inputs included."""

import math

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as sklearn_metrics

from shared_bert.data import glue
from shared_bert.training import metrics

_TIGHT = {'rel': 1e-12, 'abs': 1e-12}


def _class_pairs(num_classes):
  """Random and degenerate (predictions, labels)."""
  rng = np.random.default_rng(0)
  for size in (1, 2, 7, 100, 1000):
    for _ in range(10):
      labels = rng.integers(num_classes, size=size)
      noise = rng.integers(num_classes, size=size)
      keep = rng.random(size) < rng.random()
      yield np.where(keep, labels, noise), labels
  ones = np.ones(5, np.int32)
  mixed = np.asarray([0, 1, 1, 0, 1], np.int32)
  for a in (ones, 0 * ones, mixed, 1 - mixed):
    for b in (ones, 0 * ones, mixed, 1 - mixed):
      yield a, b


# scikit-learn's remark on inputs of one class, which are among the cases.
@pytest.mark.filterwarnings('ignore:A single label was found:UserWarning')
@pytest.mark.parametrize('num_classes', [2, 3])
def test_matthews_and_accuracy_are_those_of_scikit_learn(num_classes):
  for predictions, labels in _class_pairs(num_classes):
    expected = sklearn_metrics.matthews_corrcoef(labels, predictions)
    assert metrics.matthews(predictions, labels) == pytest.approx(
      expected, **_TIGHT
    )
    assert metrics.accuracy(predictions, labels) == pytest.approx(
      sklearn_metrics.accuracy_score(labels, predictions), **_TIGHT
    )


def test_f1_is_that_of_scikit_learn():
  for predictions, labels in _class_pairs(2):
    expected = sklearn_metrics.f1_score(labels, predictions, zero_division=0.0)
    assert metrics.f1(predictions, labels) == pytest.approx(expected, **_TIGHT)


def test_matthews_does_not_overflow_on_a_test_set_as_large_as_qqp():
  labels = np.arange(400_000) % 2
  predictions = np.where(np.arange(400_000) % 10 == 0, 1 - labels, labels)
  assert metrics.matthews(predictions, labels) == pytest.approx(
    sklearn_metrics.matthews_corrcoef(labels, predictions), **_TIGHT
  )


@pytest.mark.parametrize('dtype', [np.float32, np.float64])
@pytest.mark.parametrize('ties', [False, True])
def test_correlations_are_those_of_scipy(dtype, ties):
  rng = np.random.default_rng(1)
  for size in (2, 3, 10, 500):
    for _ in range(10):
      labels = rng.uniform(0, 5, size).astype(dtype)
      predictions = (labels + rng.normal(0, 2, size)).astype(dtype)
      if ties:
        labels, predictions = np.round(labels), np.round(predictions)
      if np.ptp(labels) == 0 or np.ptp(predictions) == 0:
        continue
      got = metrics.evaluate_metrics(
        ('pearson', 'spearman'), predictions, labels
      )
      wide = (predictions.astype(np.float64), labels.astype(np.float64))
      pearson = stats.pearsonr(*wide).statistic
      assert got['pearson'] == pytest.approx(pearson, **_TIGHT)
      spearman = stats.spearmanr(*wide).statistic
      assert got['spearman'] == pytest.approx(spearman, **_TIGHT)


@pytest.mark.parametrize('name', ['pearson', 'spearman'])
def test_constant_scores_count_as_no_correlation(name):
  # 0.1 has no exact mean: centring it leaves rounding, not zero.
  constant = np.full(7, 0.1)
  labels = np.arange(7.0)
  assert metrics.METRICS[name](constant, labels) == 0.0
  assert metrics.METRICS[name](labels, constant) == 0.0
  assert metrics.METRICS[name](np.ones(1), np.ones(1)) == 0.0


@pytest.mark.parametrize('bad', [np.nan, np.inf])
@pytest.mark.parametrize('name', ['pearson', 'spearman'])
def test_a_diverged_model_does_not_score_zero(name, bad):
  scores = np.asarray([1.0, bad, 2.0])
  assert math.isnan(metrics.METRICS[name](scores, np.arange(3.0)))
  assert math.isnan(metrics.METRICS[name](np.full(3, bad), np.arange(3.0)))


def test_evaluate_metrics_refuses_what_would_broadcast_or_be_empty():
  one = np.ones((3,), np.int32)
  with pytest.raises(ValueError, match='predictions'):
    metrics.evaluate_metrics(('accuracy',), one[:1], one)
  with pytest.raises(ValueError, match='predictions'):
    metrics.evaluate_metrics(('accuracy',), one[:, None], one[:, None])
  with pytest.raises(ValueError, match='no rows'):
    metrics.evaluate_metrics(('accuracy',), one[:0], one[:0])
  with pytest.raises(ValueError, match='bleu'):
    metrics.evaluate_metrics(('bleu',), one, one)


def test_evaluate_metrics_gives_plain_floats_in_the_order_asked():
  labels = np.asarray([0, 1, 1], np.int32)
  got = metrics.evaluate_metrics(('f1', 'accuracy'), labels, labels)
  assert got == {'f1': 1.0, 'accuracy': 1.0}
  assert list(got) == ['f1', 'accuracy']
  assert all(type(value) is float for value in got.values())


def test_majority_rate_counts_the_commonest_class():
  assert metrics.majority_rate(np.asarray([2, 0, 2, 1])) == 0.5
  assert metrics.majority_rate(np.zeros(3, np.int32)) == 1.0
  with pytest.raises(ValueError, match='no rows'):
    metrics.majority_rate(np.zeros(0, np.int32))


@pytest.mark.parametrize(
  'values, is_blind',
  [
    # 0.6 + sqrt(0.6 * 0.4 / 600) is 0.62.
    ({'accuracy': 0.62}, True),
    ({'accuracy': 0.63}, False),
    ({'f1': 0.7, 'accuracy': 0.5}, True),
    # 1 / sqrt(600) is 0.041; accuracy is another question's answer.
    ({'matthews': 0.04, 'accuracy': 0.9}, True),
    ({'matthews': 0.05, 'accuracy': 0.6}, False),
    ({'pearson': 0.0, 'spearman': 0.0}, True),
    ({'pearson': 0.04, 'spearman': 0.1}, True),
    ({'pearson': 0.05, 'spearman': 0.0}, False),
    ({'pearson': 0.1, 'spearman': 0.1}, False),
    ({'exact_match': 50.0, 'f1': 50.0, 'HasAns_f1': 0.0}, True),
    ({'exact_match': 50.0, 'f1': 51.0, 'HasAns_f1': 2.0}, False),
    ({'exact_match': 0.0, 'f1': 0.0}, True),
    ({'exact_match': 0.0, 'f1': 0.1}, False),
  ],
)
def test_a_model_that_never_looks_is_told_by_the_metric_of_its_task(
  values, is_blind
):
  majority = {'dev': 0.6} if 'accuracy' in values else {}
  found = metrics.collapsed_splits({'dev': values}, majority, {'dev': 600})
  assert found == (['dev'] if is_blind else [])


def _results():
  """Round numbers whose two averages were computed by hand."""
  return {
    'cola': {'matthews': 0.5, 'loss': 99.0},
    'sst2': {'accuracy': 0.9},
    'mrpc': {'f1': 0.9, 'accuracy': 0.8},
    'stsb': {'spearman': 0.8, 'pearson': 0.9},
    'qqp': {'f1': 0.7, 'accuracy': 0.9},
    'mnli_matched': {'accuracy': 0.8},
    'mnli_mismatched': {'accuracy': 0.7},
    'qnli': {'accuracy': 0.9},
    'rte': {'accuracy': 0.6},
    'wnli': {'accuracy': 0.5},
    'ax': {'matthews': 0.3},
  }


def test_the_two_averages_are_the_leaderboards_and_the_papers():
  averages = metrics.glue_average(_results())
  # .5 + .9 + .85 + .85 + .8 + (.8 + .7) / 2 + .9 + .6 + .5 over nine tasks
  leaderboard, missing = averages['leaderboard']
  assert leaderboard == pytest.approx(6.65 / 9, **_TIGHT)
  assert missing == ()
  # .5 + .9 + .85 + .85 + .8 + .8 + .7 + .9 + .6 over nine numbers
  nine_number, missing = averages['nine_number']
  assert nine_number == pytest.approx(6.9 / 9, **_TIGHT)
  assert missing == ()


def test_no_average_hides_that_a_task_is_missing():
  results = _results()
  del results['wnli'], results['mrpc']['f1']
  averages = metrics.glue_average(results)
  assert averages['leaderboard'] == (None, ('mrpc.f1', 'wnli.accuracy'))
  assert averages['nine_number'] == (None, ('mrpc.f1',))
  del results['mnli_mismatched']
  assert (
    'mnli_mismatched.accuracy'
    in metrics.glue_average(results)['leaderboard'].missing
  )
  assert len(metrics.glue_average({})['nine_number'].missing) == 12


def test_the_averages_use_the_metrics_of_the_task_table():
  from_tasks = {}
  for task in glue.TASKS.values():
    if task.trained_as:
      continue
    for split in task.dev_splits:
      # dev_matched of mnli fills the column mnli_matched, dev of cola cola.
      column = task.name + split.removeprefix('dev')
      # Further metrics, such as CoLA's accuracy, are for reading only.
      used = len(metrics.GLUE_COLUMNS[column])
      from_tasks[column] = task.metrics[:used]
  assert from_tasks == metrics.GLUE_COLUMNS
  for task in glue.TASKS.values():
    assert set(task.metrics) <= set(metrics.METRICS)
