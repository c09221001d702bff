"""Numbers as words: the same number is written the same way everywhere."""

from collections.abc import Mapping, Sequence
from typing import Any

from shared_bert.study.comparisons import Comparison
from shared_bert.study.scores import is_number

NONE = '–'

_MEASURES = {
  'score': '{}',
  'noise': 'score under noise ({})',
  'noise_change': 'change by noise ({})',
  'outside': 'score out of domain ({})',
  'loss': '{}, nats',
  'seconds': 'seconds of {} steps, ratio less 1',
}
_PHASES = {'pretrain': 'pre-training', 'finetune': 'fine-tuning'}
# The last digit that is shown.
_DIGITS = {'loss': 3, 'seconds': 3}


def number(value: Any, digits: int = 2) -> str:
  """A number, or a dash for none."""
  return f'{value:,.{digits}f}' if is_number(value) else NONE


def signed(value: Any, digits: int = 2) -> str:
  """A difference, with a sign that is a minus."""
  if not is_number(value):
    return NONE
  return f'{value:+.{digits}f}'.replace('-', '−')


def percent(ratio: Any, digits: int = 1) -> str:
  """A ratio to 1 as a difference in per cent."""
  return f'{signed(100 * (ratio - 1), digits)} %' if is_number(ratio) else NONE


def p_value(value: Any) -> str:
  """A p-value, to the digits that matter."""
  if not is_number(value):
    return NONE
  return '<0.001' if value < 0.001 else f'{value:.{3 if value < 0.1 else 2}f}'


def plural(count: int, thing: str) -> str:
  """`1 run`, `2 runs`."""
  return f'{count:,} {thing}' + ('' if count == 1 else 's')


def capital(text: str) -> str:
  """The text with its first letter in upper case."""
  return text[:1].upper() + text[1:]


def listed(names: Sequence[str]) -> str:
  """`a, b and c`."""
  names = list(names)
  if len(names) < 2:
    return ''.join(names)
  return f'{", ".join(names[:-1])} and {names[-1]}'


def mean_sd(mean: float, sd: float | None, digits: int = 2) -> str:
  """`mean ± sd`; the mean alone of a single run."""
  tail = '' if sd is None else f' ± {sd:.{digits}f}'
  return number(mean, digits).replace('-', '−') + tail


def table(
  head: Sequence[str], rows: Sequence[Sequence[str]], words: int = 1
) -> list[str]:
  """Lines of a Markdown table and an empty one; none without rows.

  Args:
    head: titles.
    rows: texts.
    words: how many columns from the left hold words, not numbers.
  """
  if not rows:
    return []
  marks = ['---'] * words + ['---:'] * (len(head) - words)
  lines = [head, marks, *rows]
  # A bar, as a name may have one, would end a cell.
  return [
    '| ' + ' | '.join(cell.replace('|', '\\|') for cell in line) + ' |'
    for line in lines
  ] + ['']


def digits_of(comparison: Comparison) -> int:
  """Digits that its numbers are shown with."""
  return _DIGITS.get(comparison.measure, 2)


def about(comparison: Comparison) -> str:
  """What was compared, without the models."""
  name = _PHASES.get(comparison.about, comparison.about)
  if comparison.measure in ('noise', 'noise_change', 'outside'):
    name += f'; {", ".join(comparison.tasks)}'
  return _MEASURES[comparison.measure].format(name)


def interval(comparison: Comparison) -> str:
  """Both ends of its interval."""
  found, digits = comparison.difference, digits_of(comparison)
  if found is None or found.low is None:
    return NONE
  return f'{signed(found.low, digits)} to {signed(found.high, digits)}'


def units(comparison: Comparison) -> str:
  """What an interval is over, in words."""
  found = comparison.difference
  if found is None:
    return 'no pairs'
  if comparison.unit == 'fine-tuning seed':
    seeds_of = plural(comparison.pretrained, 'pre-training seed')
    return f'{plural(found.n, "pair")} of runs of {seeds_of}'
  return plural(found.n, comparison.unit)


def means(comparison: Comparison) -> str:
  """What both models have over the same pairs."""
  if comparison.means is None:
    return NONE
  digits = digits_of(comparison)
  one, other = (number(x, digits).replace('-', '−') for x in comparison.means)
  return f'{one} / {other}'


def asides(comparison: Comparison) -> list[str]:
  """What is not in it, and what is in it though it tells little: sentences."""
  found = []
  if comparison.left_out:
    found.append(
      f'Without {listed(comparison.left_out)}, where most runs collapsed.'
    )
  if comparison.collapsed:
    found.append(
      f'Most runs of {listed(comparison.collapsed)} are no better than one '
      'answer for all examples.'
    )
  return found


def describe(comparison: Comparison) -> str:
  """A comparison as a clause: what, how much, how sure."""
  found, digits = comparison.difference, digits_of(comparison)
  head = f'{comparison.one} − {comparison.other}, {about(comparison)}'
  if found is None:
    return f'{head}: not measured'
  text = f'{head}: {signed(found.estimate, digits)}'
  if found.low is None:
    return f'{text} ({units(comparison)}; no interval)'
  return (
    f'{text} (95 % {interval(comparison)}; {units(comparison)}; p '
    f'{p_value(found.p)}, by Holm {p_value(comparison.p_holm)})'
  )


def why_not_told(comparison: Comparison) -> str:
  """Why a comparison does not tell, as a sentence."""
  found, digits = comparison.difference, digits_of(comparison)
  if comparison.cannot:
    return f'It cannot tell, because {comparison.cannot}.'
  if found is None:
    return 'There is no pair of runs.'
  if found.low is None:
    if found.sd is None:
      return (
        'One difference a group has no spread: it takes a second fine-tuning '
        'seed, or three pre-training seeds.'
      )
    return 'All differences are equal, which is no measure of their spread.'
  assert found.high is not None
  if found.low > 0 or found.high < 0:
    return (
      'The interval leaves 0 out, which Holm’s correction for the '
      f'{comparison.family_size} comparisons of its family takes back.'
    )
  who = 'studies'
  if conditional(comparison):
    who = 'studies with these pre-trained models'
  return (
    f'With this spread and number, 80 % of {who} find a difference of '
    f'{number(found.detectable, digits)} (one comparison, two-sided 5 %; '
    'Holm’s correction asks for more).'
  )


def conditional(comparison: Comparison) -> str:
  """What an interval over fine-tuning seeds leaves out: a clause or ''."""
  found = comparison.difference
  if comparison.unit != 'fine-tuning seed' or found is None:
    return ''
  count = comparison.pretrained
  these = 'this one pre-trained model'
  if count > 1:
    these = f'these {count} pre-trained models'
  return (
    f'the interval is conditional on {these} of each kind: how much '
    'pre-training varies cannot be told'
  )


def seeds(values: Sequence[int]) -> str:
  """Seeds as a list of words."""
  return ', '.join(str(v) for v in sorted(set(values)))


def thousands(value: Any) -> str:
  """A count, or a dash."""
  return f'{int(value):,}' if is_number(value) else NONE


def setting(config: Mapping[str, Any], key: str) -> Any:
  """A setting by the end of its dotted key, where all such keys agree."""
  found = [v for k, v in config.items() if f'.{k}'.endswith(f'.{key}')]
  return found[0] if found and all(v == found[0] for v in found) else None
