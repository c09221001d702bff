"""From records of runs to numbers: one a run, on the scale of 0 to 100.

Everything here takes `findings`, the plain dict that `report.write_report`
describes, and takes parts that are missing as not run.
"""

import collections
import math
import statistics
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, TypeGuard

from shared_bert.training import metrics as metrics_lib

# In the order of GLUE's own table.
GLUE = tuple(
  dict.fromkeys(column.partition('_')[0] for column in metrics_lib.GLUE_COLUMNS)
)
SQUAD = ('squad1', 'squad2')
# Left out of means, as by Devlin et al. 2019 (arXiv 1810.04805, section 4.1)
# and in the nine-number mean.
NOT_IN_MEANS = ('wnli',)

# What a model gains from the order of words, in nats, from which on it is said
# to use it: the loss with the words of a segment shuffled less that with the
# words as they are. Models on the plateau of a bag of words had 0.000 to 0.001
# and one that had begun to leave it 0.031 (docs/results.md).
ORDER_GAIN = 0.05

# A run is of (pre-training seed, fine-tuning seed).
Pair = tuple[int, int]


class Run(NamedTuple):
  """A finished fine-tuning run.

  Attributes:
    model: its name in the study.
    task: its name.
    pair: seeds of pre-training and of fine-tuning.
    score: the headline number of the task, 0 to 100.
    columns: those it is the mean of, by the names of GLUE's columns.
    exact: exact match, of SQuAD.
    collapsed: whether it is no better than one answer for all examples on any
      of its splits.
    record: all of it.
  """

  model: str
  task: str
  pair: Pair
  score: float
  columns: dict[str, float]
  exact: float | None
  collapsed: bool
  record: Mapping[str, Any]


def is_number(value: Any) -> TypeGuard[float]:
  """Whether it is a finite number."""
  return (
    isinstance(value, int | float)
    and not isinstance(value, bool)
    and math.isfinite(value)
  )


def scale_of(task: str) -> float:
  """What makes per cent of a metric; SQuAD's are already (its two scripts)."""
  return 1.0 if task in SQUAD else 100.0


def columns_of(
  task: str, metrics: Mapping[str, Mapping[str, Any]]
) -> dict[str, float]:
  """The numbers of a run that the task's headline is the mean of.

  GLUE's columns are `metrics.GLUE_COLUMNS`, each the mean of its metrics;
  SQuAD's is F1; any other task's is the accuracy, or else the first metric, of
  its first split.

  Args:
    task: its name.
    metrics: by split, by name.

  Returns:
    Column to 0 to 100 (-100 for correlations); without those that are not
    finite numbers.
  """
  if task not in (*GLUE, *SQUAD):
    values = next(iter(metrics.values()), {})
    value = values.get('accuracy', next(iter(values.values()), None))
    return {task: 100.0 * value} if is_number(value) else {}
  found = {}
  for split, values in metrics.items():
    if not split.startswith('dev'):
      continue
    column = task + split.removeprefix('dev')
    names = ('f1',) if task in SQUAD else metrics_lib.GLUE_COLUMNS.get(column)
    numbers = [values[n] for n in names or () if is_number(values.get(n))]
    if names and len(numbers) == len(names):
      found[column] = scale_of(task) * statistics.fmean(numbers)
  return found


def runs_of(findings: Mapping[str, Any]) -> tuple[list[Run], list[str]]:
  """The runs that have a number, and sentences on those that have none.

  Where one run is there at several learning rates, the one picked on dev
  counts. All runs of a task are scored on the columns that all of them have.
  """
  notes, chosen = [], {}
  for record in findings.get('finetune') or []:
    name = run_name(record)
    if record.get('failed'):
      notes.append(f'{name} failed: {record["failed"]}')
      continue
    columns = columns_of(record['task'], record.get('metrics') or {})
    if not columns:
      notes.append(f'{name} has no number for the table')
      continue
    key, picked = _key(record), bool(record.get('selected_rate'))
    if key in chosen:
      before = bool(chosen[key][0].get('selected_rate'))
      if picked == before:
        notes.append(f'{name} is there twice; the first counts')
      if picked <= before:
        continue
    chosen[key] = record, columns
  shared: dict[str, set[str]] = {}
  for record, columns in chosen.values():
    have = shared.setdefault(record['task'], set(columns))
    have &= columns.keys()
  runs = []
  for record, columns in chosen.values():
    task = record['task']
    columns = {k: v for k, v in columns.items() if k in shared[task]}
    if not columns:
      notes.append(f'{run_name(record)} has no split that all runs have')
      continue
    runs.append(
      Run(
        record['model'],
        task,
        (record['pretrain_seed'], record['seed']),
        statistics.fmean(columns.values()),
        columns,
        _exact_match(record),
        has_collapsed(record),
        record,
      )
    )
  return runs, notes


