"""All numbers of a report, worked out of the findings: no words yet."""

import dataclasses
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from shared_bert.study import (
  comparisons,
  families,
  judgement,
  scores,
  settings,
)
from shared_bert.study.comparisons import Comparison
from shared_bert.study.judgement import Verdict
from shared_bert.study.scores import Order, Run
from shared_bert.study.statistics import (
  Components,
  Spread,
  spread,
  variance_components,
)


@dataclasses.dataclass(frozen=True)
class Cell:
  """A model on a task.

  Attributes:
    score: of all runs.
    components: of the same, by pre-training seed.
    columns: by column, such as both dev sets of MNLI.
    exact: exact match, of SQuAD.
    collapsed: how many runs are no better than one answer for all examples.
  """

  score: Spread
  components: Components
  columns: dict[str, Spread]
  exact: Spread | None
  collapsed: int


@dataclasses.dataclass(frozen=True)
class Pretraining:
  """The pre-trainings of a model; context losses are means in nats."""

  loss: Spread | None
  accuracy: Spread | None
  context: dict[str, float]
  order: Order
  failed: int


@dataclasses.dataclass(frozen=True)
class Analysis:
  """What is known of a study.

  Attributes:
    findings: what it was worked out of.
    runs: the fine-tuning runs that count.
    notes: sentences on those that do not.
    missing: sentences on cells that are not there.
    models: names, the baseline first.
    tasks: with a finished run.
    cells: by model, by task.
    splits: by task, by dev split: `examples`, `majority`, and the standard
      error of one accuracy, `error`, in points.
    cost: by model, ratios to the baseline of its parameters by block and of
      its FLOPs.
    averages: by model, GLUE's two, where all tasks are there.
    pretraining: by model.
    noise: by kind, by model, the mean over `noise_tasks` of each measure.
    noise_tasks: by kind, tasks that all models have it of.
    outside: by task and data set, by model.
    comparisons: all.
    verdicts: on the claims.
  """

  findings: Mapping[str, Any]
  runs: list[Run]
  notes: list[str]
  missing: list[str]
  models: list[str]
  tasks: list[str]
  cells: dict[str, dict[str, Cell]]
  splits: dict[str, dict[str, dict[str, float | None]]]
  cost: dict[str, dict[str, float]]
  averages: dict[str, dict[str, float | None]]
  pretraining: dict[str, Pretraining]
  noise: dict[str, dict[str, dict[str, Spread]]]
  noise_tasks: dict[str, list[str]]
  outside: dict[tuple[str, str], dict[str, Spread]]
  comparisons: list[Comparison]
  verdicts: list[Verdict]

  @property
  def baseline(self) -> str:
    """The model that others are compared with."""
    return comparisons.baseline_of(self.findings)

  def family(self, *names: str) -> list[Comparison]:
    """The comparisons of some families."""
    return [c for c in self.comparisons if c.family in names]

  def of_measures(
    self, *measures: str, squad: bool = False
  ) -> list[Comparison]:
    """The comparisons of some measures.

    Args:
      measures: see `Comparison`.
      squad: of scores, whether those of SQuAD or those of GLUE.
    """
    return [
      c
      for c in self.comparisons
      if c.measure in measures and (c.measure != 'score' or squad == c.is_squad)
    ]


def analyse(findings: Mapping[str, Any]) -> Analysis:
  """Works out everything that the report says.

  Args:
    findings: see `report.write_report`.
  """
  runs, notes = scores.runs_of(findings)
  baseline = comparisons.baseline_of(findings)
  named = list(findings.get('models') or [])
  there = [r['model'] for r in findings.get('pretrain') or []]
  there += [run.model for run in runs]
  models = list(dict.fromkeys([*named, *there]))
  if baseline in models:
    models = [baseline, *(m for m in models if m != baseline)]
  tasks = scores.tasks_run(runs)
  found = families.all_comparisons({**findings, 'models': models}, runs)
  noise, noise_tasks = _noise(runs, models)
  return Analysis(
    findings,
    runs,
    notes + _failed_pretrainings(findings),
    _missing(findings, models, runs),
    models,
    tasks,
    {model: _cells(runs, model, tasks) for model in models},
    {task: _splits(runs, task) for task in tasks},
    _ratios(findings, models),
    {model: scores.glue_averages(runs, model) for model in models},
    {model: _pretraining(findings, model) for model in models},
    noise,
    noise_tasks,
    _outside(runs, models),
    found,
    judgement.verdicts({**findings, 'models': models}, found),
  )


