"""Every comparison of a study, in its family, corrected for their number."""

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from shared_bert.data.outside import OUTSIDE
from shared_bert.study import scores
from shared_bert.study.comparisons import (
  Comparison,
  Item,
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
  'planned': 'what the claims about quality are about',
  'tasks': 'GLUE tasks × models to the baseline, and the other means',
  'squad': 'SQuAD × models to the baseline',
  'noise': 'kinds of noise × models to the baseline × two measures',
  'outside': 'other data sets × models to the baseline',
  'pretraining': 'held-out loss × models to the baseline, variants to the '
  'plain one',
  'time': 'seconds × models to the baseline',
}

_BLIND = (
  'most runs of both models are no better than one answer for all examples'
)
_ONE_BLIND = (
  'most runs of one of the models are no better than one answer for all '
  'examples, and who has learnt nothing loses nothing'
)


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
  """A comparison of the mean over those tasks that have pairs.

  A task on which most runs of both models collapsed tells nothing of either,
  and would only make their mean look surer: it is left out, and named.
  """
  one, other = models
  pairs = {
    task: paired(
      scores.by_pair(runs, one, task), scores.by_pair(runs, other, task)
    )
    for task in tasks
  }
  pairs = {task: its for task, its in pairs.items() if its}
  if not pairs:
    return None
  collapsed = {
    task: [m for m in models if scores.mostly_collapsed(runs, m, task)]
    for task in pairs
  }
  left_out = [task for task in pairs if len(collapsed[task]) == len(models)]
  kept = [task for task in pairs if task not in left_out]
  named = kept or list(pairs)
  called, weights = named[0], {}
  if len(named) > 1:
    called, weights = scores.task_weights(runs, named)
  found = compare(
    family,
    'score',
    f'{about}: {called}' if about else called,
    models,
    [Item(task, pairs[task], weights.get(task, 1.0)) for task in named],
  )
  if not kept:
    found.cannot = f'{_BLIND} on {", ".join(named)}'
  else:
    found.left_out = left_out
    found.collapsed = [
      f'{model} on {task}' for task in kept for model in collapsed[task]
    ]
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
  if subject and subject != baseline and squad:
    found.append(_of_tasks(runs, 'planned', (subject, baseline), squad))
  for model in _others(findings):
    models = model, baseline
    # A single task of the subject is what was planned already.
    for family, chosen, among in (
      ('tasks', glue, counted),
      ('squad', squad, squad),
    ):
      if model != subject or chosen != among or len(chosen) > 1:
        found += [_of_tasks(runs, family, models, [task]) for task in chosen]
      if model != subject and len(among) > 1:
        mean = _of_tasks(runs, family, models, among)
        # What came down to one task is there already.
        found.append(mean if mean and len(mean.tasks) > 1 else None)
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
      each = [(family, [name]) for name in names]
      if model == subject:
        # The mean over all is what claims are about.
        each = [('planned', names)] + (each if len(names) > 1 else [])
      for chosen_family, chosen in each:
        for measure in measures:
          keys = [key for key in measured if key[1] in chosen]
          models = model, baseline
          found.append(
            _of_keys(runs, measured, keys, chosen_family, measure, models)
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
  """A comparison of a mean over tasks and kinds of noise or sets.

  Left out is where both models have learnt nothing; from what noise changes,
  where one of them has: who has learnt nothing loses nothing.
  """
  items, left_out, collapsed = {}, [], []
  for key in keys:
    task, _ = key
    of_models = measured[key].get(measure, {})
    one, other = (of_models.get(model, {}) for model in models)
    if not (pairs := paired(one, other)):
      continue
    blind = [m for m in models if _has_learnt_nothing(runs, m, *key)]
    enough = 1 if measure == 'noise_change' else len(models)
    if len(blind) >= enough:
      left_out.append(key)
    else:
      items[key] = Item(task, pairs)
      collapsed += [f'{model} on {task}' for model in blind]
  if not items and not left_out:
    return None
  names = ', '.join(dict.fromkeys(name for _, name in items or left_out))
  if not items:
    tasks = list(dict.fromkeys(task for task, _ in left_out))
    found = Comparison(
      family, measure, names, *models, tasks, 'fine-tuning seed', 0, None
    )
    found.cannot = _BLIND if measure != 'noise_change' else _ONE_BLIND
    return found
  found = compare(family, measure, names, models, list(items.values()))
  # Of a kind of noise the tasks, of other data the sets.
  by = 1 if measure == 'outside' else 0
  there = {key[by] for key in items}
  found.left_out = [
    name
    for name in dict.fromkeys(key[by] for key in left_out)
    if name not in there
  ]
  found.collapsed = list(dict.fromkeys(collapsed))
  return found


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
  baseline, subject = baseline_of(findings), subject_of(findings)
  chosen = [(model, baseline) for model in _others(findings)]
  # What a change to the method brings is asked of the method without it.
  if subject != baseline:
    chosen += [
      (model, subject)
      for model in _others(findings)
      if subject and model.startswith(f'{subject}:')
    ]
  found = []
  for model, rival in chosen:
    pairs = paired(losses.get(model, {}), losses.get(rival, {}))
    if pairs:
      ours, theirs = zip(*pairs.values(), strict=True)
      found.append(
        Comparison(
          'pretraining',
          'loss',
          'held-out loss',
          model,
          rival,
          [],
          'pre-training seed',
          len(pairs),
          difference([[a - b for a, b in pairs.values()]]),
          (statistics.fmean(ours), statistics.fmean(theirs)),
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
      str(number): comparison.difference.p
      for number, comparison in enumerate(found)
      if comparison.family == family
      and not comparison.cannot
      and comparison.difference
      and comparison.difference.p is not None
    }
    for number, p in holm(p_values).items():
      found[int(number)].p_holm = p
      found[int(number)].family_size = len(p_values)
  return found
