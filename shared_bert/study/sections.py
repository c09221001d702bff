"""The sections of a report with its measurements, its claims and its limits.

Each function returns lines of Markdown. No sentence says more than the number
in it; where a part was not run, its section says so.
"""

import json
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from shared_bert.data.outside import OUTSIDE
from shared_bert.study import (
  comparisons,
  families,
  judgement,
  scores,
  tables,
  wording,
)
from shared_bert.study.analysis import Analysis
from shared_bert.study.comparisons import Comparison
from shared_bert.study.figures import Pictures
from shared_bert.study.settings import study_defaults
from shared_bert.study.statistics import LEVEL
from shared_bert.study.wording import listed, number
from shared_bert.training.workdir import flatten


def cost(analysis: Analysis, pictures: Pictures) -> list[str]:
  """Parameters and time."""
  found = analysis.findings.get('cost') or {}
  lines = ['## Cost', '']
  table = tables.cost(analysis)
  times = tables.times(analysis)
  if not table and not times:
    return [*lines, 'Cost was not measured.', '']
  lines += table
  if times:
    load = found.get('load')
    lines += [
      f'Time on {found.get("hardware") or "hardware that is not named"}'
      + (f', load {", ".join(number(x, 1) for x in load)}' if load else '')
      + '. In each round every model was timed, so a ratio is of the same '
      'round; intervals are over rounds, of one machine in one state.',
      '',
      *times,
    ]
  return lines + _picture(pictures, 'cost', 'Score against time')


def pretraining(analysis: Analysis, pictures: Pictures) -> list[str]:
  """Losses, curves, and the order of words."""
  lines = ['## Pre-training', '']
  table = tables.pretraining(analysis)
  if not table:
    return [*lines, 'No pre-training has a loss yet.', '']
  lines += [
    'Held-out loss of masked words in nats, mean ± sd (seeds), and the loss '
    'where what stands around a mask is changed. *Gain by order* is what is '
    f'lost by shuffling, least to most over seeds; from {scores.ORDER_GAIN} on '
    'every seed a model is said to use the order of words.',
    '',
    *table,
    *_picture(pictures, 'pretraining', 'Held-out loss by steps, a line a seed'),
  ]
  chosen = analysis.family('pretraining')
  return lines + _compared(chosen, 'less is better')


def tasks(analysis: Analysis, pictures: Pictures) -> list[str]:
  """GLUE: means, variances, differences."""
  names = [task for task in analysis.tasks if task not in scores.SQUAD]
  lines = ['## Tasks', '']
  if not names:
    return [*lines, 'No task is finished yet.', '']
  lines += [
    'Dev sets, × 100: the mean of the metrics that GLUE scores a task by, of '
    'MNLI the mean of both sets. Mean ± sample standard deviation (runs); '
    '`*k`: k of the runs are no better than one answer for all examples.',
    '',
    *tables.tasks(analysis, names),
    *tables.majority(analysis, names),
  ]
  called = [c.about for c in analysis.family('planned') if len(c.tasks) > 1]
  if called and not any('GLUE (' in about for about in called):
    lines += [
      'Not all tasks of GLUE were run with all models, so a mean is of the '
      'tasks that it names, and no GLUE score.',
      '',
    ]
  table = tables.variances(analysis)
  if table:
    lines += [
      'The two variances: between pre-training seeds, and of fine-tuning seeds '
      'within one (one-way analysis of variance; 0 where the first is lost in '
      'the second).',
      '',
      *table,
    ]
  lines += ['### Differences', '']
  lines += _compared(analysis.family('planned', 'tasks'), 'points')
  return lines + _picture(
    pictures, 'differences', f'Differences to {analysis.baseline}'
  )


def noise(analysis: Analysis, pictures: Pictures) -> list[str]:
  """Scores on noisy text."""
  lines = ['## Noise', '']
  if not analysis.noise:
    return [*lines, 'Noise was not measured.', '']
  lines += [
    'Of each curve of a task’s first metric over levels of noise the mean '
    'height (its area over its width), × 100, and what it is above the metric '
    'without noise; of MNLI on the matched set. Means '
    'over tasks that all models have; a model that is no better than the '
    'commonest class loses nothing, so such tasks are left out of differences.',
    '',
    *tables.noise(analysis),
    *_compared(analysis.family('noise'), 'points'),
  ]
  return lines + _picture(pictures, 'noise', 'Scores by level of noise')


def outside(analysis: Analysis) -> list[str]:
  """Scores out of domain."""
  lines = ['## Out of domain', '']
  if not analysis.outside:
    return [*lines, 'No other data set was scored.', '']
  return [
    *lines,
    *tables.outside(analysis),
    *(
      f'{name} is of the domain of its training set, to hold the others '
      'against, and in no comparison.'
      for name in analysis.outside
      if name in OUTSIDE and OUTSIDE[name].is_inside
    ),
    '',
    *_compared(analysis.family('outside'), 'points'),
  ]


def squad(analysis: Analysis) -> list[str]:
  """SQuAD."""
  names = [task for task in analysis.tasks if task in scores.SQUAD]
  lines = ['## SQuAD', '']
  if not names:
    return [*lines, 'SQuAD was not run.', '']
  return [
    *lines,
    'Dev sets, per cent; mean ± sd (runs). Differences are of F1.',
    '',
    *tables.exact_matches(analysis, names),
    *_compared(analysis.family('squad'), 'points'),
  ]