def _by_pretrained(values: Mapping[scores.Pair, float]) -> list[list[float]]:
  groups: dict[int, list[float]] = {}
  for (seed, _), value in sorted(values.items()):
    groups.setdefault(seed, []).append(value)
  return list(groups.values())


def _cells(
  runs: Sequence[Run], model: str, tasks: Iterable[str]
) -> dict[str, Cell]:
  cells = {}
  for task in tasks:
    chosen = [r for r in runs if (r.model, r.task) == (model, task)]
    if not chosen:
      continue
    exact = [r.exact for r in chosen if r.exact is not None]
    by_pair = scores.by_pair(runs, model, task)
    cells[task] = Cell(
      spread([run.score for run in chosen]),
      variance_components(_by_pretrained(by_pair)),
      {
        column: spread([run.columns[column] for run in chosen])
        for column in chosen[0].columns
      },
      spread(exact) if exact else None,
      sum(run.collapsed for run in chosen),
    )
  return cells


def _splits(
  runs: Sequence[Run], task: str
) -> dict[str, dict[str, float | None]]:
  """Of the first run of a task, which stands for all: the data are the same."""
  record = next(run.record for run in runs if run.task == task)
  found = {}
  for split, values in (record.get('metrics') or {}).items():
    examples = (record.get('examples') or {}).get(split)
    if not split.startswith('dev') or not examples:
      continue
    accuracy, error = values.get('accuracy'), None
    if scores.is_number(accuracy):
      error = 100 * (accuracy * (1 - accuracy) / examples) ** 0.5
    share = (record.get('majority') or {}).get(split)
    found[split] = {'examples': examples, 'majority': share, 'error': error}
  return found


def _ratios(
  findings: Mapping[str, Any], models: Sequence[str]
) -> dict[str, dict[str, float]]:
  costs = (findings.get('cost') or {}).get('models') or {}

  def counts(model: str) -> dict[str, Any]:
    one = costs.get(model) or {}
    flops = {'flops_per_token': one.get('flops_per_token')}
    return {**(one.get('parameters') or {}), **flops}

  base = counts(comparisons.baseline_of(findings))
  return {
    model: {
      name: count / base[name]
      for name, count in counts(model).items()
      if count and base.get(name)
    }
    for model in models
  }


def _pretraining(findings: Mapping[str, Any], model: str) -> Pretraining:
  records = [r for r in findings.get('pretrain') or [] if r['model'] == model]
  finished = [r for r in records if not r.get('failed')]

  def numbers(name: str) -> list[float]:
    values = [record.get(name) for record in finished]
    return [value for value in values if scores.is_number(value)]

  def context(name: str) -> list[float]:
    values = [(record.get('context') or {}).get(name) for record in finished]
    return [value for value in values if scores.is_number(value)]

  losses, accuracies = numbers('loss'), numbers('accuracy')
  return Pretraining(
    spread(losses) if losses else None,
    spread(accuracies) if accuracies else None,
    {
      name: statistics.fmean(context(name))
      for name in ('as_is', 'shuffled', 'foreign', 'frequency')
      if context(name)
    },
    scores.word_order(findings, model),
    len(records) - len(finished),
  )


def _failed_pretrainings(findings: Mapping[str, Any]) -> list[str]:
  return [
    f'pre-training {r["model"]}, seed {r["seed"]}, failed: {r["failed"]}'
    for r in findings.get('pretrain') or []
    if r.get('failed')
  ]


