"""The keys of a run and their defaults.

Every config starts from the defaults of its job and is locked: a key that is
not there is an error. `validation.py` refuses what cannot work.
"""

import ast
from collections.abc import Sequence
from typing import Any

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from shared_bert.data.glue_tasks import TASKS
from shared_bert.errors import UserError
from shared_bert.model.config import BertConfig, dtype_on
from shared_bert.training.phases import Course, Part, lay_out

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
      # shared, with role_bias: rank of a matrix that each role adds; 0: none.
      'residual_rank': 0,
      'pairwise_init': 'normal',  # of U; or identity
      'standard_init': 'apart',  # or symmetric: W_k begins as W_q
      'dtype': 'auto',  # bfloat16 on accelerators, float32 on CPU
      'attention_backend': 'auto',  # xla; or cudnn, pallas_shared
      'scan_layers': True,  # compile one layer and loop; False: unroll them
      'remat': 'none',  # what to compute twice to save memory: full, dots
    }
  )


def _train() -> ConfigDict:
  return ConfigDict(
    {
      'epochs': placeholder(float),  # passes over the training rows
      'steps': placeholder(int),  # or optimiser steps
      'batch_size': 32,  # rows a step, over all devices
      'accumulation': 1,  # micro-batches a step is cut into
      'optimizer': 'adamw',  # or lamb, lion, muon (matrices; AdamW the rest)
      'learning_rate': 1e-4,  # the peak, after the warm-up
      'schedule': 'linear',  # then; or cosine, constant, rsqrt, wsd
      'warmup_ratio': 0.1,  # warm-up as a share of the run
      'warmup_steps': placeholder(int),  # they count before warmup_ratio
      'warmup_from': 0.0,  # share of the peak that the warm-up starts at
      'decay_ratio': 0.2,  # schedule=wsd: share of the run in which it falls
      'weight_decay': 0.01,  # times the learning rate
      # A pattern of the names of parameters without decay. As
      # google-research/bert, optimization.py; diagonals like scales.
      'no_decay': r'(bias|scale|/d_[qkv])$',
      'diagonal_learning_rate_scale': 1.0,  # of d_q, d_k, d_v
      'clip_norm': 1.0,  # of the gradient, over all parameters; 0: none
      'beta1': 0.9,  # of AdamW, LAMB, Lion
      'beta2': placeholder(float),  # open: 0.999, Lion 0.99
      'epsilon': 1e-6,  # of AdamW, LAMB
      'momentum': 0.95,  # of Muon
      # Loss or gradient not finite: stop; or rewind to the state before that
      # step, skip its batch and go on.
      'on_nonfinite': 'stop',
      'max_rewinds': 3,  # on_nonfinite=rewind: batches to skip; then stop
      'log_every': 50,  # steps between lines of metrics
      'eval_every': 0,  # steps; 0: each epoch (fine-tuning) or at the end
      'checkpoint_every': 1000,  # steps; evaluations and the end save too
      'keep_checkpoints': 2,  # newest ones; the best is kept besides
    }
  )


def _mesh() -> ConfigDict:
  return ConfigDict(
    {
      # Devices that share each parameter and its optimiser state, which all the
      # others copy: a number, such as '4', or auto: as many as memory asks for.
      'fsdp': '1',
    }
  )