def _compared(chosen: Sequence[Comparison], unit: str) -> list[str]:
  """A table of differences and what it comes to."""
  if not chosen:
    return ['No two models have runs of the same seeds yet.', '']
  told = [c for c in chosen if judgement.rule(c) != judgement.OPEN]
  names = dict.fromkeys(c.family for c in chosen)
  corrected = listed(
    [
      f'“{families.FAMILIES[name]}” '
      f'({sum(c.p_holm is not None for c in chosen if c.family == name)})'
      for name in names
    ]
  )
  lines = [
    f'Differences of pairs of equal seeds, {unit}; corrected over {corrected}. '
    f'{len(told)} of {len(chosen)} can be told from 0.',
    '',
    *tables.differences(chosen),
  ]
  if any(wording.conditional(c) for c in chosen):
    lines += [
      'Where fine-tuning seeds are the units, an interval is conditional on '
      'the pre-trained models that it names: the variance of pre-training '
      'cannot be told from them.',
      '',
    ]
  return lines


def verdicts(analysis: Analysis) -> list[str]:
  """The claims, with the numbers behind each verdict."""
  lines = ['## Claims', '', judgement.RULE, '']
  subject = comparisons.subject_of({'models': analysis.models})
  if subject and subject != 'shared':
    lines += [
      f'The paper’s method is here `{subject}`, a variant of it; the plain one '
      'was not run.',
      '',
    ]
  lines += tables.verdicts(analysis)
  lines += [
    'The paper’s tables were not at hand: its numbers are those of its '
    'abstracts, of which the first version and the camera-ready differ, and '
    'where it says so, of what others wrote about it.',
    '',
    *(
      f'- {wording.capital(v.claim.text)}: **{v.verdict}**. {v.sentence}'
      for v in analysis.verdicts
    ),
    '',
  ]
  return lines


def limits(analysis: Analysis) -> list[str]:
  """What the numbers cannot say."""
  config = analysis.findings.get('config') or {}
  size = wording.setting(config, 'model.size')
  found = [c for c in analysis.comparisons if c.difference]
  conditional = [c for c in found if wording.conditional(c)]
  lines = [
    'Intervals are of 95 %, over seeds, and not over examples: other dev sets '
    'would move all models, and seeds do not show it.',
    'Two to five values have no shape. Intervals assume differences that are '
    'roughly normal: the bootstrap is widened to Student’s t (Hesterberg '
    '2015), as its plain percentiles would cover far less than 95 %. With '
    'three or more pre-training seeds these are drawn whole.',
    _corrections(analysis),
    'A result “cannot be told” is no proof of equality. The last column of '
    'differences is what 80 % of such studies would find, in one comparison.',
  ]
  records = [
    *(analysis.findings.get('pretrain') or []),
    *(analysis.findings.get('finetune') or []),
  ]
  if failed := sum(bool(record.get('failed')) for record in records):
    lines.append(
      f'{wording.plural(failed, "run")} failed, and no mean has them in it: '
      'where a model fails oftener than another, its means are of what was '
      'left.'
    )
  if conditional:
    lines.append(
      f'{len(conditional)} of {len(found)} comparisons have fewer than '
      f'{comparisons.MIN_PRETRAINED} pre-training seeds of both models in '
      'common, so that their intervals are conditional on these pre-trained '
      'models.'
    )
  if size:
    lines.append(
      f'Everything is of size {size}, with the settings below and the budget '
      'above. What other sizes and longer training would give is not measured.'
    )
  return ['## Limits', '', *(f'- {line}' for line in lines), '']


def _corrections(analysis: Analysis) -> str:
  """How p-values were made and corrected, and over how many comparisons."""
  counts = {
    name: sum(c.p_holm is not None for c in analysis.family(name))
    for name in families.FAMILIES
  }
  named = [
    f'{families.FAMILIES[name]} ({count})'
    for name, count in counts.items()
    if count
  ]
  if not named:
    return 'No comparison has a p-value yet.'
  return (
    'p-values are of paired t-tests, from twelve units on of sign flips. '
    'Holm’s correction holds the chance of any false alarm in a family to '
    f'{100 * LEVEL:.0f} %; the families are: {"; ".join(named)}. Between '
    'families nothing is corrected.'
  )


def again(analysis: Analysis) -> list[str]:
  """How to repeat the study."""
  findings = analysis.findings
  config: Mapping[str, Any] = findings.get('config') or {}
  versions: Mapping[str, Any] = findings.get('versions') or {}
  lines = [
    '## How to repeat it',
    '',
    '```text',
    '$ python -m shared_bert.study --config=configs/study.py --workdir=…',
    '```',
    '',
  ]
  if findings.get('date') or versions:
    named = ', '.join(f'{k} {v}' for k, v in versions.items())
    lines += [f'{findings.get("date") or "No date"}; {named or "no versions"}.']
    lines += ['']
  defaults = flatten(study_defaults().to_dict())
  changed = {
    key: value
    for key, value in config.items()
    if key not in defaults or not _is_same(value, defaults[key])
  }
  if changed:
    lines += ['With these, which are not the defaults of a study:', '']
    lines += ['```text']
    lines += [f'--config.{k}={_as_flag(v)}' for k, v in changed.items()]
    lines += ['```', '']
  return [
    *lines,
    'Every number above, unrounded, all settings, and the records of all runs '
    'are in `report.json`.',
  ]


def _is_same(one: Any, other: Any) -> bool:
  """Whether two settings are equal, in JSON or out of it."""
  return json.dumps(one, default=str) == json.dumps(other, default=str)


def _picture(pictures: Pictures, name: str, words: str) -> list[str]:
  if not pictures or name not in pictures:
    return []
  return [f'![{words}]({pictures[name]})', '']


def _as_flag(value: Any) -> str:
  """A value as a shell takes it behind `--config.KEY=`."""
  if isinstance(value, list | tuple):
    value = tuple(value)
  text = str(value)
  # What names are in quotes of their own reads better in double ones.
  if "'" in text and not set(text) & set('"$`\\!'):
    return f'"{text}"'
  return shlex.quote(text)
