"""Every comparison of a study, in its family, corrected for their number."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from shared_bert.data.outside import OUTSIDE
from shared_bert.study import scores
from shared_bert.study.comparisons import (
  Comparison,
  baseline_of,
  compare,
  paired,
  subject_of,
  variant_of,
)
from shared_bert.study.scores import Pair, Run
from shared_bert.study.statistics import difference, holm

SMALL_TASKS = ('mrpc', 'cola', 'stsb')

FAMILIES = {
  'planned': 'means over GLUE tasks that claims are about',
  'tasks': 'GLUE tasks × models to the baseline, and the other means',
  'squad': 'SQuAD × models to the baseline',
  'noise': 'kinds of noise × models to the baseline × two measures',
  'outside': 'other data sets × models to the baseline',
  'pretraining': 'held-out loss × models to the baseline',
  'time': 'seconds × models to the baseline',
}


def _others(findings: Mapping[str, Any]) -> list[str]:
  """All models but the baseline."""
  baseline = baseline_of(findings)
  return [m for m in findings.get('models') or [] if m != baseline]


def _of_tasks(
  runs: Sequence[Run],
  family: str,
  models: tuple[str, str],
  tasks: Iterable[str],
  about: str | None = None,
) -> Comparison | None:
  """A comparison of the mean over those tasks that have pairs."""
  one, other = models
  items = {
    task: paired(
      scores.by_pair(runs, one, task), scores.by_pair(runs, other, task)
    )
    for task in tasks
  }
  items = {task: item for task, item in items.items() if item}
  if not items:
    return None
  if len(items) == 1:
    called, weights = next(iter(items)), dict.fromkeys(items, 1.0)
  else:
    called, weights = scores.task_weights(runs, items)
  found = compare(
    family,
    'score',
    f'{about}: {called}' if about else called,
    models,
    list(items),
    list(items.values()),
    [weights[task] for task in items],
  )
  collapsed = [
    task
    for task in items
    if any(scores.mostly_collapsed(runs, model, task) for model in models)
  ]
  if 2 * len(collapsed) > len(items):
    found.cannot = (
      'most runs of a model are no better than one answer for all examples '
      'on ' + ', '.join(collapsed)
    )
  return found


def of_scores(findings: Mapping[str, Any], runs: Sequence[Run]) -> list:
  """Comparisons of GLUE and SQuAD, with None where nothing is to compare."""
  baseline, subject = baseline_of(findings), subject_of(findings)
  there = scores.tasks_run(runs)
  glue = [task for task in there if task not in scores.SQUAD]
  counted = [
    task
    for task in glue
    if task in scores.GLUE and task not in scores.NOT_IN_MEANS
  ]
  squad = [task for task in there if task in scores.SQUAD]
  found: list[Comparison | None] = []
  if subject and counted:
    rivals = [baseline] + [
      variant_of(findings, name) for name in ('symmetric', 'pairwise', 'narrow')
    ]
    for rival in dict.fromkeys(rivals):
      if rival and rival != subject:
        found.append(_of_tasks(runs, 'planned', (subject, rival), counted))
    small = [task for task in SMALL_TASKS if task in counted]
    if subject != baseline and len(small) < len(counted):
      models = subject, baseline
      found.append(_of_tasks(runs, 'planned', models, small, 'small tasks'))
  for model in _others(findings):
    models = model, baseline
    found += [_of_tasks(runs, 'tasks', models, [task]) for task in glue]
    if model != subject and len(counted) > 1:
      found.append(_of_tasks(runs, 'tasks', models, counted))
    found += [_of_tasks(runs, 'squad', models, [task]) for task in squad]
    if model == subject and len(squad) > 1:
      found.append(_of_tasks(runs, 'squad', models, squad))
  return found


# By (task, kind or set), by measure, by model, by seeds.
_Measured = dict[tuple[str, str], dict[str, dict[str, dict[Pair, float]]]]


def noise_of(run: Run) -> dict[str, dict[str, float]]:
  """By kind of noise, the measures `noise` and `noise_change` of a run.

  The first is the area under the curve of a metric over levels, which is the
  mean height of the curve; the second is that less the height at level 0.
  """
  curves = scores.robustness_of(run.record)['curves']
  scale, found = scores.scale_of(run.task), {}
  for kind, curve in curves.items():
    if not scores.is_number(curve.get('auc')):
      continue
    found[kind] = {'noise': scale * curve['auc']}
    levels, values = curve.get('levels') or [], curve.get('values') or []
    if levels and levels[0] == 0 and values and scores.is_number(values[0]):
      found[kind]['noise_change'] = scale * (curve['auc'] - values[0])
  return found


def outside_of(run: Run) -> dict[str, dict[str, float]]:
  """By data set outside the task's domain, the measure `outside` of a run."""
  sets = scores.robustness_of(run.record)['outside']
  return {
    name: {'outside': scores.scale_of(run.task) * entry['value']}
    for name, entry in sets.items()
    if scores.is_number(entry.get('value'))
  }


def _measured(
  runs: Iterable[Run], measure_of: Callable[[Run], dict[str, dict[str, float]]]
) -> _Measured:
  found: _Measured = {}
  for run in runs:
    for name, values in measure_of(run).items():
      for measure, value in values.items():
        of_models = found.setdefault((run.task, name), {})
        of_pairs = of_models.setdefault(measure, {}).setdefault(run.model, {})
        of_pairs[run.pair] = value
  return found