def pretrain_defaults() -> ConfigDict:
  """Masked-word pre-training; BERT's recipe where it is known."""
  config = ConfigDict(
    {
      'job': 'pretrain',  # or eval
      'seed': 0,  # of parameters, order of rows, dropout, masks
      # What to start from or evaluate: a workdir, a checkpoint, a folder of
      # Hugging Face's BERT, or a checkpoint of google-research/bert.
      'init_from': '',
      'tensorboard': True,  # event files beside metrics.jsonl
      'model': _model(),
      'mesh': _mesh(),
      'train': _train(),
      'data': {
        'source': 'text',  # or toy, the embedded language
        # A folder that shared_bert.prepare wrote; or several, with commas
        # between: stages of training, each on rows of its length.
        'corpus': '',
        'text': '',  # or text (globs, tfds:NAME), prepared into data.dir first
        'text_key': 'text',  # with text: of .jsonl, .parquet and tfds
        'dir': 'data',  # where prepared corpora and TFDS sets are put
        'vocab': '',  # with text: vocab.txt or tokenizer.json
        'vocab_size': 30522,  # with text, without vocab: train one, once
        'seq_len': 128,  # tokens in a row; of several corpora, in the last's
        'mask_ratio': 0.15,  # share of the tokens to predict
        'whole_word_mask': False,  # predict all pieces of a word or none
        'heldout_rows': 2048,  # rows of each evaluation; 0 for all
      },
    }
  )
  # Or hours of training: steps and waiting for rows; compiling, evaluations and
  # saving do not count. The learning rate follows the clock.
  config.train.hours = placeholder(float)
  config.train.tokens = placeholder(float)  # or tokens to read, with padding
  # Several corpora: the share of the steps on each. Empty: of two, 0.9 and 0.1.
  config.train.stage_shares = ()
  # Several corpora: rows a step of each. Empty: batch_size.
  config.train.stage_batch_sizes = ()
  # Several corpora: micro-batches of each. Empty: accumulation.
  config.train.stage_accumulations = ()
  # Rows of the first step, doubled until they are the batch size; 0: no ramp.
  config.train.ramp_batch_size = 0
  config.train.ramp_ratio = 0.0  # the share of the run by which they are
  # Share of the loss that is learnt from init_from's predictions; 0: none.
  config.train.distill_weight = 0.0
  # That softens both distributions. As DistilBERT's distillation/train.py.
  config.train.distill_temperature = 2.0
  return config