def run_name(record: Mapping[str, Any]) -> str:
  """A fine-tuning run in words."""
  return (
    f'{record["model"]} on {record["task"]}, pre-training seed '
    f'{record["pretrain_seed"]}, fine-tuning seed {record["seed"]}'
  )


def _key(record: Mapping[str, Any]) -> tuple:
  names = ('model', 'task', 'pretrain_seed', 'seed')
  return tuple(record[name] for name in names)


def constant(task: str, share: float) -> float:
  """What one answer for all examples scores, of a task of GLUE, 0 to 100.

  Args:
    task: of classes.
    share: of the commonest class. MRPC's is that of paraphrases, QQP's is not,
      and F1 is that of paraphrases.
  """
  rates = {'matthews': 0.0, 'accuracy': share}
  rates['f1'] = 2 * share / (1 + share) if task == 'mrpc' else 0.0
  return 100 * statistics.fmean(rates[name] for name in metrics_of(task))


def metrics_of(task: str) -> tuple[str, ...]:
  """What the headline number of a task of classes is the mean of."""
  columns = metrics_lib.GLUE_COLUMNS
  return next(
    (columns[name] for name in columns if name.partition('_')[0] == task),
    ('accuracy',),
  )


def has_collapsed(record: Mapping[str, Any]) -> bool:
  """Whether a run is no better than one answer for all examples on a split.

  Judged by today's measure where the record has what that needs: a study may
  be older.
  """
  metrics, sizes = record.get('metrics') or {}, record.get('examples') or {}
  if not metrics or not metrics.keys() <= sizes.keys():
    return bool(record.get('collapsed'))
  majority = record.get('majority') or {}
  return bool(metrics_lib.collapsed_splits(metrics, majority, sizes))


def _exact_match(record: Mapping[str, Any]) -> float | None:
  if record['task'] not in SQUAD:
    return None
  values = (record.get('metrics') or {}).get('dev', {})
  exact = values.get('exact_match', values.get('exact'))
  return exact if is_number(exact) else None


