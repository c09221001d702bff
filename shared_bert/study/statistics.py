"""What a few runs can say: spread, intervals, p-values, what would be missed.

Pure functions of numbers. A study has two to five seeds, and this decides what
is used. No method that only re-uses the observed values reaches 95 % there: an
interval from the least to the greatest of n values misses the centre of a
symmetric distribution in 2^(1-n) of all cases, a quarter at n=3. So what is
assumed for small n is that differences are roughly normal, and Student's t is
what the bootstrap is widened to.
"""

import dataclasses
import functools
import itertools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy import optimize, special

LEVEL = 0.05
POWER = 0.8

# From so many units on, the flips of n signs can reach p-values that survive
# Holm's correction over a hundred comparisons: 2^(1-n) <= 0.05 / 100.
_FLIPS_FROM = 12
# All flips are tried up to so many units, above that so many are drawn.
_ALL_FLIPS_TO = 16
_FLIPS = 50_000


class Spread(NamedTuple):
  """Mean, spread and number of a few values; None is what they cannot tell.

  Attributes:
    mean: of the values.
    sd: sample standard deviation, of two values at least.
    n: how many.
  """

  mean: float
  sd: float | None
  n: int


def spread(values: Sequence[float]) -> Spread:
  """Mean and sample standard deviation of one value or more."""
  sd = float(np.std(values, ddof=1)) if len(values) > 1 else None
  return Spread(float(np.mean(values)), sd, len(values))


class Components(NamedTuple):
  """Standard deviations between groups and within them, and their numbers."""

  between: float | None
  within: float | None
  groups: int
  n: int


def variance_components(groups: Sequence[Sequence[float]]) -> Components:
  """Splits variance in two, by the one-way analysis of variance.

  The estimator of moments for unequal groups (Searle, Casella and McCulloch
  1992, Variance Components, section 3.6): within is the pooled variance, and
  between is (MSB - MSW) / n0, n0 = (N - sum n_g^2 / N) / (G - 1), not below 0.

  Args:
    groups: for each pre-training seed the numbers of its fine-tuning seeds.

  Returns:
    Standard deviations; `between` is None with fewer than two groups, both are
    where no group has two values.
  """
  arrays = [np.asarray(group, np.float64) for group in groups if len(group)]
  sizes = np.array([len(group) for group in arrays])
  n, count = int(sizes.sum()), len(arrays)
  if n == count:  # one value a group: the two cannot be told apart
    return Components(None, None, count, n)
  means = np.array([group.mean() for group in arrays])
  squares = sum(
    float(((group - mean) ** 2).sum())
    for group, mean in zip(arrays, means, strict=True)
  )
  within = squares / (n - count)
  if count < 2:
    return Components(None, float(np.sqrt(within)), count, n)
  grand = (sizes * means).sum() / n
  mean_square = (sizes * (means - grand) ** 2).sum() / (count - 1)
  typical = (n - (sizes**2).sum() / n) / (count - 1)
  between = max(0.0, (mean_square - within) / typical)
  return Components(float(np.sqrt(between)), float(np.sqrt(within)), count, n)


@dataclasses.dataclass(frozen=True)
class Difference:
  """A mean of differences and what is known of it.

  Attributes:
    estimate: the mean over groups of the means of their differences.
    low: lower end of the 95 % interval; None where there is none.
    high: its upper end.
    sd: standard deviation of the differences about their groups' means.
    df: degrees of freedom of the interval; of strata, those of a Student's t as
      wide.
    n: how many differences.
    groups: how many groups they are in; of strata, the most.
    p: two-sided, of no difference.
    test: `t` or `signs`, where `p` is from.
    detectable: the difference that is found in 80 % of such studies.
  """

  estimate: float
  low: float | None
  high: float | None
  sd: float | None
  df: float
  n: int
  groups: int
  p: float | None
  test: str | None
  detectable: float | None


