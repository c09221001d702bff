"""The sections of a report with its measurements, its claims and its limits.

Each function returns lines of Markdown. No sentence says more than the number
in it; where a part was not run, its section says so.
"""

import json
import shlex
from collections.abc import Mapping
from typing import Any

from shared_bert.data.outside import OUTSIDE
from shared_bert.study import (
  compared,
  comparisons,
  families,
  judgement,
  scores,
  tables,
  wording,
)
from shared_bert.study.analysis import Analysis
from shared_bert.study.figures import Pictures
from shared_bert.study.settings import study_at
from shared_bert.study.statistics import LEVEL
from shared_bert.study.wording import number
from shared_bert.training.workdir import flatten


def cost(analysis: Analysis, pictures: Pictures) -> list[str]:
  """Parameters and time."""
  found = analysis.findings.get('cost') or {}
  lines = ['## Cost', '']
  table = tables.cost(analysis)
  times = tables.times(analysis)
  if not table and not times:
    return [*lines, 'Cost was not measured.', '']
  if table:
    lines += [
      'FLOPs of training are counted for the longest rows of pre-training; MiB '
      'are what the compiler says that a step of it holds, on the rows that '
      'the table of times names; energy where the machine can be asked for it.',
      '',
      *table,
      'Parameters by block:',
      '',
      *tables.blocks(analysis),
    ]
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
  if of := scores.curves_of(analysis.findings):
    lines += [
      f'Curves are of `{of}`, the rows of the first stage, which are read from '
      'the first step on; all else here is of the rows of the last.',
      '',
    ]
  chosen = analysis.family('pretraining')
  return lines + compared.section(analysis, chosen, 'less is better')


def tasks(analysis: Analysis, pictures: Pictures) -> list[str]:
  """GLUE: means, variances, differences."""
  names = [task for task in analysis.tasks if task not in scores.SQUAD]
  lines = ['## Tasks', '']
  if not names:
    return [*lines, 'No task is finished yet.', '']
  lines += [
    'Dev sets, × 100: the mean of the metrics that GLUE scores a task by, of '
    'MNLI the mean of both sets. Mean ± sample standard deviation (runs); '
    '`*k`: k of the runs are not more than a standard error better than one '
    'answer for all examples. All runs are in it; a difference below is of '
    'pairs of equal seeds alone, whose means stand beside it.',
    '',
    *tables.tasks(analysis, names),
    *tables.majority(analysis, names),
  ]
  chosen = analysis.of_measures('score')
  called = [c.about for c in chosen if len(c.tasks) > 1]
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
  lines += compared.section(analysis, chosen, 'points')
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
    'height (its area over its width), in per cent, and what it is above the '
    'metric without noise; of MNLI on the matched set. Means over tasks that '
    'all models have, with intervals over the examples of their dev sets, not '
    'over seeds. Of differences of scores a task is left out where most runs '
    'of both models collapsed, of what noise changes where those of one did: '
    'who has learnt nothing loses nothing.',
    '',
    *tables.noise(analysis),
    *compared.section(
      analysis, analysis.of_measures('noise', 'noise_change'), 'points'
    ),
  ]
  return lines + _picture(pictures, 'noise', 'Scores by level of noise')


def outside(analysis: Analysis) -> list[str]:
  """Scores out of domain."""
  lines = ['## Out of domain', '']
  if not analysis.outside:
    return [*lines, 'No other data set was scored.', '']
  return [
    *lines,
    'Of differences a set is left out where most runs of both models are no '
    'better than one answer for all examples, on it or on the task that they '
    'were trained on.',
    '',
    *tables.outside(analysis),
    *(
      f'{name} is of the domain of its training set, to hold the others '
      'against, and in no comparison.'
      for _, name in analysis.outside
      if name in OUTSIDE and OUTSIDE[name].is_inside
    ),
    '',
    *compared.section(analysis, analysis.of_measures('outside'), 'points'),
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
    *compared.section(
      analysis, analysis.of_measures('score', squad=True), 'points'
    ),
  ]


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
  # All but times are of trained models.
  found = [
    c for c in analysis.comparisons if c.difference and c.measure != 'seconds'
  ]
  few = [c for c in found if c.pretrained < comparisons.MIN_PRETRAINED]
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
  if few:
    lines.append(
      f'{len(few)} of {len(found)} comparisons of trained models have fewer '
      f'than {comparisons.MIN_PRETRAINED} pre-training seeds of both models in '
      'common: an interval of scores is then conditional on these pre-trained '
      'models, and one of losses has little to stand on.'
    )
  if apart := _corpora(analysis):
    lines.append(apart)
  if size:
    lines.append(
      f'Everything is of size {size}, with the settings below and the budget '
      'above. What other sizes and longer training would give is not measured.'
    )
  return ['## Limits', '', *(f'- {line}' for line in lines), '']


def _corpora(analysis: Analysis) -> str:
  """Of how many corpora the models are, where it is more than one."""
  # The loss by frequency is of the rows and of nothing that a model has learnt.
  found: dict[str, list[str]] = {}
  for record in analysis.findings.get('pretrain') or []:
    value = (record.get('context') or {}).get('frequency')
    if scores.is_number(value):
      its = found.setdefault(number(value, 6), [])
      its.append(f'{record["model"]} {record["seed"]}')
  if len(found) < 2:
    return ''
  parts = [f'{value} of {", ".join(names)}' for value, names in found.items()]
  return (
    f'The pre-trainings are of {len(found)} corpora, with other rows or '
    'another vocabulary, as the loss by frequency tells: '
    f'{"; ".join(parts)} (seeds). Their losses are compared as if it were one.'
  )


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
  size = config.get('pretrain.model.size') or 'base'
  hours = config.get('pretrain.train.hours') or 0.0
  arg = f'size={size}' + (f',hours={hours:g}' if hours else '')
  lines = [
    '## How to repeat it',
    '',
    '```text',
    f'$ python -m shared_bert.study --config=configs/study.py:{arg} \\',
    '    --workdir=…',
    '```',
    '',
  ]
  if findings.get('date') or versions:
    named = ', '.join(f'{k} {v}' for k, v in versions.items())
    lines += [f'{findings.get("date") or "No date"}; {named or "no versions"}.']
    lines += ['']
  defaults = flatten(study_at(size, hours).to_dict())
  changed = {
    key: value
    for key, value in config.items()
    if key not in defaults or not _is_same(value, defaults[key])
  }
  if changed:
    lines += ['With these, which are not those of that config:', '']
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
