"""How far metrics would move with other examples: the bootstrap.

Efron and Tibshirani (1993, An Introduction to the Bootstrap, chapters 6, 13):
N examples are drawn with replacement many times, the metric is taken of each
draw, and an interval is what lies between two quantiles of these. Here all
levels of noise, and all models, are scored on the same draws (they depend on N
and the seed alone), so differences are those of pairs.
"""

from collections.abc import Callable, Iterator

import numpy as np

# Numbers of a block of resamples, in memory at once.
_BLOCK = 2**22


def resamples(num_rows: int, count: int, seed: int) -> Iterator[np.ndarray]:
  """How often each example is in each of some draws with replacement.

  Args:
    num_rows: N, above 0.
    count: R, how many draws.
    seed: any integer >= 0.

  Yields:
    Blocks float32 [R', N] of whole numbers, each row with the sum N.
  """
  bits = np.random.PCG64(np.random.SeedSequence([seed, num_rows]))
  block = max(1, _BLOCK // num_rows)
  for start in range(0, count, block):
    size = min(block, count - start)
    raw = bits.random_raw(size * num_rows) >> np.uint64(32)
    drawn = ((raw * np.uint64(num_rows)) >> np.uint64(32)).astype(np.int64)
    drawn = drawn.reshape(size, num_rows)
    drawn += np.arange(size)[:, None] * num_rows
    counts = np.bincount(drawn.ravel(), minlength=size * num_rows)
    yield counts.reshape(size, num_rows).astype(np.float32)


def metric_samples(
  name: str,
  predictions: np.ndarray,
  labels: np.ndarray,
  *,
  count: int = 1000,
  seed: int = 0,
) -> np.ndarray:
  """A metric of several sets of predictions on the same resamples.

  The metrics are those of `training/metrics.py`, of counts and sums instead of
  rows, so that all resamples are a few products of matrices.

  Args:
    name: `accuracy`, `f1`, `matthews`, `pearson` or `spearman`.
    predictions: [K, N], class ids or scores: K levels, kinds or models.
    labels: [N], of the same sort.
    count: R, how many resamples.
    seed: of the resamples.

  Returns:
    float64 [R, K]; NaN for predictions that are not finite.

  Raises:
    ValueError: no such metric, no rows, or shapes that differ.
  """
  if name not in _SAMPLERS:
    raise ValueError(f'no metric {name!r}; there are {list(_SAMPLERS)}')
  if predictions.ndim != 2 or predictions.shape[1:] != labels.shape:
    raise ValueError(f'{predictions.shape} predictions, {labels.shape} labels')
  if not len(labels):
    raise ValueError('no rows to resample')
  score = _SAMPLERS[name](predictions, labels)
  found = np.concatenate(
    [score(block) for block in resamples(len(labels), count, seed)]
  )
  # A diverged model must not pass for an uninformative one.
  found[:, ~np.isfinite(predictions).all(axis=1)] = np.nan
  return found


def mean_samples(
  scores: np.ndarray, *, count: int = 1000, seed: int = 0
) -> np.ndarray:
  """Means of scores of examples, on the resamples of `metric_samples`.

  Args:
    scores: float [K, N], of N examples: K levels, kinds or models.
    count: R, how many resamples.
    seed: of the resamples.

  Returns:
    float64 [R, K].

  Raises:
    ValueError: no rows, or scores of another shape.
  """
  if scores.ndim != 2 or not scores.shape[1]:
    raise ValueError(f'{scores.shape} scores, which should be [K, N]')
  columns = scores.T.astype(np.float64)
  blocks = resamples(len(columns), count, seed)
  return np.concatenate([counts @ columns for counts in blocks]) / len(columns)


def interval(
  samples: np.ndarray, coverage: float = 0.95
) -> tuple[float, float]:
  """The percentile interval of samples float [R]: low and high end.

  Args:
    samples: of a metric, an area or a difference, from `metric_samples` or
      `mean_samples`.
    coverage: share of the samples within.
  """
  tail = (1 - coverage) / 2
  low, high = np.quantile(samples, (tail, 1 - tail))
  return float(low), float(high)


# From blocks of resamples, float32 [R, N], to the metric, float64 [R, K].
_Sampler = Callable[[np.ndarray], np.ndarray]


def _accuracy(predictions: np.ndarray, labels: np.ndarray) -> _Sampler:
  right = (predictions == labels).T.astype(np.float32)
  return lambda counts: (counts @ right).astype(np.float64) / len(labels)


def _f1(predictions: np.ndarray, labels: np.ndarray) -> _Sampler:
  predicted, true = predictions == 1, labels == 1
  hits = (predicted & true).T.astype(np.float32)
  either = (predicted.astype(np.float32) + true).T

  def score(counts: np.ndarray) -> np.ndarray:
    # Sums of whole numbers below 2^24 are exact in float32.
    found, total = (counts @ hits).astype(np.float64), counts @ either
    return np.divide(
      2 * found, total, out=np.zeros_like(found), where=total > 0
    )

  return score


def _matthews(predictions: np.ndarray, labels: np.ndarray) -> _Sampler:
  classes = np.union1d(predictions, labels)
  right = (predictions == labels).T.astype(np.float32)
  of_labels = (labels[:, None] == classes).astype(np.float32)
  of_predictions = [
    (one[:, None] == classes).astype(np.float32) for one in predictions
  ]

  def score(counts: np.ndarray) -> np.ndarray:
    rows = float(len(labels))
    agreed = (counts @ right).astype(np.float64)
    true = (counts @ of_labels).astype(np.float64)
    found = np.zeros_like(agreed)
    for column, one in enumerate(of_predictions):
      predicted = (counts @ one).astype(np.float64)
      covariance = rows * agreed[:, column] - (predicted * true).sum(1)
      spread = (rows**2 - (predicted**2).sum(1)) * (rows**2 - (true**2).sum(1))
      there = spread > 0
      found[there, column] = covariance[there] / np.sqrt(spread[there])
    return found

  return score


def _correlation(
  weights: np.ndarray, x: np.ndarray, y: np.ndarray
) -> np.ndarray:
  """Weighted correlation, [R], of x and y, [N] or [R, N]; 0 of constants."""
  total = weights.sum(1, keepdims=True)
  x = x - (weights * x).sum(1, keepdims=True) / total
  y = y - (weights * y).sum(1, keepdims=True) / total
  spread = (weights * x * x).sum(1) * (weights * y * y).sum(1)
  covariance = (weights * x * y).sum(1)
  # What is left of a constant is rounding.
  there = spread > 1e-20 * total[:, 0] ** 2
  result = np.divide(
    covariance,
    np.sqrt(np.where(there, spread, 1)),
    out=np.zeros_like(covariance),
    where=there,
  )
  return np.clip(result, -1.0, 1.0)


def _pearson(predictions: np.ndarray, labels: np.ndarray) -> _Sampler:
  def scaled(values: np.ndarray) -> np.ndarray:
    values = values.astype(np.float64)
    return (values - values.mean()) / (values.std() or 1.0)

  y, xs = scaled(labels), [scaled(one) for one in predictions]

  def score(counts: np.ndarray) -> np.ndarray:
    weights = counts.astype(np.float64)
    return np.stack([_correlation(weights, x, y) for x in xs], axis=1)

  return score


def _spearman(predictions: np.ndarray, labels: np.ndarray) -> _Sampler:
  # Of each set of values the distinct ones, and which of these each row has.
  groups = [
    np.unique(values, return_inverse=True)[1]
    for values in (labels, *predictions)
  ]

  def ranks(weights: np.ndarray, group: np.ndarray) -> np.ndarray:
    """Mean rank of each row in each resample, float64 [R, N], from 0 to 1."""
    order = np.argsort(group, kind='stable')
    starts = np.flatnonzero(np.diff(group[order], prepend=-1))
    sizes = np.add.reduceat(weights[:, order], starts, axis=1)
    middle = np.cumsum(sizes, axis=1) - sizes / 2
    return middle[:, group] / weights.shape[1]

  def score(counts: np.ndarray) -> np.ndarray:
    weights = counts.astype(np.float64)
    y, *xs = (ranks(weights, group) for group in groups)
    return np.stack([_correlation(weights, x, y) for x in xs], axis=1)

  return score


_SAMPLERS: dict[str, Callable[[np.ndarray, np.ndarray], _Sampler]] = {
  'accuracy': _accuracy,
  'f1': _f1,
  'matthews': _matthews,
  'pearson': _pearson,
  'spearman': _spearman,
}
