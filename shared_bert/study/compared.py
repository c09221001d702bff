"""Differences between models as a table, and what it comes to."""

from collections.abc import Sequence

from shared_bert.study import families, judgement, wording
from shared_bert.study.analysis import Analysis
from shared_bert.study.comparisons import Comparison
from shared_bert.study.wording import listed, number, signed, table

_RESULTS = {judgement.HOLDS: 'above', judgement.FAILS: 'below'}
_ORDER = {
  'none': 'no word order',
  'mixed': 'word order on some seeds',
  'unknown': 'word order not measured',
}


def section(
  analysis: Analysis, chosen: Sequence[Comparison], unit: str
) -> list[str]:
  """A table of differences and what it comes to.

  Args:
    analysis: of the study.
    chosen: the comparisons of the table.
    unit: of the numbers, or which of them are better.
  """
  if not chosen:
    return ['No two models have runs of the same seeds yet.', '']
  told = [c for c in chosen if judgement.rule(c) != judgement.OPEN]
  names = dict.fromkeys(c.family for c in chosen)
  corrected = listed(
    [
      f'“{families.FAMILIES[name]}” '
      f'({max(c.family_size for c in chosen if c.family == name)})'
      for name in names
    ]
  )
  lines = [
    f'Differences of pairs of equal seeds, {unit}; corrected over {corrected}. '
    f'{len(told)} of {len(chosen)} can be told from 0.',
    '',
    *_differences(analysis, chosen),
  ]
  if any(wording.conditional(c) for c in chosen):
    lines += [
      'Where fine-tuning seeds are the units, an interval is conditional on '
      'the pre-trained models that it names: the variance of pre-training '
      'cannot be told from them.',
      '',
    ]
  return lines


def _differences(analysis: Analysis, chosen: Sequence[Comparison]) -> list[str]:
  """Comparisons with intervals, p-values and what they come to."""
  rows = []
  for c in chosen:
    found, digits = c.difference, wording.digits_of(c)
    result = _RESULTS.get(judgement.rule(c), judgement.OPEN)
    if c.cannot:
      result += ' (collapsed)'
    elif result != judgement.OPEN:
      remarks = ['these models'] if wording.conditional(c) else []
      if c.collapsed:
        remarks.append('one collapsed')
      if c.family != 'time':
        remarks += dict.fromkeys(
          _ORDER[status]
          for model in (c.one, c.other)
          if (status := analysis.pretraining[model].order.status) in _ORDER
        )
      if remarks:
        result += f' ({", ".join(remarks)})'
    missed = wording.NONE
    if result.startswith(judgement.OPEN) and found:
      missed = number(found.detectable, digits)
    rows.append(
      [
        wording.about(c)
        + (f'; without {", ".join(c.left_out)}' if c.left_out else ''),
        f'{c.one} − {c.other}',
        wording.units(c),
        wording.means(c),
        signed(found.estimate if found else None, digits),
        wording.interval(c),
        wording.p_value(found.p if found else None),
        wording.p_value(c.p_holm),
        result,
        missed,
      ]
    )
  head = (
    'of',
    'models',
    'units',
    'means of both',
    'difference',
    '95 %',
    'p',
    'by Holm',
    'result',
    '80 % would find',
  )
  return table(head, rows, words=3)
