"""Two models, one measure: pairs of runs and the units of an interval.

A comparison is of pairs: two runs of the same pre-training seed and the same
fine-tuning seed, which see the same rows in the same order. In all measures
more is better, but for `loss` and `seconds`.
"""

import dataclasses
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from shared_bert.study.scores import SQUAD, Pair
from shared_bert.study.statistics import Difference, mean_difference

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
    means: of both models, over the pairs that the difference is of.
    left_out: tasks or sets that tell nothing and are not in it.
    collapsed: `MODEL on TASK` that are in it, though most of these runs are no
      better than one answer for all examples.
    p_holm: p-value corrected over the family.
    family_size: over how many p-values.
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
  means: tuple[float, float] | None = None
  left_out: list[str] = dataclasses.field(default_factory=list)
  collapsed: list[str] = dataclasses.field(default_factory=list)
  p_holm: float | None = None
  family_size: int = 0
  cannot: str | None = None

  @property
  def is_squad(self) -> bool:
    """Whether it is of SQuAD alone; asked of scores."""
    return set(self.tasks) <= set(SQUAD)

  @property
  def name(self) -> str:
    """Its name in `report.json`."""
    parts = (self.family, self.measure, self.about, f'{self.one}-{self.other}')
    return '/'.join(parts)


# What two runs of the same seeds have.
Both = tuple[float, float]


@dataclasses.dataclass(frozen=True)
class Item:
  """What a mean is over: a task, a task under a kind of noise, a set.

  Attributes:
    task: whose runs it is measured on.
    pairs: numbers of both models by their seeds.
    weight: in the mean.
  """

  task: str
  pairs: Mapping[Pair, Both]
  weight: float = 1.0


def paired(
  one: Mapping[Pair, float], other: Mapping[Pair, float]
) -> dict[Pair, Both]:
  """Numbers of runs of the same seeds, whatever their order."""
  return {pair: (one[pair], other[pair]) for pair in one if pair in other}


# Weight and groups of a stratum, as `statistics.mean_difference` takes them.
Strata = list[tuple[float, list[list[float]]]]


def units(
  items: Sequence[Item], value: Callable[[Both], float]
) -> tuple[Strata, str, int]:
  """The units of a weighted mean over items.

  With at least three pre-training seeds that all items have, a unit is the mean
  of one over items and fine-tuning seeds. Else it is a pair of runs, in groups
  by pre-training seed: the runs of one task have the pre-trained model in
  common with those of another, and nothing else, so each task is a stratum; the
  items of one task are measured on the same runs and are a mean of each pair.

  Args:
    items: one or more.
    value: of a pair, such as its difference.

  Returns:
    Strata, none where no pre-training seed has all items; what a unit is; and
    the number of pre-training seeds.
  """
  total = sum(item.weight for item in items)
  seeds = [{seed for seed, _ in item.pairs} for item in items]
  common = sorted(set.intersection(*seeds))
  if len(common) >= MIN_PRETRAINED:
    means = [
      sum(
        item.weight
        * statistics.fmean(
          value(both) for (own, _), both in item.pairs.items() if own == seed
        )
        for item in items
      )
      / total
      for seed in common
    ]
    return [(1.0, [means])], 'pre-training seed', len(common)
  strata: Strata = []
  for task in dict.fromkeys(item.task for item in items):
    its = [item for item in items if item.task == task]
    weight = sum(item.weight for item in its)
    groups: dict[int, list[float]] = {}
    for pair in sorted(set.intersection(*(set(item.pairs) for item in its))):
      if pair[0] in common:
        mean = sum(item.weight * value(item.pairs[pair]) for item in its)
        groups.setdefault(pair[0], []).append(mean / weight)
    if len(groups) < len(common):
      return [], 'fine-tuning seed', 0
    if groups:
      strata.append((weight / total, list(groups.values())))
  return strata, 'fine-tuning seed', len(common)


def compare(
  family: str,
  measure: str,
  about: str,
  models: tuple[str, str],
  items: Sequence[Item],
) -> Comparison:
  """A comparison, before Holm's correction.

  Args:
    family: key of `families.FAMILIES`.
    measure: see `Comparison`.
    about: see `Comparison`.
    models: one and the other.
    items: what the mean is over.
  """
  strata, unit, count = units(items, lambda both: both[0] - both[1])
  found = Comparison(
    family,
    measure,
    about,
    *models,
    list(dict.fromkeys(item.task for item in items)),
    unit,
    count,
    mean_difference(strata) if strata else None,
  )
  if strata:
    found.means = (
      _mean(units(items, lambda both: both[0])[0]),
      _mean(units(items, lambda both: both[1])[0]),
    )
  return found


def _mean(strata: Strata) -> float:
  """The mean as `statistics.mean_difference` weights it."""
  return sum(
    weight * statistics.fmean(map(statistics.fmean, groups))
    for weight, groups in strata
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
