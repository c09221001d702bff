"""The cells of a study: which runs it has, and what each one waits for."""

import copy
import dataclasses
import functools
import pathlib
import re
from typing import Any

from ml_collections import ConfigDict

from shared_bert import config as config_lib
from shared_bert import recipes
from shared_bert.data import toy
from shared_bert.data.tokenizer import Tokenizer
from shared_bert.model import parameters
from shared_bert.model.config import BertConfig
from shared_bert.study import settings
from shared_bert.suite import STARTED_FROM_MNLI

# A fine-tuned model has the shape of the one that it begins with; these keys
# are its own.
_OWN_KEYS = (
  'hidden_dropout',
  'attention_dropout',
  'attention_backend',
  'dtype',
)


@dataclasses.dataclass(frozen=True)
class Cell:
  """One run of the study, in a folder of its own.

  Attributes:
    name: of its folder, in the folder of the study.
    model: as `models` of the study names it.
    pretrain_seed: of the pre-training.
    task: that it is fine-tuned on; empty for the pre-training itself.
    seed: of the fine-tuning.
    learning_rate: the peak, if it is one of a grid; None for that of the task,
      or for the best of the grid.
    waits_for: names of the cells that must be done before.
    grid: those of them that try learning rates.
  """

  name: str
  model: str
  pretrain_seed: int
  task: str = ''
  seed: int = 0
  learning_rate: float | None = None
  waits_for: tuple[str, ...] = ()
  grid: tuple[str, ...] = ()


def slug(model: str) -> str:
  """The name of a model as that of a folder."""
  return re.sub(r'[^\w.=-]+', '-', model)


def cells_of(config: ConfigDict) -> list[Cell]:
  """All cells, in the order in which they are begun.

  One pre-training seed of all models comes after the other, so that a study
  that is stopped early has compared all of them.

  Args:
    config: of a study, validated.
  """
  cells = []
  seeds = {model: settings.seeds_of(config, model) for model in config.models}
  for seed in dict.fromkeys(seed for those in seeds.values() for seed in those):
    models = [model for model in config.models if seed in seeds[model]]
    cells += [
      Cell(f'pretrain/{slug(model)}/seed-{seed}', model, seed)
      for model in models
    ]
    for task in sorted(config.tasks, key=lambda task: task != 'mnli'):
      for model in models:
        cells += _of_task(config, model, seed, task)
  return cells


def _of_task(
  config: ConfigDict, model: str, pretrain_seed: int, task: str
) -> list[Cell]:
  """The fine-tunings of one pre-trained model on one task."""
  is_small = task in settings.SMALL_TASKS
  seeds = config.small_task_seeds if is_small else config.finetune_seeds
  first = settings.seeds_of(config, model)[0]
  base = f'finetune/{slug(model)}/seed-{{}}/{task}'
  rates = tuple(config.learning_rates)
  grid = tuple(
    f'{base.format(first)}/seed-{seeds[0]}-rate-{rate:g}'
    for rate in (rates if len(rates) > 1 and seeds else ())
  )
  before = [f'pretrain/{slug(model)}/seed-{pretrain_seed}']
  if _begins_with_mnli(config, task):
    before.append(_mnli_cell(config, model, pretrain_seed))
  cells = []
  for seed in seeds:
    common = (model, pretrain_seed, task, seed)
    if grid and (pretrain_seed, seed) == (first, seeds[0]):
      cells += [
        Cell(name, *common, rate, tuple(before))
        for name, rate in zip(grid, rates, strict=True)
      ]
    else:
      name = f'{base.format(pretrain_seed)}/seed-{seed}'
      rate = rates[0] if rates and not grid else None
      cells.append(Cell(name, *common, rate, (*before, *grid), grid))
  return cells


def _begins_with_mnli(config: ConfigDict, task: str) -> bool:
  return config.finetune.from_mnli and task in STARTED_FROM_MNLI


def _mnli_cell(config: ConfigDict, model: str, pretrain_seed: int) -> str:
  """The fine-tuning on MNLI that others start from: that of the first seed.

  With a grid of learning rates that is the seed after, whose rate is chosen.
  """
  has_grid = len(config.learning_rates) > 1
  is_first = pretrain_seed == settings.seeds_of(config, model)[0]
  seed = config.finetune_seeds[int(has_grid and is_first)]
  return f'finetune/{slug(model)}/seed-{pretrain_seed}/mnli/seed-{seed}'


