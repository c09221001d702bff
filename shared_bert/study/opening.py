"""How a report begins: what limits it, ten lines, what was run and what not.

The sentences are made from numbers and verdicts.
"""

from collections.abc import Sequence

from shared_bert.study import figures, judgement, scores, tables, wording
from shared_bert.study.analysis import Analysis
from shared_bert.study.figures import Pictures
from shared_bert.study.judgement import Verdict
from shared_bert.study.wording import listed, number, signed


def head(analysis: Analysis) -> list[str]:
  """Title, and before all else whether the models use the order of words."""
  others = [m for m in analysis.models if m != analysis.baseline]
  title = f'# {", ".join(others) or "No model"} beside {analysis.baseline}'
  return [title, '', *_plateau(analysis)]


def _plateau(analysis: Analysis) -> list[str]:
  by_status: dict[str, list[str]] = {}
  for model in analysis.models:
    status = analysis.pretraining[model].order.status
    by_status.setdefault(status, []).append(model)
  stuck = [*by_status.get('none', []), *by_status.get('mixed', [])]
  lines = []
  if stuck:
    gains = [
      gain
      for model in stuck
      for gain in analysis.pretraining[model].order.gains.values()
    ]
    mixed = by_status.get('mixed')
    untrained = [m for m in stuck if scores.is_untrained(analysis.findings, m)]
    where = (
      'Models like these stand on the plateau of a bag of words, and what sets '
      'them apart is what such a bag knows, and which of them left the plateau '
      'earlier.'
    )
    if untrained:
      where = (
        f'{listed(untrained)} '
        + ('predict' if len(untrained) > 1 else 'predicts')
        + ' worse than the frequency of words does: this was hardly training.'
      )
    lines += [
      f'> **Read this first: {listed(stuck)} '
      + ('do not' if len(stuck) > 1 else 'does not')
      + ' use the order of words yet'
      + (f' ({listed(mixed)}: on some seeds only)' if mixed else '')
      + f'.** With the words of a segment shuffled the loss rises by '
      f'{signed(min(gains), 3)} to {signed(max(gains), 3)} nats; '
      f'{scores.ORDER_GAIN} is asked of every seed. {where} No verdict on '
      'quality that compares one of them can speak about the mechanisms of '
      'trained models: all of these stay open, and what the intervals alone '
      'would give is printed beside them.',
      '',
    ]
  if unknown := by_status.get('unknown'):
    lines += [
      f'> Whether {listed(unknown)} '
      + ('use' if len(unknown) > 1 else 'uses')
      + ' the order of words was not measured, so nothing here shows that '
      'the plateau of a bag of words was left: short runs measure when that '
      'happens, not what a mechanism comes to.',
      '',
    ]
  return lines


def summary(analysis: Analysis) -> list[str]:
  """The study in ten lines."""
  verdicts = {v.claim.key: v for v in analysis.verdicts}
  lines = [_what(analysis), _counted(analysis.verdicts)]
  for keys in (
    ('qkv_parameters', 'total_parameters'),
    ('training_time',),
    ('glue_standard', 'small_tasks'),
    ('glue_symmetric', 'glue_pairwise'),
    ('noise', 'noise_change'),
    ('outside',),
    ('squad',),
    ('narrow',),
  ):
    text = '; '.join(_short(analysis, verdicts[key]) for key in keys)
    lines.append(wording.capital(text))
  return ['## Summary', '', *(f'- {line}.' for line in lines), '']


def _what(analysis: Analysis) -> str:
  plan = analysis.findings.get('plan') or {}
  records = [
    r for r in analysis.findings.get('pretrain') or [] if not r.get('failed')
  ]
  parts = []
  if scores.is_number(plan.get('cells')):
    parts.append(f'{plan.get("finished", 0):,} of {plan["cells"]:,} cells')
  parts += [
    wording.plural(len(analysis.models), 'model'),
    wording.plural(len(records), 'pre-training'),
    wording.plural(len(analysis.runs), 'fine-tuning run')
    + (f' on {", ".join(analysis.tasks)}' if analysis.tasks else ''),
  ]
  return f'Run: {"; ".join(parts)}'


