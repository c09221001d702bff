"""What the study says of each claim, by one rule."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from shared_bert.study import comparisons, families, scores, wording
from shared_bert.study.claims import CLAIMS, Claim, base_parameters
from shared_bert.study.comparisons import Comparison
from shared_bert.study.statistics import LEVEL

HOLDS = 'holds'
FAILS = 'does not hold'
OPEN = 'cannot be told'

RULE = (
  'A claim about quality **holds** if the 95 % interval of the difference lies '
  'on its side of 0 and the p-value, corrected by Holm over its family, is '
  f'below {LEVEL}; it **does not hold** if both are so on the other side; else '
  'it **cannot be told**. Whatever the interval, it cannot be told either '
  'where most runs of both models collapsed, where fewer than '
  f'{comparisons.MIN_PRETRAINED} pre-training seeds are shared (the interval '
  'is then one of these pre-trained models, and the claim is about '
  'mechanisms), or where a model that is compared does not use the order of '
  'words on every pre-training seed, or that was not measured. What the '
  'interval alone would give is then said beside it. A run has collapsed where '
  'it is no better than one answer for all examples: its accuracy is not more '
  'than a standard error above that of the commonest class, its correlation '
  'not more than one above 0, or not a word of an answer is found. '
  'A task on which most runs of both models collapsed is left out of a mean '
  'and named.'
)

# From this ratio of times on, what is saved is not one tenth, rounded.
_TENTH = 0.95
# As far from the paper's share may the share of q/k/v parameters be, in points:
# what its lower-order terms (biases, diagonals) make of two thirds from width
# 128 on.
_POINTS = 1.0

_LIMITS = {
  'none': 'does not use the order of words',
  'mixed': 'uses the order of words on some seeds only',
  'unknown': 'was not measured for the order of words on every seed',
}


@dataclasses.dataclass
class Verdict:
  """What the study says of a claim.

  Attributes:
    claim: which.
    verdict: `HOLDS`, `FAILS` or `OPEN`.
    shown: what the interval alone gives.
    limits: why the verdict is open all the same, as clauses.
    sentence: the numbers behind it.
    comparison: name of the comparison, or None.
  """

  claim: Claim
  verdict: str
  shown: str
  limits: list[str]
  sentence: str
  comparison: str | None = None


def rule(comparison: Comparison | None, sign: int = 1) -> str:
  """The verdict on a claim that a difference has a sign; see `RULE`."""
  if comparison is None or comparison.cannot:
    return OPEN
  found = comparison.difference
  if found is None or found.low is None or found.high is None:
    return OPEN
  if comparison.p_holm is None or comparison.p_holm >= LEVEL:
    return OPEN
  if found.low > 0:
    return HOLDS if sign > 0 else FAILS
  if found.high < 0:
    return FAILS if sign > 0 else HOLDS
  return OPEN


def verdicts(
  findings: Mapping[str, Any], found: Sequence[Comparison]
) -> list[Verdict]:
  """The verdict on every claim, in the order of `CLAIMS`.

  Args:
    findings: of the study.
    found: from `families.all_comparisons`.
  """
  special = {
    'qkv_parameters': _of_projections,
    'total_parameters': _of_total,
    'training_time': _of_time,
  }
  return [
    special[claim.key](claim, findings, found)
    if claim.key in special
    else _of_quality(claim, findings, found)
    for claim in CLAIMS
  ]


def _counts(findings: Mapping[str, Any], block: str) -> tuple[Any, Any]:
  """Parameters of the subject and of the baseline."""
  models = (findings.get('cost') or {}).get('models') or {}
  names = comparisons.subject_of(findings), comparisons.baseline_of(findings)
  one, other = (
    ((models.get(name) or {}).get('parameters') or {}).get(block)
    for name in names
  )
  return one, other


def _of_projections(
  claim: Claim, findings: Mapping[str, Any], _: Sequence[Comparison]
) -> Verdict:
  one, other = _counts(findings, 'query/key/value')
  formula = (
    'By 3(D² + D) → D² + D + 3D it is −66.54 % at D = 768, a matter of '
    'counting.'
  )
  if not (one and other):
    sentence = f'The study has no counts. {formula}'
    return Verdict(claim, OPEN, OPEN, [], sentence)
  points = 100 * (one / other - 1)
  verdict = HOLDS if abs(points + 66.53) <= _POINTS else FAILS
  sentence = (
    f'{one:,} to {other:,} at this size: {wording.signed(points)} %. {formula}'
  )
  return Verdict(claim, verdict, verdict, [], sentence)


def _of_total(
  claim: Claim, findings: Mapping[str, Any], _: Sequence[Comparison]
) -> Verdict:
  one, other = _counts(findings, 'total')
  base = [base_parameters(name) for name in ('shared', 'standard')]
  share = wording.percent(base[0] / base[1], 2)
  sentence = (
    f'At base {base[0]:,} to {base[1]:,}: {share}, by formula; −12.94 % comes '
    'out only if the diagonals are not counted.'
  )
  if one and other:
    here = wording.percent(one / other, 2)
    sentence += f' At this size {one:,} to {other:,}: {here}.'
  # The claim is about base and the method as it is, a matter of counting.
  plain = comparisons.subject_of(findings) == 'shared'
  verdict = HOLDS if plain else OPEN
  return Verdict(claim, verdict, verdict, [], sentence)


def _of_time(
  claim: Claim, findings: Mapping[str, Any], found: Sequence[Comparison]
) -> Verdict:
  comparison = _find(
    findings, found, 'seconds', lambda c: c.about == 'pretrain'
  )
  if comparison is None or comparison.difference is None:
    return Verdict(claim, OPEN, OPEN, [], 'Time was not measured.')
  low, high = comparison.difference.low, comparison.difference.high
  verdict = OPEN
  if low is not None and high is not None:
    if high + 1 <= _TENTH:
      verdict = HOLDS
    elif low + 1 > _TENTH:
      verdict = FAILS
  sentence = (
    f'{wording.describe(comparison)}. It holds if the interval lies below '
    f'{wording.signed(_TENTH - 1)}, from where on it rounds to a tenth or '
    'more, does not if it lies above; on this machine, at this size, with the '
    'rows that the table of times names.'
  )
  return Verdict(claim, verdict, verdict, [], sentence, comparison.name)


def _find(
  findings: Mapping[str, Any],
  found: Sequence[Comparison],
  measure: str,
  also: Callable[[Comparison], bool] = lambda comparison: True,
  rival: str | None = None,
) -> Comparison | None:
  """The comparison of the subject that a claim is about."""
  models = (
    comparisons.subject_of(findings),
    rival or comparisons.baseline_of(findings),
  )
  return next(
    (
      c
      for c in found
      if c.family in ('planned', 'time')
      and c.measure == measure
      and (c.one, c.other) == models
      and also(c)
    ),
    None,
  )


def _comparison_of(
  claim: Claim, findings: Mapping[str, Any], found: Sequence[Comparison]
) -> Comparison | None:
  def is_small(comparison: Comparison) -> bool:
    return comparison.about.startswith('small tasks')

  def is_squad(comparison: Comparison) -> bool:
    return comparison.is_squad

  def is_glue(comparison: Comparison) -> bool:
    return not is_small(comparison) and not is_squad(comparison)

  match claim.key:
    case 'glue_symmetric' | 'glue_pairwise' | 'narrow':
      name = claim.key.removeprefix('glue_')
      rival = comparisons.variant_of(findings, name)
      if rival is None:
        return None
      return _find(findings, found, 'score', is_glue, rival)
    case 'glue_standard':
      return _find(findings, found, 'score', is_glue)
    case 'small_tasks':
      one = _find(findings, found, 'score', is_small)
      # Where no other tasks were run, the mean over all is theirs.
      whole = _find(findings, found, 'score', is_glue)
      if one or not whole or not set(whole.tasks) <= set(families.SMALL_TASKS):
        return one
      return whole
    case 'squad':
      return _find(findings, found, 'score', is_squad)
    case _:
      return _find(findings, found, claim.key)


def _of_quality(
  claim: Claim, findings: Mapping[str, Any], found: Sequence[Comparison]
) -> Verdict:
  comparison = _comparison_of(claim, findings, found)
  if comparison is None:
    return Verdict(claim, OPEN, OPEN, [], 'Not run.')
  shown = rule(comparison, claim.sign)
  sentences = [f'{wording.describe(comparison)}.', *wording.asides(comparison)]
  if shown == OPEN:
    sentences.append(wording.why_not_told(comparison))
  sentences.append(_sizes(claim, comparison))
  limits = [
    f'{model} {_LIMITS[order.status]}'
    for model in (comparison.one, comparison.other)
    if (order := scores.word_order(findings, model)).status in _LIMITS
  ]
  if conditional := wording.conditional(comparison):
    limits.append(conditional)
  if limits and shown != OPEN:
    sentences.append(
      f'By the interval alone: {shown}. But {"; ".join(limits)}.'
    )
  elif limits:
    sentences.append(f'And {"; ".join(limits)}.')
  sentence = ' '.join(s for s in sentences if s)
  verdict = OPEN if limits else shown
  return Verdict(claim, verdict, shown, limits, sentence, comparison.name)


def _sizes(claim: Claim, comparison: Comparison) -> str:
  """Whether the paper's sizes, of GLUE's mean, lie in the interval."""
  found = comparison.difference
  if not claim.sizes or found is None or found.low is None:
    return ''
  if wording.conditional(comparison) or 'GLUE (' not in comparison.about:
    return ''
  assert found.high is not None
  low, high = found.low, found.high
  inside = [size for size in claim.sizes if low <= size <= high]
  outside = [size for size in claim.sizes if size not in inside]
  parts = [
    f'{wording.listed([wording.signed(size) for size in sizes])} {where} it'
    for where, sizes in (('in', inside), ('outside', outside))
    if sizes
  ]
  text = ', '.join(parts)
  return f'The interval and the paper’s sizes, read as points: {text}.'
