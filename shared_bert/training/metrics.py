"""The metrics of GLUE over a whole split, and GLUE's two averages.

Each metric is a pure NumPy function of all predictions of a split: none of
them but accuracy is a mean over rows, so none is averaged over batches.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np


def accuracy(predictions: np.ndarray, labels: np.ndarray) -> float:
  """Share of right predictions.

  Args:
    predictions: int [N] class ids.
    labels: int [N] class ids.

  Returns:
    A number from 0 to 1.
  """
  return float(np.mean(predictions == labels))


def f1(predictions: np.ndarray, labels: np.ndarray) -> float:
  """Binary F1 of class 1: 2·TP / (2·TP + FP + FN).

  Args:
    predictions: int [N], 0 or 1.
    labels: int [N], 0 or 1.

  Returns:
    A number from 0 to 1; 0 when class 1 is neither predicted nor there, as
    scikit-learn has it.
  """
  hits = np.sum((predictions == 1) & (labels == 1))
  either = np.sum(predictions == 1) + np.sum(labels == 1)
  return float(2 * hits / either) if either else 0.0


def matthews(predictions: np.ndarray, labels: np.ndarray) -> float:
  """Matthews correlation, for any number of classes.

  The covariance form R_K of Gorodkin (2004, Computational Biology and
  Chemistry 28, 367-374), which for two classes is Matthews's coefficient and
  which GLUE calls R_3 for its three-way diagnostic set.

  Args:
    predictions: int [N] class ids.
    labels: int [N] class ids.

  Returns:
    A number from -1 to 1; 0 when all predictions or all labels are of one
    class: a constant says nothing about the labels, and scikit-learn has 0.
  """
  classes = np.union1d(predictions, labels)
  # float64 holds these integers exactly, and their products do not overflow.
  predicted = (predictions[:, None] == classes).sum(axis=0).astype(np.float64)
  true = (labels[:, None] == classes).sum(axis=0).astype(np.float64)
  rows = float(len(labels))
  covariance = rows * np.sum(predictions == labels) - predicted @ true
  spread = (rows**2 - predicted @ predicted) * (rows**2 - true @ true)
  return float(covariance / np.sqrt(spread)) if spread else 0.0


def pearson(predictions: np.ndarray, labels: np.ndarray) -> float:
  """Pearson's linear correlation.

  Args:
    predictions: float [N].
    labels: float [N].

  Returns:
    A number from -1 to 1. 0 when either side is constant, where the quotient
    is 0 / 0 and SciPy warns and gives NaN: a regression head that says the same
    for every row has learnt no order, and an early evaluation must be a number
    that later ones can beat. NaN when a value is not finite, because a diverged
    model must not pass for an uninformative one.
  """
  x = np.asarray(predictions, np.float64)
  y = np.asarray(labels, np.float64)
  if not (np.isfinite(x).all() and np.isfinite(y).all()):
    return float('nan')
  # Not the norms below: rounding of the mean leaves a constant's above 0.
  if np.ptp(x) == 0 or np.ptp(y) == 0:
    return 0.0
  x = x - x.mean()
  y = y - y.mean()
  correlation = (x / np.linalg.norm(x)) @ (y / np.linalg.norm(y))
  return float(np.clip(correlation, -1.0, 1.0))


def spearman(predictions: np.ndarray, labels: np.ndarray) -> float:
  """Spearman's rank correlation: Pearson's of the ranks, ties averaged.

  Args:
    predictions: float [N].
    labels: float [N].

  Returns:
    A number from -1 to 1; 0 and NaN as in `pearson`.
  """
  # Imported here: scipy.stats takes longer to load than the rest of the job.
  from scipy import stats

  if not (np.isfinite(predictions).all() and np.isfinite(labels).all()):
    return float('nan')
  return pearson(stats.rankdata(predictions), stats.rankdata(labels))


METRICS: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
  'accuracy': accuracy,
  'f1': f1,
  'matthews': matthews,
  'pearson': pearson,
  'spearman': spearman,
}


def evaluate_metrics(
  names: Sequence[str], predictions: np.ndarray, labels: np.ndarray
) -> dict[str, float]:
  """Several metrics of the same predictions.

  Args:
    names: keys of `METRICS`.
    predictions: [N], class ids or scores.
    labels: [N], class ids or scores.

  Returns:
    Metric name to value, in the order of `names`.

  Raises:
    ValueError: an unknown name, no rows, or shapes that differ.
  """
  predictions = np.asarray(predictions)
  labels = np.asarray(labels)
  if predictions.ndim != 1 or predictions.shape != labels.shape:
    raise ValueError(f'{predictions.shape} predictions, {labels.shape} labels')
  if not len(labels):
    raise ValueError('no rows to evaluate')
  unknown = [name for name in names if name not in METRICS]
  if unknown:
    raise ValueError(f'no metrics {unknown}; there are {list(METRICS)}')
  return {name: METRICS[name](predictions, labels) for name in names}


def area_under_curve(levels: np.ndarray, values: np.ndarray) -> np.ndarray:
  """Mean height of curves between their ends, by the trapezoid rule.

  Args:
    levels: [K], rising, two or more.
    values: [..., K], a metric at each level.

  Returns:
    float64 [...]; a curve that is m everywhere has m.
  """
  levels = np.asarray(levels, np.float64)
  heights = (values[..., 1:] + values[..., :-1]) / 2
  return heights @ np.diff(levels) / (levels[-1] - levels[0])


def mean_loss(outputs: np.ndarray, labels: np.ndarray) -> float:
  """What fine-tuning minimises, on rows to evaluate.

  Args:
    outputs: float32 [N, C] logits of classes, or [N, 1] scores.
    labels: int [N] class ids, or float [N] scores.

  Returns:
    The mean cross entropy in nats, or the mean squared error.
  """
  outputs = outputs.astype(np.float64)
  if np.issubdtype(labels.dtype, np.floating):
    return float(np.square(outputs[:, 0] - labels).mean())
  log_total = np.logaddexp.reduce(outputs, axis=-1)
  return float((log_total - outputs[np.arange(len(labels)), labels]).mean())


def confusion_counts(
  predictions: np.ndarray, labels: np.ndarray, num_classes: int
) -> np.ndarray:
  """How often each class is taken for each.

  Args:
    predictions: int [N] class ids.
    labels: int [N] class ids.
    num_classes: C.

  Returns:
    int64 [C, C]; row g, column p counts the rows of label g predicted as p.
  """
  pairs = labels.astype(np.int64) * num_classes + predictions
  counts = np.bincount(pairs, minlength=num_classes**2)
  return counts.reshape(num_classes, num_classes)


def majority_rate(labels: np.ndarray) -> float:
  """Accuracy of always saying the commonest class.

  Args:
    labels: int [N] class ids.

  Returns:
    A number above 0, at most 1.

  Raises:
    ValueError: no rows.
  """
  labels = np.asarray(labels)
  if not len(labels):
    raise ValueError('no rows to count')
  _, counts = np.unique(labels, return_counts=True)
  return float(counts.max() / len(labels))


def majority_rates(
  labels: Mapping[str, np.ndarray], is_regression: bool
) -> dict[str, float]:
  """`majority_rate` of each split; none for scores, which have no classes.

  Args:
    labels: by split, [N].
    is_regression: whether they are scores.
  """
  if is_regression:
    return {}
  return {split: majority_rate(gold) for split, gold in labels.items()}


def collapsed_splits(
  metrics: Mapping[str, Mapping[str, float]],
  majority: Mapping[str, float],
  sizes: Mapping[str, int],
) -> list[str]:
  """The splits on which a model is no better than one that never looks.

  Classes: accuracy within one standard error, sqrt(p (1 - p) / N), of the
  commonest class's share p; with Matthews' correlation, which looks beyond
  that share, within one of none, 1 / sqrt(N): N times its square is the
  chi-squared statistic of the table of two classes. Scores: Pearson's
  correlation within as much, its standard error where there is none. Answers:
  of the questions that have one not a word is found.

  Args:
    metrics: by split, by name.
    majority: from `majority_rates`.
    sizes: N by split.
  """
  found = []
  for split, values in metrics.items():
    if 'matthews' in values:
      is_blind = values['matthews'] <= 1 / np.sqrt(sizes[split])
    elif split in majority and 'accuracy' in values:
      p = majority[split]
      is_blind = values['accuracy'] <= p + np.sqrt(p * (1 - p) / sizes[split])
    elif 'exact_match' in values:
      is_blind = values.get('HasAns_f1', values['f1']) == 0.0
    else:
      error = 1 / np.sqrt(sizes[split])
      is_blind = values.get('pearson', 1.0) <= error
    if is_blind:
      found.append(split)
  return found


# The columns of a GLUE table and the metrics that each is the mean of.
GLUE_COLUMNS: dict[str, tuple[str, ...]] = {
  'cola': ('matthews',),
  'sst2': ('accuracy',),
  'mrpc': ('f1', 'accuracy'),
  'stsb': ('spearman', 'pearson'),
  'qqp': ('f1', 'accuracy'),
  'mnli_matched': ('accuracy',),
  'mnli_mismatched': ('accuracy',),
  'qnli': ('accuracy',),
  'rte': ('accuracy',),
  'wnli': ('accuracy',),
}

# Each average is the plain mean of its terms, a term the mean of its columns.
GLUE_AVERAGES: dict[str, tuple[tuple[str, ...], ...]] = {
  'leaderboard': (
    ('cola',),
    ('sst2',),
    ('mrpc',),
    ('stsb',),
    ('qqp',),
    ('mnli_matched', 'mnli_mismatched'),
    ('qnli',),
    ('rte',),
    ('wnli',),
  ),
  'nine_number': tuple(
    (column,) for column in GLUE_COLUMNS if column != 'wnli'
  ),
}


class Average(NamedTuple):
  """An average of GLUE, or what it lacks.

  Attributes:
    value: the average, on the scale of the metrics; None if anything lacks.
    missing: what lacks, each as `column.metric`.
  """

  value: float | None
  missing: tuple[str, ...]


def glue_average(
  results: Mapping[str, Mapping[str, float]],
) -> dict[str, Average]:
  """GLUE's two averages, under their two names.

  `leaderboard` is the one of gluebenchmark.com: nine tasks, WNLI included,
  each the mean of its metrics, MNLI the mean of matched and mismatched.
  `nine_number` is the mean of nine numbers common in papers: without WNLI, and
  with MNLI matched and mismatched as two numbers. They are not comparable.

  A partial average would be comparable to neither, so a missing number means
  no value: None and the list of what is missing, not an error, for a study is
  summed up while half of it still runs.

  Args:
    results: columns of `GLUE_COLUMNS` to metric name to value; whatever else
      it holds (other columns, other metrics such as a loss) does not count.

  Returns:
    `leaderboard` and `nine_number`, each an `Average`.
  """
  averages = {}
  for name, terms in GLUE_AVERAGES.items():
    missing = tuple(
      f'{column}.{metric}'
      for term in terms
      for column in term
      for metric in GLUE_COLUMNS[column]
      if metric not in results.get(column, {})
    )
    value = None
    if not missing:
      value = float(
        np.mean(
          [
            np.mean([_column_mean(results, column) for column in term])
            for term in terms
          ]
        )
      )
    averages[name] = Average(value, missing)
  return averages


def _column_mean(
  results: Mapping[str, Mapping[str, float]], column: str
) -> float:
  """Mean of the metrics of one column."""
  values = [results[column][metric] for metric in GLUE_COLUMNS[column]]
  return float(np.mean(values))
