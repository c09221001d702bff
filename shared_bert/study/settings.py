"""The keys of a study, and what it refuses before anything is read."""

import ast
import copy
import json
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from shared_bert import (
  command_line,
  key_validation,
  recipes,
  robustness_config,
  span_config,
  validation,
)
from shared_bert import config as config_lib
from shared_bert.data.glue_tasks import TASKS
from shared_bert.data.outside import OUTSIDE
from shared_bert.errors import UserError
from shared_bert.model.config import ATTENTIONS

# Standard attention in a model that is narrower, so that it has no more
# parameters than shared attention: whether it is sharing that counts, or size.
NARROW = 'narrow'
# GLUE's tasks of fewer than 10,000 training examples (Wang et al. 2018, arXiv
# 1804.07461, table 1), where seeds differ most.
SMALL_TASKS = ('cola', 'mrpc', 'stsb', 'rte', 'wnli')
# SQuAD 1.1 and 2.0, whose settings are in sections of these names.
SQUAD = ('squad1', 'squad2')
# Keys that say which cells there are and how they are run, not what is in one:
# they may change.
_FREE_KEYS = (
  'models',
  'pretrain_seeds',
  'closer_models',
  'closer_seeds',
  'tasks',
  'finetune_seeds',
  'small_task_seeds',
  'seeds_together',
  'workers',
  'keep_checkpoints',
  'cost_rounds',
)


def study_defaults() -> ConfigDict:
  """A study: which cells it has, and the settings of each.

  Those of `robustness` are for each model that is fine-tuned on a task, those
  of its sets of other domains for the tasks of GLUE.
  """
  config = ConfigDict(
    {
      'job': 'study',  # the only one
      # Mechanisms, `narrow` (standard, as many parameters as shared), or either
      # with keys of the model: 'shared:role_bias=True,residual_rank=4'.
      'models': (*ATTENTIONS, NARROW),
      'baseline': 'standard',  # that the others are compared with
      'pretrain_seeds': (0,),  # of each model
      'closer_models': ('standard', 'shared'),  # that have more seeds
      'closer_seeds': (0, 1, 2),  # these
      # Of GLUE, and squad1 and squad2.
      'tasks': (*(t for t in TASKS if not TASKS[t].trained_as), *SQUAD),
      'finetune_seeds': (0, 1),  # of each task
      'small_task_seeds': (0, 1, 2, 3, 4),  # of tasks below 10,000 examples
      # Peak rates to choose from by dev, with the first seeds; empty: that of
      # the task and size.
      'learning_rates': (),
      'max_updates': placeholder(int),  # of a fine-tuning, whatever its epochs
      'seeds_together': False,  # small tasks: their seeds in one compiled step
      'workers': 1,  # cells at a time, each with devices or cores of its own
      'cost_rounds': 7,  # in which the steps of the models are timed in turns
      'keep_checkpoints': True,  # of fine-tuned models, once they are measured
      'pretrain': config_lib.pretrain_defaults(),
      'finetune': config_lib.finetune_defaults(),
      'squad1': span_config.squad_defaults(),
      'squad2': span_config.squad_defaults(),
      'robustness': robustness_config.robustness_defaults(),
    }
  )
  for part in ('pretrain', 'finetune', *SQUAD):
    config[part].tensorboard = False
  config.finetune.data.predict_test = False
  return config


def study_at(size: str, hours: float = 0.0) -> ConfigDict:
  """The study of `configs/study.py`.

  Args:
    size: `model.size` of all models.
    hours: of a pre-training, in place of BERT's steps; 0 for these.
  """
  config = study_defaults()
  for name in ('pretrain', 'finetune', *SQUAD):
    config[name].model.size = size
  train = config.pretrain.train
  # Devlin et al. 2019, appendix A.2; configs/pretrain.py has the sources.
  train.steps, train.batch_size, train.warmup_steps = 1_000_000, 256, 10_000
  train.learning_rate = recipes.PRETRAINING_RATES.get(size, 1e-4)
  if hours:
    train.steps, train.hours = None, hours
    train.warmup_steps, train.warmup_ratio = None, 0.01
  return config