def _missing(
  findings: Mapping[str, Any], models: Sequence[str], runs: Sequence[Run]
) -> list[str]:
  """What the settings and the other models' runs have more."""
  tunings = findings.get('finetune') or []
  done = {
    (r['model'], r['seed'])
    for r in findings.get('pretrain') or []
    if not r.get('failed')
  }
  tasks = (findings.get('config') or {}).get('tasks') or []
  tasks = list(dict.fromkeys([*tasks, *(r['task'] for r in tunings)]))
  sentences = []
  for model in models:
    seeds = _planned_seeds(findings, model)
    lacking = [str(s) for s in sorted(seeds) if (model, s) not in done]
    if lacking:
      sentences.append(f'{model}: no pre-training of seed {", ".join(lacking)}')
  config = findings.get('config') or {}
  seeds = {}
  for task in tasks:
    key = (
      'small_task_seeds' if task in settings.SMALL_TASKS else 'finetune_seeds'
    )
    own = {r['seed'] for r in tunings if r['task'] == task}
    seeds[task] = own and own | set(config.get(key) or ())
  sentences += [f'{task}: no run' for task in tasks if not seeds[task]]
  for model in models:
    some, none = [], []
    for task in filter(seeds.get, tasks):
      wanted = len(_planned_seeds(findings, model)) * len(seeds[task])
      have = sum((r.model, r.task) == (model, task) for r in runs)
      if not have:
        none.append(task)
      elif have < wanted:
        some.append(f'{have} of {wanted} on {task}')
    if some:
      sentences.append(f'{model}: of its runs {", ".join(some)}')
    if none:
      sentences.append(f'{model}: no run on {", ".join(none)}')
  return sentences


def _planned_seeds(findings: Mapping[str, Any], model: str) -> set[int]:
  """Of pre-training, by the settings, or else those that have a record."""
  config = findings.get('config') or {}
  if 'pretrain_seeds' in config:
    closer = model in (config.get('closer_models') or ())
    more = config.get('closer_seeds') if closer else None
    return {*config['pretrain_seeds'], *(more or ())}
  records = findings.get('pretrain') or []
  tunings = findings.get('finetune') or []
  return {r['seed'] for r in records if r['model'] == model} | {
    r['pretrain_seed'] for r in tunings if r['model'] == model
  }


def _noise(
  runs: Sequence[Run], models: Sequence[str]
) -> tuple[dict[str, dict[str, dict[str, Spread]]], dict[str, list[str]]]:
  """Means over tasks that all models have; their spread is over tasks."""
  by_key: dict[str, dict[str, dict[str, dict[str, list[float]]]]] = {}
  for run in runs:
    for kind, values in families.noise_of(run).items():
      of_model = by_key.setdefault(kind, {}).setdefault(run.model, {})
      for measure, value in values.items():
        of_model.setdefault(run.task, {}).setdefault(measure, []).append(value)
  found, tasks = {}, {}
  for kind, of_models in by_key.items():
    common = set.intersection(*(set(v) for v in of_models.values()))
    tasks[kind] = [t for t in scores.tasks_run(runs) if t in common]
    found[kind] = {}
    for model in models:
      if model not in of_models or not tasks[kind]:
        continue
      of_tasks = [of_models[model][task] for task in tasks[kind]]
      measures = set.intersection(*(set(v) for v in of_tasks))
      found[kind][model] = {
        measure: spread([statistics.fmean(v[measure]) for v in of_tasks])
        for measure in sorted(measures)
      }
  return found, tasks


def _outside(
  runs: Sequence[Run], models: Sequence[str]
) -> dict[tuple[str, str], dict[str, Spread]]:
  values: dict[tuple[str, str], dict[str, list[float]]] = {}
  for run in runs:
    for name, measures in families.outside_of(run).items():
      of_models = values.setdefault((run.task, name), {})
      of_models.setdefault(run.model, []).append(measures['outside'])
  return {
    key: {model: spread(v[model]) for model in models if model in v}
    for key, v in values.items()
  }
