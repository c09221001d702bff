"""The bootstrap: the metrics of resamples, intervals that hold, areas."""

import numpy as np
import pytest

from shared_bert.training import bootstrap, curves
from shared_bert.training.metrics import METRICS, area_under_curve


def sets_of(name, num_rows=57, seed=0):
  """Labels and four sets of predictions: right, some wrong, one constant."""
  rng = np.random.default_rng(seed)
  if name in ('pearson', 'spearman'):
    labels = rng.integers(0, 11, num_rows) / 2
    noise = rng.normal(size=(3, num_rows)) * np.array([[0.0], [0.5], [3.0]])
    found = [*(labels + noise), np.full(num_rows, 0.7)]
    return np.array(found, np.float32), labels.astype(np.float32)
  classes = 2 if name == 'f1' else 3
  labels = rng.integers(0, classes, num_rows)
  wrong = rng.random((3, num_rows)) < np.array([[0.0], [0.3], [0.9]])
  others = rng.integers(0, classes, (3, num_rows))
  found = [*np.where(wrong, others, labels), np.zeros(num_rows, int)]
  return np.array(found), labels


@pytest.mark.parametrize('name', METRICS)
def test_samples_are_the_metric_of_the_resampled_rows(name):
  predictions, labels = sets_of(name)
  samples = bootstrap.metric_samples(name, predictions, labels, count=25)
  counts = np.concatenate(list(bootstrap.resamples(len(labels), 25, 0)))
  for row, times in zip(samples, counts.astype(int), strict=True):
    gold = np.repeat(labels, times)
    expected = [METRICS[name](np.repeat(p, times), gold) for p in predictions]
    np.testing.assert_allclose(row, expected, atol=1e-12)


def test_means_are_those_of_the_resamples_of_metrics():
  predictions, labels = sets_of('accuracy')
  samples = bootstrap.metric_samples('accuracy', predictions, labels, count=25)
  means = bootstrap.mean_samples(predictions == labels, count=25)
  np.testing.assert_allclose(means, samples, atol=1e-12)
  for wrong in (predictions[0], predictions[:, :0]):
    with pytest.raises(ValueError, match='should be'):
      bootstrap.mean_samples(wrong)


def test_resamples_follow_size_and_seed_alone_and_have_the_size():
  first, again = (list(bootstrap.resamples(40, 300, 5)) for _ in range(2))
  np.testing.assert_array_equal(first, again)
  (counts,) = first
  assert (counts.sum(axis=1) == 40).all()
  # A row is left out with probability (1 - 1/N)^N.
  absent, rate = (counts == 0).mean(), (1 - 1 / 40) ** 40
  assert abs(absent - rate) < 0.02
  assert (next(bootstrap.resamples(40, 300, 6)) != counts).any()


def test_blocks_of_resamples_are_the_resamples_of_one(monkeypatch):
  (whole,) = bootstrap.resamples(40, 30, 0)
  monkeypatch.setattr(bootstrap, '_BLOCK', 40 * 7)
  blocks = list(bootstrap.resamples(40, 30, 0))
  assert [len(block) for block in blocks] == [7, 7, 7, 7, 2]
  np.testing.assert_array_equal(np.concatenate(blocks), whole)


def test_intervals_of_95_percent_cover_the_truth_about_as_often():
  rng, covered, runs = np.random.default_rng(1), 0, 300
  for run in range(runs):
    labels = np.zeros(200, int)
    predictions = (rng.random((1, 200)) < 0.3).astype(int)
    samples = bootstrap.metric_samples(
      'accuracy', predictions, labels, count=300, seed=run
    )
    low, high = bootstrap.interval(samples[:, 0])
    covered += low <= 0.7 <= high
  assert abs(covered / runs - 0.95) < 5 * np.sqrt(0.95 * 0.05 / runs)


def test_a_pair_of_models_differs_by_less_than_either_varies():
  predictions, labels = sets_of('accuracy', 500)
  both = np.stack([predictions[1], predictions[1].copy()])
  both[1, :5] = labels[:5]
  samples = bootstrap.metric_samples('accuracy', both, labels)
  difference = samples[:, 1] - samples[:, 0]
  assert difference.min() >= 0
  assert difference.std() < samples[:, 0].std() / 3


def test_predictions_that_are_not_finite_have_no_number():
  predictions, labels = sets_of('pearson')
  predictions[1, 3] = np.nan
  samples = bootstrap.metric_samples('pearson', predictions, labels, count=5)
  assert np.isnan(samples[:, 1]).all()
  assert np.isfinite(samples[:, [0, 2, 3]]).all()


@pytest.mark.parametrize(
  ('name', 'shape', 'size'),
  [('bleu', (2, 4), 4), ('f1', (2, 4), 5), ('f1', (4,), 4), ('f1', (2, 0), 0)],
)
def test_what_has_no_samples_is_an_error(name, shape, size):
  with pytest.raises(ValueError, match=r'metric|labels|rows'):
    bootstrap.metric_samples(name, np.zeros(shape, int), np.zeros(size, int))


def test_the_area_of_a_flat_curve_is_its_height():
  levels = np.array([0.0, 0.05, 0.1, 0.2, 0.3, 0.4])
  assert area_under_curve(levels, np.full(6, 0.625)) == pytest.approx(0.625)
  # A straight line has the height of its middle, however uneven the levels.
  rows = np.stack([1 - levels, 3 * levels])
  np.testing.assert_allclose(area_under_curve(levels, rows), [0.8, 0.6])


@pytest.mark.parametrize('values', [(0.5, 0.5, 0.5), (1.0, float('nan'), 0.2)])
def test_a_picture_shows_its_curves(values):
  bands = {'b': [(0.4, 0.6)] * 3}
  found = curves.line_chart(
    'title',
    'level',
    (0.0, 0.1, 0.4),
    {'a': values, 'b': (0.1, 0.2, 0.3)},
    bands,
  )
  assert found.dtype == np.uint8 and found.shape[2] == 3
  for colour in curves._COLOURS[:2]:
    assert (found == colour).all(axis=2).sum() > 100


def test_bars_stand_at_their_own_level_beside_one_that_is_left_out():
  nan = float('nan')
  found = curves.line_chart(
    'title',
    'level',
    (0.0, 0.1, 0.4),
    {'a': (0.5, nan, 0.2), 'b': (0.9, 0.8, 0.9)},
    {'a': [(0.0, 1.0), (0.5, 0.7), (0.1, 0.3)], 'b': [(nan, nan)] * 3},
  )
  of_a = (found == curves._COLOURS[0]).all(axis=2)
  base, right = curves._HEIGHT - curves._BOTTOM, curves._WIDTH - curves._RIGHT
  height = base - curves._TOP  # of an axis from 0 to 1
  # Of two curves the first stands 1.5 pixels to the left of the level.
  rows = base - np.flatnonzero(of_a[:, right - 2 : right].any(axis=1))
  assert abs(rows.min() - 0.1 * height) <= 1
  assert abs(rows.max() - 0.3 * height) <= 1
  middle = curves._LEFT + (right - curves._LEFT) // 4
  line = np.flatnonzero(of_a[:, middle - 3 : middle].any(axis=1))
  assert len(line) < 8
