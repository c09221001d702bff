"""What the models of a study cost: parameters, FLOPs, memory, seconds, joules.

Their steps take turns in one process: what is slow for one, since the machine
does something else, is slow for its neighbour, and ratios within a round mean
something where seconds of different runs do not.
"""

import dataclasses
import functools
import os
import pathlib
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from shared_bert import config as config_lib
from shared_bert import pretrain as pretrain_lib
from shared_bert import recipes, tasks
from shared_bert.data import batches as batches_lib
from shared_bert.data import masking
from shared_bert.data.packed_batches import PackedRows
from shared_bert.data.tokenizer import Tokenizer
from shared_bert.masked_model import MaskedModel, arrays_of
from shared_bert.model import flops, parameters
from shared_bert.span_data import SpanData
from shared_bert.study import cells as cells_lib
from shared_bert.study.cells import Cell
from shared_bert.study.fresh_step import fresh_step
from shared_bert.task_data import TaskData
from shared_bert.training import mesh as mesh_lib
from shared_bert.training.step import TrainStep

# Seconds of steps in a round: long enough for a clock, short enough that a
# round's load is the same for all.
_ROUND_SECONDS = 1.0
# Linux tells the joules of Intel's and AMD's packages here, to who may read it.
_ENERGY = pathlib.Path('/sys/class/powercap')


@dataclasses.dataclass(frozen=True)
class Timed:
  """What one turn took.

  Attributes:
    wall: seconds.
    cpu: seconds of the processor, of all threads.
    joules: of the processor's packages, or None where they cannot be read.
  """

  wall: float
  cpu: float
  joules: float | None


class Stepper:
  """Takes training steps of one model and says how long they took."""

  def __init__(
    self,
    state: Any,
    step: TrainStep,
    batch_of: Callable[[int], Any],
    accumulation: int = 1,
  ):
    """Compiles the step.

    Args:
      state: before the first step; given away.
      step: of the model.
      batch_of: a number to the batch of that step, on the devices.
      accumulation: micro-batches of a step.
    """
    self._state, self._step, self._batch_of = state, step, batch_of
    self._accumulation, self._done = accumulation, 0
    lowered = step.lower(state, batch_of(0), accumulation)
    self.step_bytes = _bytes_of(lowered.compile())
    self(1)

  def __call__(self, count: int) -> Timed:
    """Takes so many steps, waited for."""
    coming = [self._batch_of(self._done + n) for n in range(count)]
    jax.block_until_ready((coming, self._state))
    joules, wall, cpu = _joules(), time.perf_counter(), time.process_time()
    for batch in coming:
      self._state, _ = self._step(self._state, batch, 1e-5, self._accumulation)
    jax.block_until_ready(self._state)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    after = _joules()
    self._done += count
    spent = None if joules is None or after is None else after - joules
    # The counter starts again at zero now and then.
    return Timed(wall, cpu, spent if spent is None or spent >= 0 else None)


def _bytes_of(compiled: Any) -> int | None:
  """Memory of a compiled step by XLA's own count, or None if it has none."""
  found = compiled.memory_analysis()
  if found is None:
    return None
  return int(
    found.argument_size_in_bytes
    + found.output_size_in_bytes
    + found.temp_size_in_bytes
    - found.alias_size_in_bytes
  )


def _joules() -> float | None:
  """What the processor's packages have used, or None if it cannot be read."""
  try:
    # `intel-rapl:0` is a package, `intel-rapl:0:1` a part of it; `intel-rapl:1`
    # may be `psys`, the whole board, the package included.
    counters = [p for p in _ENERGY.glob('*-rapl:*') if p.name.count(':') == 1]
    used = [
      int((path / 'energy_uj').read_text())
      for path in counters
      if (path / 'name').read_text().startswith('package')
    ]
  except (OSError, ValueError):
    return None
  return sum(used) / 1e6 if used else None


def in_turns(
  steppers: Mapping[str, Callable[[int], Timed]],
  rounds: int,
  steps: Mapping[str, int],
) -> dict[str, list[Timed]]:
  """Lets them take turns, each round begun by another one.

  Args:
    steppers: by name.
    rounds: in which each has a turn.
    steps: of a turn, by name.

  Returns:
    By name what a step took in each round, on average over the turn.
  """
  names = list(steppers)
  taken: dict[str, list[Timed]] = {name: [] for name in names}
  for number in range(rounds):
    turn = number % len(names)
    for name in names[turn:] + names[:turn]:
      its, count = steppers[name](steps[name]), steps[name]
      joules = None if its.joules is None else its.joules / count
      taken[name].append(Timed(its.wall / count, its.cpu / count, joules))
  return taken


