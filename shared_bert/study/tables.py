"""The tables of a report, as lines of Markdown; none where nothing was run."""

import math
import statistics
from collections.abc import Iterable, Sequence

from shared_bert.study import scores, wording
from shared_bert.study.analysis import Analysis
from shared_bert.study.statistics import Spread
from shared_bert.study.wording import number, percent, signed, table


# What a comparison comes to in a table, by the verdict on its being above 0.
def shown(value: Spread | None, digits: int = 2) -> str:
  """`mean ± sd (n)`, or a dash."""
  if value is None:
    return wording.NONE
  return f'{wording.mean_sd(value.mean, value.sd, digits)} ({value.n})'


def runs(analysis: Analysis) -> list[str]:
  """How many runs of what there are."""
  rows = []
  for model in analysis.models:
    records = [
      r
      for r in analysis.findings.get('pretrain') or []
      if r['model'] == model and not r.get('failed')
    ]
    chosen = [run for run in analysis.runs if run.model == model]
    steps = {wording.thousands(r.get('steps')) for r in records}
    tokens = {
      number(r['tokens'] / 1e6, 1)
      for r in records
      if scores.is_number(r.get('tokens'))
    }
    rows.append(
      [
        model,
        str(len(records)),
        wording.seeds([r['seed'] for r in records]) or wording.NONE,
        ' / '.join(sorted(steps)) or wording.NONE,
        ' / '.join(sorted(tokens)) or wording.NONE,
        str(len(chosen)),
        wording.seeds([run.pair[1] for run in chosen]) or wording.NONE,
        str(sum(run.collapsed for run in chosen)),
      ]
    )
  head = (
    'model',
    'pre-trainings',
    'seeds',
    'steps',
    'M tokens',
    'fine-tunings',
    'seeds',
    'of them collapsed',
  )
  return table(head, rows)


def cost(analysis: Analysis) -> list[str]:
  """Parameters, FLOPs, memory and energy of the models."""
  models = (analysis.findings.get('cost') or {}).get('models') or {}
  rows = []
  for model in analysis.models:
    one, ratios = models.get(model), analysis.cost[model]
    if not one:
      continue
    beside = {
      name: '=' if model == analysis.baseline else percent(ratio)
      for name, ratio in ratios.items()
    }
    counts = one.get('parameters') or {}
    cells = [model]
    for block in ('query/key/value', 'total'):
      cells += [wording.thousands(counts.get(block))]
      cells += [beside.get(block, wording.NONE)]
    flops = one.get('flops_per_token')
    size, joules = one.get('step_bytes'), one.get('joules_per_step')
    cells += [
      number(flops / 1e6 if flops else None),
      beside.get('flops_per_token', wording.NONE),
      number(size / 2**20 if size else None, 0),
      number(joules, 3),
    ]
    rows.append(cells)
  head = (
    'model',
    'q/k/v parameters',
    'to baseline',
    'all parameters',
    'to baseline',
    'MFLOP a token',
    'to baseline',
    'MiB a step',
    'J a step',
  )
  return table(head, rows)


def blocks(analysis: Analysis) -> list[str]:
  """Parameters by block."""
  models = (analysis.findings.get('cost') or {}).get('models') or {}
  counts = {
    model: models[model]['parameters']
    for model in analysis.models
    if (models.get(model) or {}).get('parameters')
  }
  names = dict.fromkeys(name for each in counts.values() for name in each)
  rows = [
    [model, *(wording.thousands(each.get(name)) for name in names)]
    for model, each in counts.items()
  ]
  return table(('model', *names), rows)


