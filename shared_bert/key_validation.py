"""What keys there may be, and what each of their values must be by itself.

`validation.py` refuses what cannot work together.
"""

import math
from collections.abc import Callable
from typing import Any

from ml_collections import ConfigDict

from shared_bert import config as config_lib
from shared_bert.command_line import nearest
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
      'data.stride',
      'data.question_length',
      'data.answer_length',
      'data.n_best',
      'noise.resamples',
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
      'data.train_questions',
      'data.dev_questions',
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
      'data.stride',
      'data.question_length',
      'data.answer_length',
      'data.n_best',
    ),
  ),
  # JAX's keys are made of 32 bits.
  (
    'must be from 0 to 4294967295',
    lambda value: 0 <= value < 2**32,
    ('seed', 'noise.seed'),
  ),
)
# What the values of a tuple must be.
_TUPLES: dict[str, tuple[type, str]] = {
  'seeds': (int, 'whole numbers, such as "(0,1,2)"'),
  'data.length_buckets': (int, 'whole numbers, such as "(32,64,128)"'),
  'data.text_columns': (str, "names, such as \"('question','answer')\""),
  'data.splits': (str, "names, such as \"('dev','test')\""),
  'attentions': (str, "names, such as \"('shared','standard')\""),
  'noise.kinds': (str, "names, such as \"('characters','word_drop')\""),
  'noise.levels': (float, 'shares, such as "(0.0,0.1,0.2)"'),
  'outside.sets': (str, "names, such as \"('hans','snli')\""),
  'outside.files': (str, 'names, such as "(\'new.csv\',)"'),
  'train.stage_shares': (float, 'shares, such as "(0.9,0.1)"'),
  'train.stage_batch_sizes': (int, 'whole numbers, such as "(256,64)"'),
  'train.stage_accumulations': (int, 'whole numbers, such as "(1,4)"'),
}


def check_keys(config: ConfigDict, defaults: ConfigDict) -> None:
  """Refuses a key that nothing reads, and one that is not there.

  Args:
    config: to check.
    defaults: with all keys.

  Raises:
    UserError: naming the key.
  """
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


def check_values(config: ConfigDict) -> None:
  """Refuses a value that cannot be, whatever the others are.

  Args:
    config: with any of the keys.

  Raises:
    UserError: naming the key.
  """
  values = flatten(config.to_dict())
  for key, value in values.items():
    if isinstance(value, float) and not math.isfinite(value):
      raise UserError(f'{key}={value} must be a finite number.')
  for what, is_fine, keys in _BOUNDS:
    for key in keys:
      value = values.get(key)
      if value is not None and not is_fine(value):
        raise UserError(f'{key}={value} {what}.')
  check_tuples(values)


def check_tuples(values: dict[str, Any]) -> None:
  """Refuses a tuple that holds values of another type.

  Args:
    values: by dotted key.

  Raises:
    UserError: naming the key.
  """
  for key, (kind, what) in _TUPLES.items():
    kinds = (int, float) if kind is float else (kind,)
    if not all(type(value) in kinds for value in values.get(key, ())):
      raise UserError(f'{key}={tuple(values[key])!r} must hold {what}.')