def robustness_of(record: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
  """What was measured of a run under noise and out of domain.

  Args:
    record: of a run. Its `robustness` is what the job `robustness` leaves in
      `results.json`, or has `curves` by kind, each with its `levels`.

  Returns:
    `curves` by kind, of the first split: `metric`, `levels`, `values`, `auc`;
    and `outside` by data set: `metric`, `value`, `majority`, `examples`.
  """
  found = record.get('robustness') or {}
  curves = found.get('curves') or {}
  if noise := found.get('noise'):
    first = next(iter((noise.get('curves') or {}).values()), {})
    levels = noise.get('levels') or []
    curves = {
      kind: {'levels': levels, **curve} for kind, curve in first.items()
    }
  outside = {
    name: {
      'value': (entry.get('metrics') or {}).get(entry.get('metric')),
      **entry,
    }
    for name, entry in (found.get('outside') or {}).items()
  }
  return {'curves': curves, 'outside': outside}


def is_at_majority(entry: Mapping[str, Any]) -> bool:
  """Whether a score outside is that of one answer for all examples.

  Args:
    entry: of `robustness_of`, judged as `metrics.collapsed_splits` does.
  """
  if entry.get('metric') not in ('accuracy', 'matthews'):
    return False
  majority, examples = entry.get('majority'), entry.get('examples')
  if not (is_number(majority) and examples and is_number(entry.get('value'))):
    return False
  return bool(
    metrics_lib.collapsed_splits(
      {'set': {entry['metric']: entry['value']}},
      {'set': majority},
      {'set': examples},
    )
  )


def by_pair(
  runs: Iterable[Run], model: str, task: str, value: str = 'score'
) -> dict[Pair, float]:
  """Numbers of a model on a task by their seeds."""
  return {
    run.pair: getattr(run, value)
    for run in runs
    if (run.model, run.task) == (model, task)
    and getattr(run, value) is not None
  }


def tasks_run(runs: Iterable[Run]) -> list[str]:
  """Tasks with a finished run, GLUE's first, in its order."""
  there = list(dict.fromkeys(run.task for run in runs))
  known = [task for task in (*GLUE, *SQUAD) if task in there]
  return known + [task for task in there if task not in known]


def mostly_collapsed(runs: Iterable[Run], model: str, task: str) -> bool:
  """Whether more than half of the runs of a model on a task collapsed."""
  flags = [r.collapsed for r in runs if (r.model, r.task) == (model, task)]
  return 2 * sum(flags) > len(flags)


def task_weights(
  runs: Iterable[Run], tasks: Iterable[str]
) -> tuple[str, dict[str, float]]:
  """What a mean over these tasks is called, and the weights of the tasks.

  Of all eight tasks, and both dev sets of MNLI, it is GLUE's nine-number mean,
  `metrics.glue_average`, in which MNLI counts twice. Of fewer it is no GLUE
  score.
  """
  names = [task for task in tasks if task not in NOT_IN_MEANS]
  have = {c for run in runs if run.task in names for c in run.columns}
  if {c for c in metrics_lib.GLUE_COLUMNS if c not in NOT_IN_MEANS} == have:
    weights = {task: 2.0 if task == 'mnli' else 1.0 for task in names}
    return 'GLUE (mean of nine numbers, without WNLI)', weights
  called = f'mean over {", ".join(names)}' if len(names) > 1 else names[0]
  return called, dict.fromkeys(names, 1.0)


def glue_averages(runs: Iterable[Run], model: str) -> dict[str, float | None]:
  """GLUE's two averages of a model's means over runs; None where any lacks."""
  columns: dict[str, dict[str, list[float]]] = collections.defaultdict(
    lambda: collections.defaultdict(list)
  )
  for run in runs:
    if run.model != model or run.task not in GLUE:
      continue
    for split, values in run.record['metrics'].items():
      for name, value in values.items():
        if split.startswith('dev') and is_number(value):
          columns[run.task + split.removeprefix('dev')][name].append(value)
  means = {
    column: {name: statistics.fmean(v) for name, v in values.items()}
    for column, values in columns.items()
  }
  return {
    name: None if average.value is None else 100 * average.value
    for name, average in metrics_lib.glue_average(means).items()
  }


class Order(NamedTuple):
  """Whether the models pre-trained with a mechanism use the order of words.

  Attributes:
    gains: by seed, in nats; see `ORDER_GAIN`.
    status: `uses` (all seeds), `none`, `mixed` or `unknown` (not measured on
      every seed).
  """

  gains: dict[int, float]
  status: str


def word_order(findings: Mapping[str, Any], model: str) -> Order:
  """What a model's pre-trainings gain from the order of words."""
  gains, measured = {}, True
  for record in findings.get('pretrain') or []:
    context = record.get('context') or {}
    if record['model'] != model or record.get('failed'):
      continue
    if all(is_number(context.get(name)) for name in ('shuffled', 'as_is')):
      gains[record['seed']] = context['shuffled'] - context['as_is']
    else:
      measured = False
  used = [gain >= ORDER_GAIN for gain in gains.values()]
  if not all(used):
    return Order(gains, 'mixed' if any(used) else 'none')
  return Order(gains, 'uses' if used and measured else 'unknown')


def curves_of(findings: Mapping[str, Any]) -> str:
  """Which held-out rows the curves are of, where there are several; or ''."""
  named = {
    record.get('curve_of')
    for record in findings.get('pretrain') or []
    if len(record.get('metrics') or ()) > 1
  }
  return next(iter(named)) or '' if len(named) == 1 else ''


def is_untrained(findings: Mapping[str, Any], model: str) -> bool:
  """Whether it predicts worse than the frequency of words does, on any seed."""
  contexts = [
    record.get('context') or {}
    for record in findings.get('pretrain') or []
    if record['model'] == model
  ]
  return any(
    is_number(c.get('as_is'))
    and is_number(c.get('frequency'))
    and c['as_is'] >= c['frequency']
    for c in contexts
  )