def measure(config: ConfigDict) -> dict[str, Any]:
  """Counts and times the models of a study.

  Args:
    config: of the study, validated.

  Returns:
    As `cost.json` holds it: `hardware`, `load`, `rounds`, and of each of
    `models` its parameters by block, the FLOPs of a token in pre-training, the
    memory of its step and the seconds of its steps in each round; and of each
    of `tasks` its examples and the tokens of one, on average.
  """
  load = os.getloadavg()
  mesh = mesh_lib.make_mesh()
  models: dict[str, dict[str, Any]] = {}
  jobs: list[tuple[str, Callable[[str], tuple[Stepper, int, int]]]] = [
    ('pretrain', functools.partial(_pretrain_stepper, config, mesh))
  ]
  if config.tasks:
    # The same rows for all models, read once.
    first = _encoded(config, config.tasks[0])
    finetune = functools.partial(_finetune_stepper, config, mesh, *first)
    jobs.append(('finetune', finetune))
  for model in config.models:
    models[model] = _counted(config, model)
  for job, stepper_of in jobs:
    steppers: dict[str, Stepper] = {}
    for model in config.models:
      steppers[model], rows, length = stepper_of(model)
      models[model][job] = {'rows': rows, 'seq_len': length}
    trials = {name: stepper(2).wall / 2 for name, stepper in steppers.items()}
    steps = dict.fromkeys(
      steppers, max(1, round(_ROUND_SECONDS / min(trials.values())))
    )
    taken = in_turns(steppers, config.cost_rounds, steps)
    for model, turns in taken.items():
      models[model][job] |= {
        'seconds': [turn.wall for turn in turns],
        'cpu_seconds': [turn.cpu for turn in turns],
      }
      if job == 'pretrain':
        used = [turn.joules for turn in turns if turn.joules is not None]
        models[model] |= {
          'step_bytes': steppers[model].step_bytes,
          'joules_per_step': statistics.median(used) if used else None,
        }
  device = jax.devices()[0]
  return {
    'hardware': f'{jax.device_count()} x {device.device_kind}',
    'load': load,
    'rounds': config.cost_rounds,
    'models': models,
    'tasks': {task: _size_of(config, task) for task in config.tasks},
  }


def _any_cell(model: str) -> Cell:
  return Cell('', model, 0)


def _counted(config: ConfigDict, model: str) -> dict[str, Any]:
  its = cells_lib.pretrain_config(config, _any_cell(model))
  vocab_size = cells_lib.vocab_size_of(config)
  bert = config_lib.model_config(its, vocab_size, jax.default_backend())
  length = its.data.seq_len
  return {
    'parameters': parameters.count_by_block(bert),
    'hidden_size': bert.hidden_size,
    'flops_per_token': flops.train_flops_per_token(
      bert,
      length,
      masking.default_num_predictions(length, its.data.mask_ratio),
    ),
  }


def _pretrain_stepper(
  config: ConfigDict, mesh: Mesh, model: str
) -> tuple[Stepper, int, int]:
  """Steps on the rows of the first stage; rows and tokens of a row."""
  its = cells_lib.pretrain_config(config, _any_cell(model))
  corpus = pretrain_lib.open_corpora(its, None)[0]
  masked = MaskedModel(
    config_lib.model_config(
      its, corpus.tokenizer.vocab_size, jax.default_backend()
    ),
    its,
    corpus.tokenizer,
    corpus.heldout[:1],
    mesh,
  )
  part = config_lib.parts_of(its)[0]
  rows = batches_lib.Rows(
    arrays_of(corpus.train, corpus.train_labels), part.batch_size, 0
  )
  stepper = Stepper(
    *fresh_step(its, masked, mesh),
    lambda step: masked.place(rows(step)),
    part.accumulation,
  )
  return stepper, part.batch_size, corpus.seq_len


def _finetune_stepper(
  config: ConfigDict,
  mesh: Mesh,
  data: TaskData | SpanData,
  tokenizer: Tokenizer,
  model: str,
) -> tuple[Stepper, int, int]:
  """Steps on the first task; rows, packed or not, and tokens of a row."""
  its = _task_config(config, model, config.tasks[0])
  bert = config_lib.model_config(
    its, tokenizer.vocab_size, jax.default_backend()
  )
  rows_of: Any = PackedRows if recipes.packs(its.data) else batches_lib.Rows
  multiple = mesh.size * its.train.accumulation
  rows = rows_of(
    data.arrays['train'],
    its.train.batch_size,
    0,
    buckets=its.data.length_buckets,
    **({'multiple': multiple} if rows_of is PackedRows else {}),
  )
  first = rows(0)['input_ids'].shape
  # Of one shape, so that nothing is compiled while the clock runs.
  same = [n for n in range(64) if rows(n)['input_ids'].shape == first]
  task_model = tasks.model_of(bert, data, its, mesh)
  stepper = Stepper(
    *fresh_step(its, task_model, mesh, prepare=lambda batch: batch),
    lambda step: mesh_lib.place_batch(mesh, rows(same[step % len(same)])),
    its.train.accumulation,
  )
  return stepper, *first


def _task_config(config: ConfigDict, model: str, task: str) -> ConfigDict:
  cell = dataclasses.replace(_any_cell(model), task=task)
  return cells_lib.finetune_config(config, cell, pathlib.Path(), None)


def _encoded(
  config: ConfigDict, task: str
) -> tuple[TaskData | SpanData, Tokenizer]:
  """A task as any of the models meets it."""
  its, tokenizer = (
    _task_config(config, config.models[0], task),
    _tokenizer(config),
  )
  return tasks.load(its.data).encode(tokenizer, its.data.seq_len), tokenizer


def _tokenizer(config: ConfigDict) -> Tokenizer:
  its = cells_lib.pretrain_config(config, _any_cell(config.models[0]))
  return pretrain_lib.open_corpora(its, None)[-1].tokenizer


def _size_of(config: ConfigDict, task: str) -> dict[str, float]:
  """Examples of a task to train on and to evaluate, and tokens of one."""
  data, _ = _encoded(config, task)
  lengths = {
    split: arrays['lengths']
    for split, arrays in data.arrays.items()
    if split == 'train' or split in data.scored
  }
  evaluated = [n for split, n in lengths.items() if split != 'train']
  return {
    'train': len(lengths['train']),
    'dev': sum(map(len, evaluated)),
    'tokens': float(np.mean(lengths['train'])),
  }