def _counted(verdicts: Sequence[Verdict]) -> str:
  # Two are a matter of counting, one is another reading of one before it, and
  # one is a control of ours.
  measured = [v for v in verdicts if v.claim.is_measured]
  counts = {
    word: sum(v.verdict == word for v in measured)
    for word in (judgement.HOLDS, judgement.FAILS, judgement.OPEN)
  }
  text = (
    f'Of {len(measured)} claims of the paper that measuring decides: '
    + ', '.join(f'{count} “{word}”' for word, count in counts.items())
  )
  quality = [
    v for v in measured if v.comparison and v.claim.key != 'training_time'
  ]
  if quality and all(v.limits for v in quality):
    text += (
      '; none about quality could be told here, whatever was measured, for '
      'want of pre-training seeds or of models that use the order of words'
    )
  return text


def _short(analysis: Analysis, verdict: Verdict) -> str:
  text = f'{verdict.claim.text}: **{verdict.verdict}**'
  c = next(
    (c for c in analysis.comparisons if c.name == verdict.comparison), None
  )
  if c is None:
    return text if verdict.sentence != 'Not run.' else f'{text} (not run)'
  found, digits = c.difference, wording.digits_of(c)
  if found is None:
    return f'{text} ({"most runs collapsed" if c.cannot else "no pairs"})'
  parts = [signed(found.estimate, digits)]
  if found.low is not None:
    parts[0] += f', 95 % {wording.interval(c)}'
  if c.family == 'planned' and 'GLUE (' not in c.about:
    parts.append(wording.about(c))
  if c.measure == 'seconds':
    parts.append('on this machine, at this size')
  if c.left_out:
    parts.append(f'without {listed(c.left_out)}')
  if verdict.shown != verdict.verdict:
    parts.append(f'by the interval alone: {verdict.shown}')
  if wording.conditional(c):
    parts.append('given these pre-trained models')
  return f'{text} ({"; ".join(parts)})'


def run_and_missing(analysis: Analysis, pictures: Pictures) -> list[str]:
  """What was run and what was not."""
  plan = analysis.findings.get('plan') or {}
  lines = ['## What was run, and what not', '']
  if scores.is_number(plan.get('cells')):
    text = (
      f'{plan.get("finished", 0):,} of {plan["cells"]:,} planned cells are '
      'finished'
    )
    spent, hours = plan.get('hours_spent'), plan.get('hours')
    if scores.is_number(spent):
      text += f', in {number(spent, 1)} hours of training'
    if scores.is_number(hours):
      text += f'; {number(hours, 1)} were planned for all'
    lines += [f'{text}.', '']
  lines += tables.runs(analysis) or ['Nothing is finished yet.', '']
  lines += _rates(analysis)
  lacking = analysis.missing + analysis.notes
  if lacking:
    lines += ['Missing:', '', *(f'- {line}' for line in lacking), '']
  elif analysis.runs:
    lines += ['Of the models, seeds and tasks above nothing is missing.', '']
  if pictures is None:
    lines += [figures.WITHOUT, '']
  return lines


def _rates(analysis: Analysis) -> list[str]:
  picked, rates = [], {}
  tries = analysis.findings.get('tries') or []
  for run in analysis.runs:
    rate = run.record.get('learning_rate')
    if scores.is_number(rate):
      rates.setdefault(run.task, set()).add(rate)
    if run.record.get('selected_rate') and run.task not in picked:
      picked.append(run.task)
  lines = []
  if rates:
    shown = '; '.join(
      f'{task} {", ".join(f"{r:g}" for r in sorted(values))}'
      for task, values in rates.items()
    )
    lines += [f'Peak learning rates of fine-tuning: {shown}.']
  if picked:
    lines += [
      f'On {listed(picked)} the rate was picked on the dev set that is '
      'reported, the best of several looks, so that these numbers are too '
      'high, of all models.'
      + (
        f' {len(tries):,} runs at other rates are in `report.json`.'
        if tries
        else ''
      )
    ]
  return [*lines, ''] if lines else []
