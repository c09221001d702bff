"""Refuses configs that cannot work, before anything is read or compiled."""

import copy
import math
from collections.abc import Callable
from typing import Any

from ml_collections import ConfigDict

from shared_bert import config as config_lib
from shared_bert import train_validation
from shared_bert.command_line import nearest
from shared_bert.data.glue_tasks import get_task
from shared_bert.errors import UserError
from shared_bert.training.workdir import flatten

# What a number must be, by key; None, where a key may be open, always passes.
_BOUNDS: tuple[tuple[str, Callable[[Any], bool], tuple[str, ...]], ...] = (
  (
    'must be at least 1',
    lambda value: value >= 1,
    (
      'train.batch_size',
      'train.accumulation',
      'train.log_every',
      'train.keep_checkpoints',
      'data.seq_len',
      'data.vocab_size',
      'data.eval_batch_size',
    ),
  ),
  (
    'must be above 0',
    lambda value: value > 0,
    (
      'train.steps',
      'train.epochs',
      'train.tokens',
      'train.hours',
      'train.epsilon',
      'train.distill_temperature',
    ),
  ),
  (
    'must not be negative',
    lambda value: value >= 0,
    (
      'train.learning_rate',
      'train.warmup_steps',
      'train.weight_decay',
      'train.clip_norm',
      'train.max_rewinds',
      'train.eval_every',
      'train.checkpoint_every',
      'train.early_stopping',
      'train.diagonal_learning_rate_scale',
      'train.ramp_batch_size',
      'data.heldout_rows',
    ),
  ),
  (
    'must be at least 0 and below 1',
    lambda value: 0 <= value < 1,
    ('train.warmup_ratio', 'train.beta1', 'train.beta2', 'train.momentum'),
  ),
  (
    'must be from 0 to 1',
    lambda value: 0 <= value <= 1,
    ('train.warmup_from', 'train.ramp_ratio', 'train.distill_weight'),
  ),
  (
    'must be above 0 and at most 1',
    lambda value: 0 < value <= 1,
    ('train.decay_ratio',),
  ),
  (
    'must be above 0 and below 1',
    lambda value: 0 < value < 1,
    ('data.mask_ratio',),
  ),
  (
    f'must be at most {config_lib.MOST_STEPS}',
    lambda value: value <= config_lib.MOST_STEPS,
    (
      'train.steps',
      'train.epochs',
      'train.warmup_steps',
      'train.log_every',
      'train.eval_every',
      'train.checkpoint_every',
      'train.keep_checkpoints',
      'train.early_stopping',
      'data.heldout_rows',
    ),
  ),
  (
    'must be at most 16777216',
    lambda value: value <= 2**24,
    (
      'train.batch_size',
      'data.eval_batch_size',
      'data.seq_len',
      'data.vocab_size',
    ),
  ),
  # JAX's keys are made of 32 bits.
  ('must be from 0 to 4294967295', lambda value: 0 <= value < 2**32, ('seed',)),
)
_JOBS = ('pretrain', 'finetune', 'eval', 'quickstart')
# What the values of a tuple must be.
_TUPLES: dict[str, tuple[type, str]] = {
  'seeds': (int, 'whole numbers, such as "(0,1,2)"'),
  'data.length_buckets': (int, 'whole numbers, such as "(32,64,128)"'),
  'data.text_columns': (str, "names, such as \"('question','answer')\""),
  'data.splits': (str, "names, such as \"('dev','test')\""),
  'attentions': (str, "names, such as \"('shared','standard')\""),
  'train.stage_shares': (float, 'shares, such as "(0.9,0.1)"'),
  'train.stage_batch_sizes': (int, 'whole numbers, such as "(256,64)"'),
  'train.stage_accumulations': (int, 'whole numbers, such as "(1,4)"'),
}