def times(analysis: Analysis) -> list[str]:
  """Seconds by phase and the ratios to the baseline, round by round."""
  models = (analysis.findings.get('cost') or {}).get('models') or {}
  compared = {(c.about, c.one): c for c in analysis.family('time')}
  rows = []
  for phase in ('pretrain', 'finetune'):
    for model in analysis.models:
      timed = (models.get(model) or {}).get(phase) or {}
      seconds = sorted(s for s in timed.get('seconds') or [] if s is not None)
      if not seconds:
        continue
      c = compared.get((phase, model))
      found = c.difference if c else None
      ends = wording.NONE
      if found and found.low is not None and found.high is not None:
        ends = f'{number(1 + found.low, 3)} to {number(1 + found.high, 3)}'
      rows.append(
        [
          {'pretrain': 'pre-training', 'finetune': 'fine-tuning'}[phase],
          model,
          f'{timed.get("rows")} × {timed.get("seq_len")}',
          number(seconds[len(seconds) // 2], 3),
          f'{number(seconds[0], 3)}-{number(seconds[-1], 3)}',
          number(1 + found.estimate, 3) if found else '1',
          ends,
          str(len(seconds)),
        ]
      )
  head = (
    'phase',
    'model',
    'rows × tokens',
    'seconds a step, median',
    'least-most',
    'ratio to baseline',
    '95 %',
    'rounds',
  )
  return table(head, rows, words=3)


def pretraining(analysis: Analysis) -> list[str]:
  """Held-out losses, and what of the context they use."""
  rows = []
  for model in analysis.models:
    one = analysis.pretraining[model]
    if one.loss is None and not one.context and not one.order.gains:
      continue
    gains = one.order.gains.values()
    accuracy = one.accuracy
    if accuracy:
      sd = None if accuracy.sd is None else 100 * accuracy.sd
      accuracy = Spread(100 * accuracy.mean, sd, accuracy.n)
    rows.append(
      [
        model,
        shown(one.loss, 3),
        shown(accuracy),
        *(
          number(one.context.get(name), 3)
          for name in ('as_is', 'shuffled', 'foreign', 'frequency')
        ),
        f'{signed(min(gains), 3)} to {signed(max(gains), 3)}'
        if gains
        else wording.NONE,
        one.order.status,
      ]
    )
  head = (
    'model',
    'held-out loss',
    'accuracy, %',
    'as they are',
    'words shuffled',
    'of another row',
    'by frequency',
    'gain by order',
    'uses order',
  )
  return table(head, rows)


def tasks(analysis: Analysis, names: Sequence[str]) -> list[str]:
  """Headline numbers, `*` a collapsed run, and the averages."""
  models = [m for m in analysis.models if analysis.cells[m]]
  rows = []
  for task in names:
    cells = [analysis.cells[model].get(task) for model in models]
    rows.append(
      [
        task,
        *(
          shown(cell.score) + (f' *{cell.collapsed}' if cell.collapsed else '')
          if cell
          else wording.NONE
          for cell in cells
        ),
      ]
    )
  counted = [
    task
    for task in names
    if task in scores.GLUE
    and task not in scores.NOT_IN_MEANS
    and all(task in analysis.cells[model] for model in models)
  ]
  called = ''
  if len(counted) > 1:
    called, weights = scores.task_weights(analysis.runs, counted)
    total = sum(weights.values())
    means = [
      sum(weights[t] * analysis.cells[model][t].score.mean for t in counted)
      / total
      for model in models
    ]
    rows.append([called, *(number(mean) for mean in means)])
  for name, words in (
    ('nine_number', 'GLUE, nine-number mean'),
    ('leaderboard', 'GLUE, the leaderboard’s mean (dev sets)'),
  ):
    averages = [analysis.averages[model][name] for model in models]
    if name == 'nine_number' and called.startswith('GLUE'):
      continue
    if any(value is not None for value in averages):
      rows.append([words, *(number(value) for value in averages)])
  return table(('', *models), rows)


def majority(analysis: Analysis, names: Iterable[str]) -> list[str]:
  """What each task is scored by and what never looking gets, as a list."""
  lines = []
  for task in names:
    parts = []
    for split, values in analysis.splits[task].items():
      text = f'{split} of {wording.thousands(values["examples"])} examples'
      share, error = values['majority'], values['error']
      if share is not None:
        text += f', commonest class {number(100 * share)} %'
        text += f', which alone scores {number(scores.constant(task, share))}'
      if error is not None and 'accuracy' in scores.metrics_of(task):
        text += f', standard error of one accuracy {number(error)}'
      parts.append(text)
    if parts:
      lines.append(f'- {task}: {"; ".join(parts)}.')
  return [*lines, ''] if lines else []


def variances(analysis: Analysis) -> list[str]:
  """Standard deviations between pre-training seeds and within them."""
  rows = [
    [
      task,
      model,
      number(cell.components.between),
      number(cell.components.within),
      f'{cell.components.groups} / {cell.components.n}',
    ]
    for task in analysis.tasks
    for model in analysis.models
    if (cell := analysis.cells[model].get(task))
    and cell.components.groups > 1
    and cell.components.within is not None
  ]
  head = (
    'task',
    'model',
    'sd between pre-training seeds',
    'sd of fine-tuning seeds',
    'seeds / runs',
  )
  return table(head, rows, words=2)


def exact_matches(analysis: Analysis, names: Sequence[str]) -> list[str]:
  """F1 and exact match of SQuAD."""
  rows = [
    [task, model, shown(cell.score), shown(cell.exact), str(cell.collapsed)]
    for task in names
    for model in analysis.models
    if (cell := analysis.cells[model].get(task))
  ]
  head = ('task', 'model', 'F1', 'exact match', 'collapsed')
  return table(head, rows, words=2)


def noise(analysis: Analysis) -> list[str]:
  """Scores under noise, and what it changes, means over tasks."""
  rows = []
  for kind, of_models in analysis.noise.items():
    for model, values in of_models.items():
      under, change = values.get('noise'), values.get('noise_change')
      clean = under.mean - change.mean if under and change else None
      rows.append(
        [
          kind,
          model,
          ', '.join(analysis.noise_tasks[kind]),
          number(clean),
          number(under.mean if under else None),
          _area_interval(analysis, kind, model, under),
          signed(change.mean if change else None),
        ]
      )
  head = ('noise', 'model', 'tasks', 'clean', 'under noise', '95 %', 'change')
  return table(head, rows, words=3)


def _area_interval(
  analysis: Analysis, kind: str, model: str, mean: Spread | None
) -> str:
  """Of the mean height of curves over tasks, over the examples.

  Runs of a task see the same examples, so that their intervals are averaged;
  tasks have nothing in common, so that those of several add up as variances do.
  """
  if mean is None:
    return wording.NONE
  tasks = analysis.noise_tasks[kind]
  below, above = 0.0, 0.0
  for task in tasks:
    reach = []
    for run in analysis.runs:
      if (run.model, run.task) == (model, task):
        curve = scores.robustness_of(run.record)['curves'].get(kind) or {}
        if ends := curve.get('auc_interval'):
          reach.append((curve['auc'] - ends[0], ends[1] - curve['auc']))
    if not reach:
      return wording.NONE
    low, high = (
      scores.scale_of(task) * statistics.fmean(side)
      for side in zip(*reach, strict=True)
    )
    below, above = math.hypot(below, low), math.hypot(above, high)
  low, high = mean.mean - below / len(tasks), mean.mean + above / len(tasks)
  return f'{number(low)} to {number(high)}'


def outside(analysis: Analysis) -> list[str]:
  """Scores on other data sets than that of training."""
  rows = []
  for (task, name), of_models in analysis.outside.items():
    for model, value in of_models.items():
      run = next(
        run
        for run in analysis.runs
        if (run.model, run.task) == (model, task)
        and name in scores.robustness_of(run.record)['outside']
      )
      entry = scores.robustness_of(run.record)['outside'][name]
      share = entry.get('majority')
      rows.append(
        [
          name,
          task,
          model,
          shown(value),
          number(100 * share) if scores.is_number(share) else wording.NONE,
          wording.thousands(entry.get('examples')),
        ]
      )
  head = (
    'set',
    'trained on',
    'model',
    'mean ± sd (n)',
    'commonest class',
    'examples',
  )
  return table(head, rows, words=3)


def verdicts(analysis: Analysis) -> list[str]:
  """The claims and what the study says of them."""
  rows = [
    [v.claim.text, v.claim.paper, v.claim.source, f'**{v.verdict}**']
    for v in analysis.verdicts
  ]
  return table(('claim', 'the paper', 'read in', 'here'), rows, words=4)
