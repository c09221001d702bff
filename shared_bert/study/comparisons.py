"""Two models, one measure: pairs of runs and the units of an interval.

A comparison is of pairs: two runs of the same pre-training seed and the same
fine-tuning seed, which see the same rows in the same order. In all measures
more is better, but for `loss` and `seconds`.
"""

import dataclasses
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from shared_bert.study.scores import Pair
from shared_bert.study.statistics import Difference, difference

# From so many on, pre-training seeds are the units of a comparison.
MIN_PRETRAINED = 3


@dataclasses.dataclass
class Comparison:
  """Two models, one measure.

  Attributes:
    family: key of `families.FAMILIES`.
    measure: `score`, `noise` (score on noisy text), `noise_change` (that less
      the score on clean text), `outside`, `loss` or `seconds`.
    about: what was measured, in words: a task, a mean, a kind of noise.
    one: a model.
    other: the model that is subtracted.
    tasks: those that are in it.
    unit: what an interval is over: `pre-training seed`, `fine-tuning seed`
      (then it is conditional on these pre-trained models) or `round`.
    pretrained: how many pre-training seeds are in it.
    difference: None where there is no pair.
    p_holm: p-value corrected over the family.
    cannot: why it cannot tell whatever the numbers, or None.
  """

  family: str
  measure: str
  about: str
  one: str
  other: str
  tasks: list[str]
  unit: str
  pretrained: int
  difference: Difference | None
  p_holm: float | None = None
  cannot: str | None = None

  @property
  def name(self) -> str:
    """Its name in `report.json`."""
    parts = (self.family, self.measure, self.about, f'{self.one}-{self.other}')
    return '/'.join(parts)


def paired(
  one: Mapping[Pair, float], other: Mapping[Pair, float]
) -> dict[Pair, float]:
  """Differences of runs of the same seeds, whatever their order."""
  return {pair: one[pair] - other[pair] for pair in one if pair in other}


def grouped(
  items: Sequence[Mapping[Pair, float]], weights: Sequence[float]
) -> tuple[list[list[float]], str, int]:
  """The units of a weighted mean over items, such as tasks.

  Args:
    items: paired differences of each.
    weights: of each.

  Returns:
    Groups for `statistics.difference`, what a unit is, and the number of
    pre-training seeds. With at least three of these that have every item, a
    unit is the mean of one over its fine-tuning seeds; else it is a pair of
    seeds that has every item, grouped by pre-training seed.
  """
  total = sum(weights)

  def mean(values: Iterable[float]) -> float:
    return sum(w * v for w, v in zip(weights, values, strict=True)) / total

  by_seed: list[dict[int, list[float]]] = []
  for item in items:
    seeds: dict[int, list[float]] = {}
    for (seed, _), value in item.items():
      seeds.setdefault(seed, []).append(value)
    by_seed.append(seeds)
  common = sorted(set.intersection(*(set(seeds) for seeds in by_seed)))
  if len(common) >= MIN_PRETRAINED:
    values = [
      mean(statistics.fmean(seeds[seed]) for seeds in by_seed)
      for seed in common
    ]
    return [values], 'pre-training seed', len(common)
  pairs = sorted(set.intersection(*(set(item) for item in items)))
  groups: dict[int, list[float]] = {}
  for pair in pairs:
    groups.setdefault(pair[0], []).append(mean(item[pair] for item in items))
  return list(groups.values()), 'fine-tuning seed', len(groups)


def compare(
  family: str,
  measure: str,
  about: str,
  models: tuple[str, str],
  tasks: Sequence[str],
  items: Sequence[Mapping[Pair, float]],
  weights: Sequence[float] | None = None,
) -> Comparison:
  """A comparison, before Holm's correction.

  Args:
    family: key of `families.FAMILIES`.
    measure: see `Comparison`.
    about: see `Comparison`.
    models: one and the other.
    tasks: see `Comparison`.
    items: paired differences of each item.
    weights: of each item, all alike unless given.
  """
  groups, unit, count = grouped(items, weights or [1.0] * len(items))
  found = difference(groups) if groups else None
  return Comparison(
    family, measure, about, *models, list(tasks), unit, count, found
  )


def subject_of(findings: Mapping[str, Any]) -> str | None:
  """The model that the paper's claims are about: `shared` or a variant."""
  return variant_of(findings, 'shared')


def variant_of(findings: Mapping[str, Any], name: str) -> str | None:
  """The model of this mechanism, plain if it is there, or its first variant."""
  models = findings.get('models') or []
  if name in models:
    return name
  return next((m for m in models if m.partition(':')[0] == name), None)


def baseline_of(findings: Mapping[str, Any]) -> str:
  """The model that others are compared with."""
  return findings.get('baseline') or 'standard'
