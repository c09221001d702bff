"""The keys of a run and their defaults.

Every config starts from `pretrain_defaults` or `finetune_defaults` and is
locked: a key that is not here is an error. `validation.py` refuses what cannot
work.
"""

import ast
from typing import Any

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from shared_bert.data.glue_tasks import TASKS
from shared_bert.errors import UserError
from shared_bert.model.config import BertConfig

TASK_SOURCES = ('tfds', 'local', 'files', 'toy')


def _model() -> ConfigDict:
  return ConfigDict(
    {
      'attention': 'shared',  # standard, symmetric, pairwise, tied, tied_kv
      'size': 'base',  # tiny, mini, small, medium, base, large
      'num_layers': placeholder(int),  # None: as the size has it
      'hidden_size': placeholder(int),
      'num_heads': placeholder(int),
      'intermediate_size': placeholder(int),
      'max_positions': 512,
      'hidden_dropout': 0.1,
      'attention_dropout': 0.1,
      'pre_norm': False,
      'initializer_range': 0.02,  # standard deviation of fresh matrices
      'diagonal_init': 'ones',  # of d_q, d_k, d_v: ones, normal or signs
      'role_bias': False,  # one bias a role instead of the shared one
      'pairwise_init': 'normal',  # of U: normal or identity
      'dtype': 'auto',  # bfloat16 on accelerators, float32 on CPU
      'scan_layers': True,
      'remat': 'none',  # full, dots
    }
  )


def _train() -> ConfigDict:
  return ConfigDict(
    {
      'epochs': placeholder(float),  # passes over the training rows, or
      'steps': placeholder(int),  # steps; these count where both are given
      'batch_size': 32,  # rows a step, over all devices
      'accumulation': 1,  # micro-batches a step is cut into
      'learning_rate': 1e-4,
      'schedule': 'linear',  # after the warm-up: linear, cosine, constant
      'warmup_ratio': 0.1,  # a share of all steps, or
      'warmup_steps': placeholder(int),  # steps; these count where given
      'weight_decay': 0.01,
      # As google-research/bert, optimization.py; diagonals like scales.
      'no_decay': r'(bias|scale|/d_[qkv])$',
      'diagonal_learning_rate_scale': 1.0,
      'clip_norm': 1.0,  # 0 for none
      'beta1': 0.9,
      'beta2': 0.999,
      'epsilon': 1e-6,
      'log_every': 50,  # steps
      'eval_every': 0,  # steps; 0: each epoch (fine-tuning), at the end
      'checkpoint_every': 1000,  # steps
      'keep_checkpoints': 2,  # newest ones; the best is kept besides
    }
  )


def pretrain_defaults() -> ConfigDict:
  """Masked-word pre-training; BERT's recipe where it is known."""
  return ConfigDict(
    {
      'job': 'pretrain',
      'seed': 0,
      'init_from': '',  # a workdir or checkpoint to start the encoder from
      'tensorboard': True,
      'model': _model(),
      'train': _train(),
      'data': {
        'source': 'text',  # text or toy
        'corpus': '',  # a folder that shared_bert.prepare wrote
        'text': '',  # or text files (a glob), prepared into data.dir first
        'dir': 'data',  # where prepared corpora are put
        'vocab': '',  # vocab.txt or tokenizer.json for data.text
        'vocab_size': 30522,  # or train one of this size, once
        'seq_len': 128,
        'mask_ratio': 0.15,
        'heldout_rows': 2048,  # rows of each evaluation; 0 for all
      },
    }
  )


def finetune_defaults() -> ConfigDict:
  """Fine-tuning on a task; open settings as `recipes.settings` has them."""
  config = ConfigDict(
    {
      'job': 'finetune',
      'seed': 0,
      'seeds': (),  # several runs, one a seed; mean and spread are printed
      'init_from': '',  # a workdir or checkpoint; empty: from scratch
      'from_mnli': False,  # task=all: RTE, MRPC, STS-B go on from MNLI's model
      'tensorboard': True,
      'model': _model(),
      'train': _train(),
      'data': {
        'source': 'tfds',  # tfds, local, files or toy
        'task': 'mnli',  # of GLUE; all for the nine of them
        'dir': 'data',  # tfds: where it is downloaded and prepared, once
        'glue_dir': '',  # local: in the layout of the official archives
        'train_file': '',  # files: own data, .csv, .tsv or .jsonl (.gz)
        'dev_file': '',
        'test_file': '',
        'text_columns': ('sentence',),  # files: one column or two
        'label_column': 'label',
        'label_names': (),  # files: in order; empty: those of the train file
        'regression': False,  # files: labels are numbers
        'splits': (),  # job=eval: which; empty: all but train
        'vocab': '',  # without init_from: vocab.txt or tokenizer.json
        'vocab_size': 30522,  # or one of this size of the training texts
        'seq_len': 128,
        'length_buckets': (32, 64, 96, 128),  # batches are cut to the least
        'eval_batch_size': 128,
        'predict_test': True,  # write the leaderboard's files
      },
    }
  )
  config.train.checkpoint_every = 0
  config.train.learning_rate = placeholder(float)
  # Evaluations without a new best after which training stops; 0: never.
  config.train.early_stopping = 0
  return config