def validate(config: ConfigDict, needs_data: bool = True) -> None:
  """Refuses what cannot work.

  Args:
    config: of one of the functions of `shared_bert.config`, with changes.
    needs_data: refuses pre-training on nothing, which a plan may be of.

  Raises:
    UserError: naming the key and the mend.
  """
  if 'attentions' in config:
    _validate_quickstart(config)
    return
  is_pretraining = 'data.mask_ratio' in flatten(config.to_dict())
  kind = 'pretrain' if is_pretraining else 'finetune'
  defaults = {
    'pretrain': config_lib.pretrain_defaults,
    'finetune': config_lib.finetune_defaults,
  }[kind]()
  _check_keys(config, defaults)
  _check_job(config)
  if config.job not in (kind, 'eval'):
    raise UserError(
      f'job={config.job!r} does not go with these keys, which are those of '
      f'{defaults.job}: use job={kind} or job=eval, or another config.'
    )
  if config.init_from is None:
    raise UserError(
      'this config continues a trained BERT, and init_from is not set: add '
      "--config.init_from=…, a folder of Hugging Face's BERT or a workdir or "
      'checkpoint of ours.'
    )
  _check_values(config)
  # The values of the model's keys, with any vocabulary.
  config_lib.model_config(config, 1000, 'cpu')
  if is_pretraining:
    train_validation.validate_stages(config)
  train_validation.validate_train(config)
  if is_pretraining:
    _validate_pretrain(config, needs_data)
  else:
    _validate_task(config)
  if config.job == 'eval' and not config.init_from:
    raise UserError(
      'job=eval needs init_from: the workdir, checkpoint or folder of Hugging '
      "Face's BERT to evaluate."
    )


def _validate_quickstart(config: ConfigDict) -> None:
  _check_keys(config, config_lib.quickstart_defaults())
  _check_tuples(flatten(config.to_dict()))
  _check_job(config)
  if config.job != 'quickstart':
    raise UserError(
      f'job={config.job!r} does not go with these keys, which are those of '
      'quickstart: leave it, or use another config.'
    )
  if not config.attentions:
    raise UserError('attentions is empty: name one mechanism or more.')
  for part in (config.pretrain, config.finetune):
    for attention in config.attentions:
      one = copy.deepcopy(part)
      one.model.attention = attention
      validate(one)


def _check_job(config: ConfigDict) -> None:
  if config.job not in _JOBS:
    raise UserError(
      f'job={config.job!r} is not known: use one of {", ".join(_JOBS)}.'
    )


def _check_keys(config: ConfigDict, defaults: ConfigDict) -> None:
  """An error for a key that nothing reads, or one that is not there."""
  known, here = flatten(defaults.to_dict()), flatten(config.to_dict())
  for key in here:
    if key not in known:
      close = nearest(key, known)
      hint = f'; did you mean {close}?' if close else ': leave it out.'
      raise UserError(f'the config sets {key}, which is not a key{hint}')
  absent = [key for key in known if key not in here]
  if absent:
    raise UserError(
      f'the config has no {absent[0]}: start from '
      'shared_bert.config.pretrain_defaults() or finetune_defaults().'
    )


def _check_values(config: ConfigDict) -> None:
  """An error for a number that cannot be, whatever the others are."""
  values = flatten(config.to_dict())
  for key, value in values.items():
    if isinstance(value, float) and not math.isfinite(value):
      raise UserError(f'{key}={value} must be a finite number.')
  for what, is_fine, keys in _BOUNDS:
    for key in keys:
      value = values.get(key)
      if value is not None and not is_fine(value):
        raise UserError(f'{key}={value} {what}.')
  _check_tuples(values)
  if config.train.on_nonfinite not in ('stop', 'rewind'):
    raise UserError(
      f'train.on_nonfinite={config.train.on_nonfinite!r} is not known: use '
      'stop or rewind.'
    )
  fsdp = config.mesh.fsdp
  if fsdp != 'auto' and not (
    fsdp.isascii() and fsdp.isdecimal() and 1 <= int(fsdp) <= 10**6
  ):
    raise UserError(
      f'mesh.fsdp={fsdp} should be how many devices share each parameter, '
      'such as 4, or auto.'
    )


def _check_tuples(values: dict[str, Any]) -> None:
  for key, (kind, what) in _TUPLES.items():
    if not all(type(value) is kind for value in values.get(key, ())):
      raise UserError(f'{key}={tuple(values[key])!r} must hold {what}.')