def changes_of(model: str) -> dict[str, Any]:
  """The keys of the model that its name stands for.

  Args:
    model: a mechanism or `narrow`, and after a colon keys with values.

  Returns:
    `attention` and the keys after the colon; `narrow` is standard.

  Raises:
    UserError: if there is no such mechanism, or what follows is no key=value.
  """
  name, _, keys = model.partition(':')
  if name not in (*ATTENTIONS, NARROW):
    raise UserError(
      f'models names {model!r}, and there is no mechanism {name!r}: use '
      f'{", ".join(ATTENTIONS)} or {NARROW}, perhaps with keys of the model, '
      "such as 'shared:role_bias=True,residual_rank=4'."
    )
  changes: dict[str, Any] = {
    'attention': 'standard' if name == NARROW else name
  }
  for item in filter(None, keys.split(',')):
    key, equals, text = item.partition('=')
    if not equals:
      raise UserError(f'models: {item!r} of {model!r} is not key=value.')
    try:
      changes[key] = ast.literal_eval(text)
    except (ValueError, SyntaxError):
      changes[key] = text
  return changes


def section_of(config: ConfigDict, task: str) -> ConfigDict:
  """The settings of a task, without what the cell decides."""
  return config[task] if task in SQUAD else config.finetune


def glue_tasks(config: ConfigDict) -> list[str]:
  """The tasks of a study without SQuAD."""
  return [task for task in config.tasks if task not in SQUAD]


def measures_robustness(config: ConfigDict, task: str) -> bool:
  """Whether there is noise or a set of another domain for models of a task."""
  its = robustness_of(config, task)
  return bool(its.noise.kinds or its.outside.dir or its.outside.files)


def robustness_of(config: ConfigDict, task: str) -> ConfigDict:
  """The section `robustness` for the models of a task.

  Of the sets and files of other domains it has those that these read, of
  SQuAD none.
  """
  made = copy.deepcopy(config.robustness)
  its = made.outside
  if task in SQUAD:
    its.update({'dir': '', 'sets': (), 'files': ()})
    made.data.update({'splits': (), 'test_file': ''})
    return made
  its.sets = tuple(name for name in its.sets if task in OUTSIDE[name].tasks)
  if config.robustness.outside.sets and not its.sets:
    its.dir = ''  # no set named: all of the folder
  files = map(_whose, its.files)
  its.files = tuple(file for of, file in files if of in ('', task))
  return made


def _whose(file: str) -> tuple[str, str]:
  """The task of `sst2=new.csv`, none of `new.csv`; and the file."""
  task, _, path = file.partition('=')
  return (task, path) if task in TASKS and path else ('', file)


def seeds_of(config: ConfigDict, model: str) -> tuple[int, ...]:
  """The pre-training seeds of a model."""
  if model in config.closer_models:
    return tuple(dict.fromkeys((*config.pretrain_seeds, *config.closer_seeds)))
  return tuple(config.pretrain_seeds)


def claimed(config: ConfigDict) -> dict:
  """What must not change while a study goes on, as JSON would hold it."""
  return json.loads(json.dumps(lasting(config.to_dict())))


def lasting(of_study: Mapping[str, Any]) -> dict[str, Any]:
  """Of the settings of a study those that must not change, nested as they are.

  Args:
    of_study: all of them, or what an earlier version took for these.
  """
  return {k: v for k, v in of_study.items() if k not in _FREE_KEYS}


def costly(config: ConfigDict) -> dict:
  """What the cost of a study is measured of, as JSON would hold it."""
  of = {'models': list(config.models), 'tasks': list(config.tasks)}
  return of | {'cost_rounds': config.cost_rounds} | claimed(config)