def of_robustness(findings: Mapping[str, Any], runs: Sequence[Run]) -> list:
  """Comparisons under noise and out of domain.

  Tasks and sets on which most runs of either model are no better than one
  answer for all examples are left out: who has learnt nothing loses nothing.
  A set of the training set's own domain is in no comparison.
  """
  baseline, subject = baseline_of(findings), subject_of(findings)
  found: list[Comparison | None] = []
  for family, measures, measure_of in (
    ('noise', ('noise', 'noise_change'), noise_of),
    ('outside', ('outside',), outside_of),
  ):
    measured = _measured(runs, measure_of)
    names = [
      name
      for name in dict.fromkeys(name for _, name in measured)
      if name not in OUTSIDE or not OUTSIDE[name].is_inside
    ]
    for model in _others(findings):
      wholes = [names] if model == subject and len(names) > 1 else []
      for chosen in [[name] for name in names] + wholes:
        for measure in measures:
          keys = [key for key in measured if key[1] in chosen]
          found.append(
            _of_keys(runs, measured, keys, family, measure, (model, baseline))
          )
  return found


def _of_keys(
  runs: Sequence[Run],
  measured: _Measured,
  keys: Sequence[tuple[str, str]],
  family: str,
  measure: str,
  models: tuple[str, str],
) -> Comparison | None:
  items, collapsed = {}, []
  for key in keys:
    of_models = measured[key].get(measure, {})
    one, other = (of_models.get(model, {}) for model in models)
    if not (item := paired(one, other)):
      continue
    if any(_has_learnt_nothing(runs, model, *key) for model in models):
      collapsed.append(key)
    else:
      items[key] = item
  names = ', '.join(dict.fromkeys(name for _, name in items or keys))
  if not items and not collapsed:
    return None
  if not items:
    tasks = list(dict.fromkeys(task for task, _ in collapsed))
    return Comparison(
      family,
      measure,
      names,
      *models,
      tasks,
      'fine-tuning seed',
      0,
      None,
      cannot='most runs of a model are no better than one answer for all '
      'examples',
    )
  tasks = list(dict.fromkeys(task for task, _ in items))
  return compare(family, measure, names, models, tasks, list(items.values()))


def _has_learnt_nothing(
  runs: Sequence[Run], model: str, task: str, name: str
) -> bool:
  """Whether most runs are at the commonest class, on the task or the set."""
  entries = [
    entry
    for run in runs
    if (run.model, run.task) == (model, task)
    and (entry := scores.robustness_of(run.record)['outside'].get(name))
  ]
  at_majority = sum(scores.is_at_majority(entry) for entry in entries)
  return scores.mostly_collapsed(runs, model, task) or 2 * at_majority > len(
    entries
  )


def of_pretraining(findings: Mapping[str, Any]) -> list:
  """Comparisons of the held-out loss at the end of pre-training."""
  losses: dict[str, dict[Pair, float]] = {}
  for record in findings.get('pretrain') or []:
    if not record.get('failed') and scores.is_number(record.get('loss')):
      of_model = losses.setdefault(record['model'], {})
      of_model[record['seed'], 0] = record['loss']
  baseline = baseline_of(findings)
  found = []
  for model in _others(findings):
    item = paired(losses.get(model, {}), losses.get(baseline, {}))
    if item:
      found.append(
        Comparison(
          'pretraining',
          'loss',
          'held-out loss',
          model,
          baseline,
          [],
          'pre-training seed',
          len(item),
          difference([list(item.values())]),
        )
      )
  return found


def of_time(findings: Mapping[str, Any]) -> list:
  """Comparisons of time: ratios of the same round, less 1."""
  models = (findings.get('cost') or {}).get('models') or {}
  baseline = baseline_of(findings)
  found = []
  for phase in ('pretrain', 'finetune'):
    base = ((models.get(baseline) or {}).get(phase) or {}).get('seconds') or []
    for model in _others(findings):
      ours = ((models.get(model) or {}).get(phase) or {}).get('seconds') or []
      ratios = [
        one / other - 1
        for one, other in zip(ours, base, strict=False)
        if scores.is_number(one) and scores.is_number(other) and other > 0
      ]
      if ratios:
        found.append(
          Comparison(
            'time',
            'seconds',
            phase,
            model,
            baseline,
            [],
            'round',
            0,
            difference([ratios]),
          )
        )
  return found


def all_comparisons(
  findings: Mapping[str, Any], runs: Sequence[Run]
) -> list[Comparison]:
  """Every comparison that there is anything to compare for, corrected.

  Args:
    findings: of the study.
    runs: from `scores.runs_of`.
  """
  found = [
    comparison
    for comparison in (
      *of_scores(findings, runs),
      *of_robustness(findings, runs),
      *of_pretraining(findings),
      *of_time(findings),
    )
    if comparison
  ]
  for family in FAMILIES:
    p_values = {
      comparison.name: comparison.difference.p
      for comparison in found
      if comparison.family == family
      and not comparison.cannot
      and comparison.difference
      and comparison.difference.p is not None
    }
    for name, p in holm(p_values).items():
      next(c for c in found if c.name == name).p_holm = p
  return found