def _validate_pretrain(config: ConfigDict, needs_data: bool) -> None:
  data = config.data
  _check_source(config, ('text', 'toy'))
  if not train_validation.budgets(config):
    raise UserError(
      'set train.steps, train.epochs, train.tokens or train.hours: how long to '
      'train.'
    )
  if data.source == 'toy' and (data.text or data.corpus):
    raise UserError(
      'data.text and data.corpus are only read with data.source=text, and '
      'data.source is toy: set one or the other.'
    )
  named = bool(data.corpus) + bool(data.text)
  if data.source == 'text' and (named > 1 or (needs_data and not named)):
    raise UserError(
      'set data.corpus to a folder that `python -m shared_bert.prepare` '
      'wrote, or data.text to your text files (such as "books/*.txt"), and '
      'only one of them.'
    )
  weight = config.train.distill_weight
  if weight and not config.init_from:
    raise UserError(
      f'train.distill_weight={weight} is of what is learnt from the model of '
      'init_from, and that is not set: name one, or set it to 0.'
    )
  if data.vocab and not data.text:
    raise UserError(
      f'data.vocab={data.vocab} is only read with data.text: a corpus has its '
      'vocabulary. Leave it out.'
    )


def _check_source(config: ConfigDict, sources: tuple[str, ...]) -> None:
  if config.data.source not in sources:
    raise UserError(
      f'data.source={config.data.source!r} is not known here: use '
      f'{" or ".join(sources)}.'
    )


def _validate_task(config: ConfigDict) -> None:
  data = config.data
  _check_source(config, config_lib.TASK_SOURCES)
  if data.source == 'local' and not data.glue_dir:
    raise UserError(
      'data.glue_dir is not set: name the folder that holds CoLA, SST-2, '
      'MRPC and the others in the layout of the official GLUE archives.'
    )
  if data.glue_dir and data.source != 'local':
    raise UserError(
      f'data.glue_dir={data.glue_dir} is only read with data.source=local, '
      f'and data.source is {data.source}: set one or the other.'
    )
  if data.source == 'files' and config.job != 'eval':
    for key in ('train_file', 'dev_file'):
      if not data[key]:
        raise UserError(
          f'data.{key} is not set: own data needs data.train_file and '
          'data.dev_file, and may have data.test_file.'
        )
  if data.source != 'files' and (
    data.train_file or data.dev_file or data.test_file
  ):
    raise UserError(
      'data.train_file, data.dev_file and data.test_file are only read with '
      f'data.source=files, and data.source is {data.source}: set one or the '
      'other.'
    )
  if data.splits and config.job != 'eval':
    raise UserError(
      f'data.splits={tuple(data.splits)} is only read with job=eval: leave it '
      'out.'
    )
  if data.vocab and (config.init_from or data.source == 'toy'):
    raise UserError(
      f'data.vocab={data.vocab} is only read where a model starts from '
      'nothing: a checkpoint has its vocabulary, and so has the toy. Leave it '
      'out.'
    )
  if not 1 <= len(data.text_columns) <= 2:
    raise UserError(
      f'data.text_columns={tuple(data.text_columns)} must name one column or '
      'two.'
    )
  tasks = config_lib.tasks_of(config)
  if data.source in ('tfds', 'local'):
    for task in tasks:
      get_task(task)
    if len(set(tasks)) < len(tasks):
      raise UserError(f'data.task={data.task} names a task twice.')
  elif len(tasks) > 1:
    raise UserError(
      f'data.task={data.task} trains tasks of GLUE, which come from '
      f'data.source=tfds or local, not from {data.source}.'
    )
  if len(set(config.seeds)) != len(config.seeds):
    raise UserError(f'seeds={tuple(config.seeds)} names a seed twice.')
  if any(not 0 <= seed < 2**32 for seed in config.seeds):
    raise UserError(
      f'seeds={tuple(config.seeds)} must be from 0 to 4294967295.'
    )
  if config.from_mnli and (len(tasks) < 2 or 'mnli' not in tasks):
    raise UserError(
      'from_mnli needs data.task=all, or tasks with MNLI among them; with one '
      'task set init_from to the workdir of an MNLI run.'
    )
  if config.job == 'eval' and (len(tasks) > 1 or config.seeds):
    raise UserError(
      'job=eval evaluates one checkpoint on one task: set data.task and leave '
      'seeds empty.'
    )
  if list(data.length_buckets) != sorted(set(data.length_buckets)) or (
    data.length_buckets and data.length_buckets[0] < 1
  ):
    raise UserError(
      f'data.length_buckets={tuple(data.length_buckets)} must rise from short '
      'to long, from 1 on.'
    )