def difference(
  groups: Sequence[Sequence[float]], *, draws: int = 4000, seed: int = 0
) -> Difference:
  """The mean of paired differences, with a bootstrap interval for small n.

  The bootstrap draws units, never runs below a unit: where pre-training seeds
  are the units, each of their means carries the variance of its fine-tuning
  seeds already, and drawing these again would count it twice (Davison and
  Hinkley 1997, Bootstrap Methods and their Application, section 3.8). Where
  units lie in groups that are given (fine-tuning seeds of given pre-trained
  models), residuals about the groups' means are drawn, and so what differs
  between groups is no part of the interval.

  The percentile interval of so few values is too narrow twice: the variance of
  the draws lacks a factor N / df, and its quantiles are the normal's where
  Student's belong. Residuals are made greater by sqrt(N / df), and quantiles
  are taken at Phi(-t), t Student's: the expanded percentile interval
  (Hesterberg 2015, What Teachers Should Know About the Bootstrap, The American
  Statistician 69, 371-386). Below about eight units even the extreme draws lie
  within that, so each end is the farther of it and of estimate ± t · standard
  error.

  Args:
    groups: differences of pairs, in the units of the interval; one group unless
      the units belong to models that are taken as given.
    draws: of the bootstrap.
    seed: of the bootstrap and of flipped signs.

  Returns:
    No interval and no p-value where the spread is unknown, for want of a second
    difference in a group, or because all are equal to the last digit: dev sets
    are finite, and two equal steps of them are no sign of certainty.

  Raises:
    ValueError: no differences.
  """
  return mean_difference([(1.0, groups)], draws=draws, seed=seed)


def mean_difference(
  strata: Sequence[tuple[float, Sequence[Sequence[float]]]],
  *,
  draws: int = 4000,
  seed: int = 0,
) -> Difference:
  """The weighted mean of `difference` over strata that vary independently.

  Such as tasks whose fine-tuning runs have a pre-trained model in common and
  nothing else. The squares of the half-widths of their own intervals add up
  (Banerjee 1960, Approximate Confidence Interval for Linear Functions of Means
  of k Populations, Sankhya 22, 357-358), which covers at least 95 %; with
  Satterthwaite's degrees of freedom it is 90 % where a stratum has but one.

  Args:
    strata: of each its weight, of a sum of 1, and its groups.
    draws: of the bootstrap.
    seed: of the bootstrap and of flipped signs.

  Returns:
    As `difference`; nothing but the estimate where the spread of any stratum
    is unknown for want of a second difference in a group.

  Raises:
    ValueError: a stratum without differences.
  """
  random = np.random.default_rng(seed)
  parts = [_Part.of(weight, groups, random, draws) for weight, groups in strata]
  if not parts:
    raise ValueError('no differences')
  estimate = sum(part.estimate for part in parts)
  n, count = sum(part.n for part in parts), max(part.groups for part in parts)
  known = all(part.df for part in parts)
  freedom = sum(part.df for part in parts)
  sd = (
    float(np.sqrt(sum(p.squares for p in parts) / freedom)) if known else None
  )
  scale = max(1.0, *(part.scale for part in parts))
  if sd is None or sd < 1e-9 * scale:
    return Difference(
      estimate, None, None, sd, freedom, n, count, None, None, None
    )
  variance = sum(part.variance for part in parts)
  error = float(np.sqrt(variance))
  quantile = _half_width(parts, LEVEL) / error
  df = _freedom(quantile, [part.df for part in parts])
  drawn = np.sum([part.drawn for part in parts], axis=0)
  tail = special.ndtr(-quantile)
  low, high = np.quantile(drawn, (tail, 1 - tail))
  if len(parts) == 1 and count == 1 and n >= _FLIPS_FROM:
    values = np.asarray(strata[0][1][0], np.float64)
    p, test = _p_of_signs(values, random), 'signs'
  else:
    p, test = _p_of_t(parts, estimate), 't'
  return Difference(
    estimate,
    estimate + min(float(low), -quantile * error),
    estimate + max(float(high), quantile * error),
    sd,
    df,
    n,
    count,
    p,
    test,
    detectable(error, df),
  )


class _Part(NamedTuple):
  """What one stratum gives; all is weighted but `squares` and `scale`."""

  estimate: float
  variance: float
  drawn: np.ndarray
  squares: float
  df: int
  n: int
  groups: int
  scale: float

  @classmethod
  def of(
    cls,
    weight: float,
    groups: Sequence[Sequence[float]],
    random: np.random.Generator,
    draws: int,
  ) -> '_Part':
    """Of groups of differences, with draws of its mean about the estimate."""
    arrays = [np.asarray(group, np.float64) for group in groups if len(group)]
    if not arrays:
      raise ValueError('no differences')
    sizes = np.array([len(group) for group in arrays])
    n, count = int(sizes.sum()), len(arrays)
    df = n - count
    means = np.array([group.mean() for group in arrays])
    residuals = np.concatenate(
      [group - mean for group, mean in zip(arrays, means, strict=True)]
    )
    squares = float((residuals**2).sum())
    shares = np.repeat(weight / (count * sizes), sizes)
    drawn = residuals[random.integers(n, size=(draws, n))] @ shares
    return cls(
      float(weight * means.mean()),
      squares / df * float((shares**2).sum()) if df else 0.0,
      drawn * np.sqrt(n / df) if df else drawn,
      squares,
      df,
      n,
      count,
      float(np.abs(np.concatenate(arrays)).max()),
    )