def is_started_from(config: ConfigDict, cell: Cell) -> bool:
  """Whether other cells begin with what this one has trained, or will.

  Tasks that begin with MNLI may be added later.
  """
  return not cell.task or (cell.task == 'mnli' and config.finetune.from_mnli)


def pretrain_config(config: ConfigDict, cell: Cell) -> ConfigDict:
  """The settings of a cell's pre-training.

  Args:
    config: of the study, validated.
    cell: of it.
  """
  made = copy.deepcopy(config.pretrain)
  made.seed = cell.pretrain_seed
  settings.change_model(made.model, model_changes(config, cell.model), '')
  return made


def finetune_config(
  config: ConfigDict,
  cell: Cell,
  workdir: pathlib.Path,
  learning_rate: float | None,
) -> ConfigDict:
  """The settings of a cell's fine-tuning.

  Args:
    config: of the study, validated.
    cell: of it.
    workdir: of the study.
    learning_rate: the best of the grid, or None without one.
  """
  made = copy.deepcopy(settings.section_of(config, cell.task))
  made.seed = cell.seed
  if cell.task not in settings.SQUAD:
    made.from_mnli, made.data.task = False, cell.task
  shape = pretrain_config(config, cell).model
  for key in made.model:
    if key not in _OWN_KEYS:
      made.model[key] = shape[key]
  start = f'pretrain/{slug(cell.model)}/seed-{cell.pretrain_seed}'
  if _begins_with_mnli(config, cell.task):
    start = _mnli_cell(config, cell.model, cell.pretrain_seed)
  made.init_from = str(workdir.absolute() / start)
  rate = cell.learning_rate if learning_rate is None else learning_rate
  if rate is not None:
    made.train.learning_rate = rate
  return recipes.fill_in(made)


def robustness_config(
  config: ConfigDict, cell: Cell, workdir: pathlib.Path
) -> ConfigDict:
  """The settings by which a cell's fine-tuned model is measured.

  Args:
    config: of the study, validated.
    cell: of it, of a task.
    workdir: of the study.
  """
  made = settings.robustness_of(config, cell.task)
  made.init_from = str(workdir.absolute() / cell.name)
  return made


def bound(made: ConfigDict, max_updates: int | None, num_rows: int) -> None:
  """Sets the steps of a fine-tuning that would have too many, in place.

  Args:
    made: from `finetune_config`.
    max_updates: the most; None for no bound.
    num_rows: examples to train on.
  """
  if max_updates is None:
    return
  if updates_of(made, num_rows) > max_updates:
    made.train.steps, made.train.epochs = max_updates, None


def updates_of(made: ConfigDict, num_rows: int) -> int:
  """Optimiser steps of a fine-tuning on so many examples."""
  steps = config_lib.course_of(made, (made.data.seq_len,), num_rows).steps
  assert steps is not None  # epochs or steps are set: `recipes.fill_in`
  return steps


def model_changes(config: ConfigDict, model: str) -> dict[str, Any]:
  """The keys of the model of a cell, the width of `narrow` among them."""
  changes = settings.changes_of(model)
  if not model.startswith(settings.NARROW):
    return changes
  keys = copy.deepcopy(config.pretrain.model)
  settings.change_model(keys, {**changes, 'attention': 'shared'}, model)
  shared = BertConfig.of_keys(keys, vocab_size_of(config), 'float32')
  return changes | narrowed(shared)


@functools.cache
def narrowed(shared: BertConfig) -> dict[str, int]:
  """The widest standard BERT with no more parameters than one that shares.

  Layers and heads stay, hidden and feed-forward width shrink alike.

  Args:
    shared: a model with shared attention.

  Returns:
    `hidden_size` and `intermediate_size` of the narrower one.
  """
  most = parameters.count_by_block(shared)['total']
  standard = shared.with_attention('standard')
  for width in range(shared.hidden_size, 0, -shared.num_heads):
    sizes = {
      'hidden_size': width,
      'intermediate_size': round(
        width * shared.intermediate_size / shared.hidden_size
      ),
    }
    one = dataclasses.replace(standard, **sizes)
    if parameters.count_by_block(one)['total'] <= most:
      return sizes
  raise ValueError('a model of no width has no more parameters than any')


def vocab_size_of(config: ConfigDict) -> int:
  """Word pieces of the text that a study pre-trains on."""
  data = config.pretrain.data
  if data.source == 'toy':
    return toy.toy_tokenizer().vocab_size
  return _vocab_size(config_lib.corpora_of(config.pretrain)[-1])


@functools.cache
def _vocab_size(folder: str) -> int:
  return Tokenizer.load(folder).vocab_size
