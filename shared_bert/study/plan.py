"""What a study will do and how long that takes, before it starts."""

import dataclasses
import functools
import json
import pathlib
import statistics
from collections.abc import Iterable
from typing import Any

from ml_collections import ConfigDict

from shared_bert import config as config_lib
from shared_bert import pretrain as pretrain_lib
from shared_bert.study import cells as cells_lib
from shared_bert.study import settings
from shared_bert.study.cells import Cell
from shared_bert.study.records import Records
from shared_bert.training.logging import duration

# Seconds to open files, trace and read kept programs, and to evaluate; an
# estimate from runs of `tiny` on a CPU.
_OVERHEAD = 10.0
# A forward pass beside a training step, which has three times its arithmetic.
_FORWARD = 1 / 3


@dataclasses.dataclass(frozen=True)
class Plan:
  """A study in numbers.

  Attributes:
    cells: all of them.
    seconds: of each cell by its name, on the worker that does it.
    done: names of those that are finished.
    workers: cells at a time.
  """

  cells: list[Cell]
  seconds: dict[str, float]
  done: set[str]
  workers: int

  @property
  def hours_left(self) -> float:
    """Of the clock, if nothing else runs."""
    left = [s for name, s in self.seconds.items() if name not in self.done]
    return sum(left) / self.workers / 3600

  @property
  def hours(self) -> float:
    """Of the clock, for all cells."""
    return sum(self.seconds.values()) / self.workers / 3600


def make(
  config: ConfigDict, workdir: pathlib.Path, cost: dict[str, Any]
) -> Plan:
  """Plans a study.

  Args:
    config: of the study, validated.
    workdir: of the study.
    cost: from `cost.measure`, on the whole machine; workers share it.
  """
  records, cells = Records(workdir), cells_lib.cells_of(config)
  return Plan(
    cells,
    {cell.name: _seconds(config, cell, cost) for cell in cells},
    {cell.name for cell in cells if records.get(cell.name) is not None},
    config.workers,
  )


def _seconds(config: ConfigDict, cell: Cell, cost: dict[str, Any]) -> float:
  """Of a cell, on the worker that does it."""
  # Workers share what the steps were timed on, and none has more of the clock.
  share, clock = config.workers, 0.0
  if cell.task:
    work = _finetune_seconds(config, cell, cost)
  elif (hours := cells_lib.pretrain_config(config, cell).train.hours) is None:
    work = _pretrain_seconds(config, cell, cost)
  else:
    work, clock = 0.0, 3600 * hours
  return clock + share * (work + _OVERHEAD)


def _pretrain_seconds(
  config: ConfigDict, cell: Cell, cost: dict[str, Any]
) -> float:
  """Of the steps of a pre-training that counts them, on the whole machine."""
  its = cells_lib.pretrain_config(config, cell)
  timed = cost['models'][cell.model]['pretrain']
  # All read one corpus, which is opened for a budget in epochs only.
  rows = 0
  if its.train.epochs is not None:
    rows = _rows_of_corpus(config.pretrain.to_json())
  course = config_lib.course_of(
    its, [timed['seq_len']] * len(config_lib.corpora_of(its)), rows
  )
  return course.steps * statistics.median(timed['seconds'])


@functools.cache
def _rows_of_corpus(pretraining: str) -> int:
  """Training rows of a pre-training, by its settings as JSON."""
  its = ConfigDict(json.loads(pretraining))
  return len(pretrain_lib.open_corpora(its, None)[0].train)


def _finetune_seconds(
  config: ConfigDict, cell: Cell, cost: dict[str, Any]
) -> float:
  """Of steps and evaluations of a fine-tuning, on the whole machine.

  Those under noise are counted, sets of other domains are not.
  """
  timed = cost['models'][cell.model]['finetune']
  size = cost['tasks'][cell.task]
  its = cells_lib.finetune_config(config, cell, pathlib.Path(), None)
  cells_lib.bound(its, config.max_updates, size['train'])
  a_token = statistics.median(timed['seconds']) / (
    timed['rows'] * timed['seq_len']
  )
  steps = cells_lib.updates_of(its, size['train'])
  epoch = -(-size['train'] // its.train.batch_size)
  evaluations = max(1, steps // (its.train.eval_every or epoch))
  if settings.measures_robustness(config, cell.task):
    noise = config.robustness.noise
    evaluations += 1 + len(noise.kinds) * (len(noise.levels) - 1)
  tokens = steps * its.train.batch_size * size['tokens']
  seen = evaluations * size['dev'] * size['tokens'] * _FORWARD
  return (tokens + seen) * a_token


def shown(plan: Plan, config: ConfigDict, cost: dict[str, Any]) -> str:
  """The plan as a table.

  Args:
    plan: of the study.
    config: of the study.
    cost: from `cost.measure`.
  """
  tasks = dict.fromkeys(cell.task for cell in plan.cells)
  lines = [
    f'study       {len(config.models)} models, '
    f'{_count(c for c in plan.cells if not c.task)} pre-trainings, '
    f'{_count(c for c in plan.cells if c.task)} fine-tunings',
    *(
      f'            {model}: seed{"s" if len(seeds) > 1 else ""} '
      f'{", ".join(map(str, seeds))}'
      for model in config.models
      for seeds in [settings.seeds_of(config, model)]
    ),
    f'machine     {cost["hardware"]}, {plan.workers} '
    f'{"cells at a time" if plan.workers > 1 else "cell at a time"}',
    '',
    f'{"":24}{"cells":>7}{"done":>7}{"each":>10}{"all":>12}',
  ]
  for task in tasks:
    those = [cell.name for cell in plan.cells if cell.task == task]
    seconds = [plan.seconds[name] for name in those]
    lines.append(
      f'{task or "pre-training":24}{len(those):>7,}'
      f'{len(plan.done & set(those)):>7,}'
      f'{duration(statistics.fmean(seconds)):>10}'
      f'{duration(sum(seconds) / plan.workers):>12}'
    )
  lines += [
    f'{"all":24}{len(plan.cells):>7,}{len(plan.done):>7,}{"":10}'
    f'{duration(3600 * plan.hours):>12}',
    f'{"left":38}{"":10}{duration(3600 * plan.hours_left):>12}',
    '',
    'Times are of the clock, from steps timed on this machine; compiling and '
    'sets of',
    'other domains come on top.',
  ]
  return '\n'.join(lines)


def _count(cells: Iterable[Cell]) -> int:
  return sum(1 for _ in cells)