def _half_width(parts: Sequence[_Part], level: float) -> float:
  """That of the interval about the mean of strata."""
  quantiles = [special.stdtrit(part.df, 1 - level / 2) for part in parts]
  return float(
    np.sqrt(
      sum(q**2 * p.variance for q, p in zip(quantiles, parts, strict=True))
    )
  )


def _freedom(quantile: float, freedoms: Sequence[int]) -> float:
  """The degrees of freedom whose Student's t has this quantile."""
  low, high = min(freedoms), max(freedoms)
  if low == high:
    return low

  def above(df: float) -> float:
    return float(special.stdtrit(df, 1 - LEVEL / 2)) - quantile

  # A quantile at an end may lie beyond it by the last digit.
  ends = low * (1 - 1e-9), high * (1 + 1e-9)
  return float(optimize.root_scalar(above, bracket=ends).root)


def _p_of_t(parts: Sequence[_Part], estimate: float) -> float:
  """The level at which the interval about the estimate just leaves 0 out."""
  if len(parts) == 1:
    error = np.sqrt(parts[0].variance)
    return float(2 * special.stdtr(parts[0].df, -abs(estimate) / error))
  low, high = 0.0, 1.0
  for _ in range(60):
    middle = (low + high) / 2
    wide = _half_width(parts, middle) > abs(estimate)
    low, high = (middle, high) if wide else (low, middle)
  return high


def _p_of_signs(values: np.ndarray, random: np.random.Generator) -> float:
  """The sign-flip permutation test of the mean (Fisher 1935, section 21)."""
  n = len(values)
  if n <= _ALL_FLIPS_TO:
    signs = np.array(list(itertools.product((-1.0, 1.0), repeat=n)))
    extra = 0  # what was observed is among them
  else:
    signs = random.choice((-1.0, 1.0), size=(_FLIPS, n))
    extra = 1  # (Phipson and Smyth 2010): a p-value is never 0
  means = np.abs(signs @ values)
  hits = int((means >= abs(values.sum()) - 1e-12 * np.abs(values).sum()).sum())
  return (hits + extra) / (len(signs) + extra)


def detectable(error: float, df: float) -> float:
  """The difference that a two-sided t-test at 5 % finds in 80 % of studies.

  Args:
    error: standard error of the mean difference.
    df: its degrees of freedom, 1 or more.
  """
  return error * _shift(df)


@functools.cache
def _shift(df: float) -> float:
  """Non-centrality at which Student's two-sided test has the power.

  The power is the mean over sqrt(chi2 / df), at its quantiles, of the normal
  distribution's; SciPy's non-central t is off by a fifth at df=1.
  """
  critical = special.stdtrit(df, 1 - LEVEL / 2)
  shares = (np.arange(2_000) + 0.5) / 2_000
  reach = critical * np.sqrt(special.chdtri(df, shares) / df)

  def lacking(shift: float) -> float:
    found = special.ndtr(shift - reach) + special.ndtr(-shift - reach)
    return float(found.mean()) - POWER

  return float(optimize.root_scalar(lacking, bracket=(0.0, 200.0)).root)


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
  """Holm's p-values, of a family of comparisons, by their names.

  The k-th smallest of m is multiplied by m - k + 1, none is smaller than one
  before it, none is above 1 (Holm 1979, A Simple Sequentially Rejective
  Multiple Test Procedure). The chance of any false alarm in the family is then
  at most the level, whatever the comparisons have in common.

  Args:
    p_values: of all comparisons that have one, by any name.
  """
  ordered = sorted(p_values, key=lambda name: p_values[name])
  adjusted, least = {}, 0.0
  for rank, name in enumerate(ordered):
    least = max(least, min(1.0, (len(ordered) - rank) * p_values[name]))
    adjusted[name] = least
  return adjusted