def finetune_defaults() -> ConfigDict:
  """Fine-tuning on a task; open settings as `recipes.settings` has them."""
  config = ConfigDict(
    {
      'job': 'finetune',  # or eval
      'seed': 0,  # of parameters, order of rows, dropout, masks
      'seeds': (),  # several runs, one a seed; mean and spread are printed
      'seeds_together': False,  # seeds in one compiled step: small models
      # What to start from or evaluate: a workdir, a checkpoint, a folder of
      # Hugging Face's BERT, or a checkpoint of google-research/bert.
      'init_from': '',
      'from_mnli': False,  # task=all: RTE, MRPC, STS-B go on from MNLI's model
      'tensorboard': True,  # event files beside metrics.jsonl
      'model': _model(),
      'mesh': _mesh(),
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
        # Examples of a batch share rows; None: as a run began, new ones do.
        'packing': placeholder(bool),
        'length_buckets': (32, 64, 96, 128),  # lengths that rows may have
        'eval_batch_size': 128,  # rows, packed or not, over all devices
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


def usual_model() -> dict[str, Any]:
  """The `model` keys by default: what they were in runs from before them."""
  return {'model': _model().to_dict()}


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
    read = str if isinstance(default, str) else ast.literal_eval
    try:
      values[key] = type(default)(read(text))
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
    platform: of the devices, for `dtype_on`.

  Raises:
    UserError: for impossible values.
  """
  model = BertConfig.of_keys(config.model, vocab_size, dtype_on(platform))
  if config.data.seq_len > model.max_positions:
    raise UserError(
      f'data.seq_len={config.data.seq_len} is longer than '
      f'model.max_positions={model.max_positions}: shorten the one or raise '
      'the other.'
    )
  return model


def recorded(config: ConfigDict, brings_length: bool = True) -> dict:
  """What `config.json` says of a run: without keys that did not count.

  A checkpoint that is evaluated brings its model and the length of a task's
  rows, and one that a task starts from its vocabulary.

  Args:
    config: of a run.
    brings_length: whether what is evaluated knows the length of its rows, as
      a checkpoint of ours does.
  """
  kept = config.to_dict()
  if config.job == 'eval':
    del kept['model']
    if 'task' in config.data and brings_length:
      del kept['data']['seq_len']
  if config.init_from and 'task' in config.data:
    del kept['data']['vocab_size']
  return kept


def corpora_of(config: ConfigDict) -> list[str]:
  """The folders that `data.corpus` names, one a stage."""
  return [folder.strip() for folder in config.data.corpus.split(',')]


def parts_of(config: ConfigDict) -> tuple[Part, ...]:
  """How a run is laid out, as shares of it: stages, batch sizes.

  Args:
    config: of a run, validated.
  """
  train = config.train
  if 'ramp_batch_size' not in train:  # fine-tuning
    return lay_out((1.0,), (train.batch_size,), (train.accumulation,))
  count = len(corpora_of(config))
  # Devlin et al. 2019, appendix A.2: 90 % of the steps at 128 tokens.
  usual = (1.0,) if count == 1 else (0.9, 0.1)
  return lay_out(
    train.stage_shares or usual,
    train.stage_batch_sizes or (train.batch_size,) * count,
    train.stage_accumulations or (train.accumulation,) * count,
    ramp_batch_size=train.ramp_batch_size,
    ramp_ratio=train.ramp_ratio,
  )


def evaluation_rows(config: ConfigDict) -> int:
  """Rows of an evaluation batch: what training holds in memory at once.

  Args:
    config: of a pre-training run.
  """
  stages = parts_of(config)[-len(corpora_of(config)) :]
  return min(part.batch_size // part.accumulation for part in stages)


def course_of(
  config: ConfigDict, seq_lens: Sequence[int], num_rows: int
) -> Course:
  """A run from its first step to its last, by the budget that is set.

  Args:
    config: of a run, validated.
    seq_lens: tokens in a row of each stage.
    num_rows: training rows, for a budget in epochs.

  Raises:
    UserError: if it has more steps than can be counted.
  """
  train, parts, lengths = config.train, parts_of(config), tuple(seq_lens)
  if train.steps is not None:
    course = Course(parts, lengths, steps=train.steps)
  elif train.epochs is not None:
    course = Course.of_rows(parts, lengths, train.epochs * num_rows)
  elif train.tokens is not None:
    course = Course.of_tokens(parts, lengths, train.tokens)
  else:
    course = Course(parts, lengths, seconds=3600 * train.hours)
  if course.steps is not None and course.steps > MOST_STEPS:
    raise UserError(
      f'the run would have {course.steps:,} steps, and there can be '
      f'{MOST_STEPS:,}: lower train.epochs or train.tokens.'
    )
  return course


def warmup_of(config: ConfigDict, steps: int | None) -> float:
  """The warm-up as a share of the run.

  Args:
    config: of a run.
    steps: of the whole run; None where a clock ends it.

  Raises:
    UserError: if it takes all the steps.
  """
  train = config.train
  if steps is None:  # no step is a share, other numbers of steps are none
    return 0.0 if train.warmup_steps == 0 else train.warmup_ratio
  warmup = train.warmup_steps
  if warmup is None:
    warmup = int(train.warmup_ratio * steps)
  if warmup >= steps and warmup:
    raise UserError(
      f'the warm-up of {warmup} steps leaves nothing of the {steps} steps of '
      'training: lower train.warmup_steps (or train.warmup_ratio) or train '
      'longer.'
    )
  return warmup / steps


def tasks_of(config: ConfigDict) -> list[str]:
  """The tasks of a fine-tuning config, those that others start from first."""
  tasks = [name.strip() for name in config.data.task.split(',')]
  if tasks == ['all']:
    tasks = [name for name, task in TASKS.items() if not task.trained_as]
  from_mnli = bool(config.get('from_mnli'))
  return sorted(tasks, key=lambda name: from_mnli and name != 'mnli')