def validate(config: ConfigDict) -> None:
  """Refuses what cannot work.

  Args:
    config: of `study_defaults`, with changes.

  Raises:
    UserError: naming the key and the mend.
  """
  if config.get('job') != 'study':
    raise UserError(
      f'this command wants a study, and the config is of job='
      f'{config.get("job")!r}: use configs/study.py, or shared_bert.main.'
    )
  key_validation.check_keys(config, study_defaults())
  if not config.models:
    raise UserError('models is empty: name the mechanisms to compare.')
  for key in ('models', 'closer_models', 'tasks'):
    if len(set(config[key])) < len(config[key]):
      raise UserError(f'{key}={tuple(config[key])!r} names one twice.')
  for model in config.models:
    changes_of(model)
  if config.baseline not in config.models:
    raise UserError(
      f'baseline={config.baseline!r} is not one of models: name one that is.'
    )
  for task in config.tasks:
    known = (*(t for t in TASKS if not TASKS[t].trained_as), *SQUAD)
    if task not in known:
      raise UserError(
        f'tasks names {task!r}, which cannot be trained: use '
        f'{", ".join(known)}.'
      )
  for key in (
    'pretrain_seeds',
    'closer_seeds',
    'finetune_seeds',
    'small_task_seeds',
  ):
    if not all(
      type(seed) is int and 0 <= seed < 2**32 for seed in config[key]
    ) or len(set(config[key])) < len(config[key]):
      raise UserError(
        f'{key}={tuple(config[key])!r} must be whole numbers from 0 to '
        '4294967295, each once.'
      )
  if not config.pretrain_seeds:
    raise UserError('pretrain_seeds is empty: name one or more.')
  for key, least in (('workers', 1), ('cost_rounds', 2)):
    if config[key] < least:
      raise UserError(f'{key}={config[key]} must be at least {least}.')
  if config.max_updates is not None and config.max_updates < 1:
    raise UserError(f'max_updates={config.max_updates} must be at least 1.')
  if any(
    type(rate) is not float or not 0 < rate < 1
    for rate in config.learning_rates
  ):
    raise UserError(
      f'learning_rates={tuple(config.learning_rates)!r} must be numbers '
      'between 0 and 1, such as "(1e-4,3e-4)".'
    )
  for name in ('pretrain', 'finetune', *SQUAD):
    part = config[name]
    if part.seed or part.get('seeds') or part.get('seeds_together'):
      raise UserError(
        f'{name}.seed, {name}.seeds and {name}.seeds_together are not read in '
        'a study: set pretrain_seeds, finetune_seeds, small_task_seeds and '
        'seeds_together.'
      )
    if part.init_from:
      raise UserError(
        f'{name}.init_from is not read in a study, which pre-trains its models '
        'from nothing and fine-tunes them: leave it out.'
      )
  robustness = copy.deepcopy(config.robustness)
  if robustness.init_from or robustness.data.source or robustness.data.task:
    raise UserError(
      'robustness.init_from, robustness.data.source and robustness.data.task '
      'are not read in a study, which measures each model on its own task.'
    )
  robustness.init_from = 'each'
  validation.validate(robustness)
  _check_outside(robustness.outside, glue_tasks(config))
  if config.pretrain.data.source == 'text' and not config.pretrain.data.corpus:
    raise UserError(
      'pretrain.data.corpus is not set: all models read one corpus, which '
      '`python -m shared_bert.prepare` writes.'
    )
  if config.finetune.from_mnli and (
    'mnli' not in config.tasks
    or len(config.finetune_seeds) < 1 + (len(config.learning_rates) > 1)
  ):
    raise UserError(
      'finetune.from_mnli needs mnli among tasks, and a seed in '
      'finetune_seeds, or with several learning_rates two.'
    )
  for model in config.models:
    pretrain = copy.deepcopy(config.pretrain)
    change_model(pretrain.model, changes_of(model), model)
    validation.validate(pretrain)
  if tasks := glue_tasks(config):
    finetune = copy.deepcopy(config.finetune)
    finetune.data.task = ','.join(tasks)
    if config.seeds_together:
      # As a group of cells would be.
      finetune.update({'init_from': 'each', 'from_mnli': False})
      finetune.update({'seeds': (0, 1), 'seeds_together': True})
    validation.validate(finetune)
  for task in set(config.tasks) & set(SQUAD):
    validation.validate(config[task])


def _check_outside(outside: ConfigDict, tasks: list[str]) -> None:
  """Refuses sets and files of other domains that are of no task's models."""
  for name in outside.sets:
    if not set(tasks) & set(OUTSIDE[name].tasks):
      raise UserError(
        f'robustness.outside.sets names {name!r}, which models of '
        f'{", ".join(OUTSIDE[name].tasks)} read: tasks has none of them.'
      )
  for file in outside.files:
    task, path = _whose(file)
    if task and task not in tasks:
      raise UserError(
        f'robustness.outside.files names {file!r}, and tasks has no {task}.'
      )
    if not task and len(tasks) > 1:
      raise UserError(
        f'robustness.outside.files names {path!r}, and there are models of '
        f'{", ".join(tasks)}: say whose models read it, such as '
        f"'{tasks[0]}={path}'."
      )


def change_model(keys: ConfigDict, changes: dict[str, Any], model: str) -> None:
  """Sets keys of a model, in place.

  Raises:
    UserError: for a key that there is not, or a value of another type.
  """
  for key, value in changes.items():
    if key not in keys:
      close = command_line.nearest(key, list(keys))
      raise UserError(
        f'models: {model!r} sets {key}, which is no key of the model'
        + (f'; did you mean {close}?' if close else '.')
      )
    try:
      keys[key] = value
    except TypeError as error:
      raise UserError(
        f'models: {model!r} sets {key} to {value!r}, which is of another type '
        f'than {keys[key]!r}.'
      ) from error