def glue_config(task: str, arg: str | None = None) -> ConfigDict:
  """Fine-tuning on one GLUE task.

  Args:
    task: of `shared_bert.data.glue_tasks.TASKS`, or `all`, unless `arg` names
      one.
    arg: after the colon of `--config=`: `task`, `size`, `attention`.
  """
  args = parse_arg(arg, task=task, size='base', attention='shared')
  config = finetune_defaults()
  config.data.task = args.task
  config.model.size = args.size
  config.model.attention = args.attention
  return config


def quickstart_defaults() -> ConfigDict:
  """Pre-training and fine-tuning of several mechanisms, side by side."""
  pretrain, finetune = pretrain_defaults(), finetune_defaults()
  for config in (pretrain, finetune):
    config.data.source = 'toy'
    config.model.size = 'tiny'
  finetune.data.task = 'toy'
  return ConfigDict(
    {
      'job': 'quickstart',
      'attentions': ('shared', 'standard'),
      'pretrain': pretrain,
      'finetune': finetune,
    }
  )


def parse_arg(arg: str | None, **defaults: Any) -> ConfigDict:
  """Reads what follows the colon of `--config=FILE:key=value,…`.

  Args:
    arg: such as `task=cola,size=tiny`; or None.
    **defaults: the keys there are, with their defaults, whose types the
      values take.

  Raises:
    UserError: for a key that is not there or a value of another type.
  """
  values = ConfigDict(defaults)
  if arg and not defaults:
    raise UserError(
      f'--config=…:{arg}: this config takes nothing after the colon.'
    )
  for item in filter(None, (arg or '').split(',')):
    key, equals, text = item.partition('=')
    if key not in defaults or not equals:
      raise UserError(
        f'--config=…:{item} is not known: after the colon stand '
        f'{", ".join(f"{k}=…" for k in defaults)}, with commas between.'
      )
    default = defaults[key]
    try:
      values[key] = (
        text
        if isinstance(default, str)
        else type(default)(ast.literal_eval(text))
      )
    except (ValueError, SyntaxError) as error:
      raise UserError(
        f'--config=…:{item} should be a {type(default).__name__}.'
      ) from error
  return values


def model_config(config: ConfigDict, vocab_size: int, platform: str):
  """The `BertConfig` that a run's `model` keys describe.

  Args:
    config: of a run.
    vocab_size: of its tokenizer.
    platform: of the devices; `auto` computes in bfloat16 unless it is `cpu`.

  Raises:
    UserError: for impossible values.
  """
  keys = {k: v for k, v in config.model.items() if v is not None}
  if keys['dtype'] == 'auto':
    keys['dtype'] = 'float32' if platform == 'cpu' else 'bfloat16'
  model = BertConfig.of_size(keys.pop('size'), vocab_size=vocab_size, **keys)
  if config.data.seq_len > model.max_positions:
    raise UserError(
      f'data.seq_len={config.data.seq_len} is longer than '
      f'model.max_positions={model.max_positions}: shorten the one or raise '
      'the other.'
    )
  return model


def total_steps(config: ConfigDict, num_rows: int) -> int:
  """Optimiser steps of a run over `num_rows` training rows."""
  if config.train.steps is not None:
    return config.train.steps
  return max(1, round(config.train.epochs * num_rows / config.train.batch_size))


def warmup_steps(config: ConfigDict, total: int) -> int:
  """Warm-up steps of a run of `total` steps."""
  if config.train.warmup_steps is not None:
    return config.train.warmup_steps
  return int(config.train.warmup_ratio * total)


def tasks_of(config: ConfigDict) -> list[str]:
  """The tasks of a fine-tuning config, those that others start from first."""
  if config.data.task != 'all':
    return [config.data.task]
  tasks = [name for name, task in TASKS.items() if not task.trained_as]
  return sorted(tasks, key=lambda name: config.from_mnli and name != 'mnli')
