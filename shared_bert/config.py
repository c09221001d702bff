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
MOST_STEPS = 2**31 - 1  # which the device counts in 32 bits


def _model() -> ConfigDict:
  return ConfigDict(
    {
      'attention': 'shared',  # or standard, symmetric, pairwise, tied, tied_kv
      'size': 'base',  # or tiny, mini, small, medium, large
      'num_layers': placeholder(int),  # L; open: as the size has it
      'hidden_size': placeholder(int),  # D; open: as the size has it
      'num_heads': placeholder(int),  # H; open: as the size has it
      'intermediate_size': placeholder(int),  # F; open: as the size has it
      'max_positions': 512,  # the longest row there are positions for
      'hidden_dropout': 0.1,  # after the embeddings and each sub-layer
      'attention_dropout': 0.1,  # of the attention probabilities
      'pre_norm': False,  # LayerNorm before each sub-layer, not after it
      'initializer_range': 0.02,  # standard deviation of fresh matrices
      'diagonal_init': 'ones',  # of d_q, d_k, d_v; or normal, signs
      'role_bias': False,  # shared: one bias a role instead of one for all
      'pairwise_init': 'normal',  # of U; or identity
      'dtype': 'auto',  # bfloat16 on accelerators, float32 on CPU
      'scan_layers': True,  # compile one layer and loop; False: unroll them
      'remat': 'none',  # what to compute twice to save memory: full, dots
    }
  )


def _train() -> ConfigDict:
  return ConfigDict(
    {
      'epochs': placeholder(float),  # passes over the training rows
      'steps': placeholder(int),  # optimiser steps; they count before epochs
      'batch_size': 32,  # rows a step, over all devices
      'accumulation': 1,  # micro-batches a step is cut into
      'learning_rate': 1e-4,  # the peak, after the warm-up
      'schedule': 'linear',  # after the warm-up; or cosine, constant
      'warmup_ratio': 0.1,  # warm-up as a share of all steps
      'warmup_steps': placeholder(int),  # they count before warmup_ratio
      'weight_decay': 0.01,  # of AdamW
      # A pattern of the names of parameters without decay. As
      # google-research/bert, optimization.py; diagonals like scales.
      'no_decay': r'(bias|scale|/d_[qkv])$',
      'diagonal_learning_rate_scale': 1.0,  # of d_q, d_k, d_v
      'clip_norm': 1.0,  # of the gradient, over all parameters; 0: none
      'beta1': 0.9,  # of AdamW
      'beta2': 0.999,  # of AdamW
      'epsilon': 1e-6,  # of AdamW
      'log_every': 50,  # steps between lines of metrics
      'eval_every': 0,  # steps; 0: each epoch (fine-tuning) or at the end
      'checkpoint_every': 1000,  # steps; evaluations and the end save too
      'keep_checkpoints': 2,  # newest ones; the best is kept besides
    }
  )


def pretrain_defaults() -> ConfigDict:
  """Masked-word pre-training; BERT's recipe where it is known."""
  return ConfigDict(
    {
      'job': 'pretrain',  # or eval
      'seed': 0,  # of parameters, order of rows, dropout, masks
      'init_from': '',  # a workdir or checkpoint to start from or evaluate
      'tensorboard': True,  # event files beside metrics.jsonl
      'model': _model(),
      'train': _train(),
      'data': {
        'source': 'text',  # or toy, the embedded language
        'corpus': '',  # a folder that shared_bert.prepare wrote
        'text': '',  # or text files (globs), prepared into data.dir first
        'dir': 'data',  # where prepared corpora are put
        'vocab': '',  # with text: vocab.txt or tokenizer.json
        'vocab_size': 30522,  # with text, without vocab: train one, once
        'seq_len': 128,  # tokens in a row
        'mask_ratio': 0.15,  # share of the tokens to predict
        'heldout_rows': 2048,  # rows of each evaluation; 0 for all
      },
    }
  )


def finetune_defaults() -> ConfigDict:
  """Fine-tuning on a task; open settings as `recipes.settings` has them."""
  config = ConfigDict(
    {
      'job': 'finetune',  # or eval
      'seed': 0,  # of parameters, order of rows, dropout, masks
      'seeds': (),  # several runs, one a seed; mean and spread are printed
      'init_from': '',  # a workdir or checkpoint to start from or evaluate
      'from_mnli': False,  # task=all: RTE, MRPC, STS-B go on from MNLI's model
      'tensorboard': True,  # event files beside metrics.jsonl
      'model': _model(),
      'train': _train(),
      'data': {
        'source': 'tfds',  # or local, files, toy (the embedded language)
        'task': 'mnli',  # of GLUE; several with commas, all for the nine
        'dir': 'data',  # tfds: where it is downloaded and prepared, once
        'glue_dir': '',  # local: in the layout of the official archives
        'train_file': '',  # files: own data, .csv, .tsv or .jsonl (.gz)
        'dev_file': '',  # files: evaluated
        'test_file': '',  # files: evaluated with labels, else predicted
        'text_columns': ('sentence',),  # files: one, or "('one','two')"
        'label_column': 'label',  # files: in every file but the test file
        'label_names': (),  # files: in order; empty: those of the train file
        'regression': False,  # files: labels are numbers
        'splits': (),  # job=eval: which; empty: all but train
        'vocab': '',  # without init_from: vocab.txt or tokenizer.json
        'vocab_size': 30522,  # without both: one is made of the train texts
        'seq_len': 128,  # longer texts are cut, pairs longest first
        'length_buckets': (32, 64, 96, 128),  # lengths batches are cut to
        'eval_batch_size': 128,  # rows, over all devices
        'predict_test': True,  # write the leaderboard's files
      },
    }
  )
  config.train.checkpoint_every = 0
  config.train.learning_rate = placeholder(float)
  # Evaluations without a new best after which training stops; 0: never.
  config.train.early_stopping = 0
  return config


def glue_config(arg: str | None, task: str | None = None) -> ConfigDict:
  """Fine-tuning on GLUE.

  Args:
    arg: after the colon of `--config=`: `size`, `attention`, and `task` (of
      `shared_bert.data.glue_tasks.TASKS`, or `all`) unless that is given.
    task: the task of a config of one.
  """
  choice = {} if task else {'task': 'mnli'}
  args = parse_arg(arg, **choice, size='base', attention='shared')
  config = finetune_defaults()
  config.data.task = task or args.task
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
  """Optimiser steps of a run over `num_rows` training rows.

  Raises:
    UserError: if there are more than can be counted.
  """
  train = config.train
  if train.steps is not None:
    return train.steps
  total = max(1, round(train.epochs * num_rows / train.batch_size))
  if total > MOST_STEPS:
    raise UserError(
      f'train.epochs={train.epochs} of {num_rows:,} rows are {total:,} steps, '
      f'and there can be {MOST_STEPS:,}: lower it.'
    )
  return total


def warmup_steps(config: ConfigDict, total: int) -> int:
  """Warm-up steps of a run of `total` steps."""
  if config.train.warmup_steps is not None:
    return config.train.warmup_steps
  return int(config.train.warmup_ratio * total)


def tasks_of(config: ConfigDict) -> list[str]:
  """The tasks of a fine-tuning config, those that others start from first."""
  tasks = [name.strip() for name in config.data.task.split(',')]
  if tasks == ['all']:
    tasks = [name for name, task in TASKS.items() if not task.trained_as]
  return sorted(tasks, key=lambda name: config.from_mnli and name != 'mnli')
