"""Refuses configs that cannot work, before anything is read or compiled."""

import copy

from ml_collections import ConfigDict

from shared_bert import config as config_lib
from shared_bert import (
  key_validation,
  quickstart_config,
  robustness_config,
  span_config,
  train_validation,
)
from shared_bert.data.glue_tasks import get_task
from shared_bert.errors import UserError
from shared_bert.training.workdir import flatten

_JOBS = ('pretrain', 'finetune', 'eval', 'quickstart', 'robustness')


def validate(config: ConfigDict, needs_data: bool = True) -> None:
  """Refuses what cannot work.

  Args:
    config: of one of the functions of `shared_bert.config`, with changes.
    needs_data: refuses pre-training on nothing, which a plan may be of.

  Raises:
    UserError: naming the key and the mend.
  """
  if 'models' in config:
    raise UserError(
      'this config is of a study, whose command is another: '
      'python -m shared_bert.study --config=… --workdir=…'
    )
  if 'attentions' in config:
    _validate_quickstart(config)
    return
  if 'noise' in config:
    key_validation.check_keys(config, robustness_config.robustness_defaults())
    _check_job(config)
    key_validation.check_values(config)
    validate(robustness_config.as_evaluation(config))
    return
  is_pretraining = 'data.mask_ratio' in flatten(config.to_dict())
  is_of_spans = 'data.stride' in flatten(config.to_dict())
  kind = 'pretrain' if is_pretraining else 'finetune'
  if is_of_spans:
    defaults = span_config.squad_defaults()
  elif is_pretraining:
    defaults = config_lib.pretrain_defaults()
  else:
    defaults = config_lib.finetune_defaults()
  key_validation.check_keys(config, defaults)
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
  elif is_of_spans:
    _validate_spans(config)
  else:
    _validate_task(config)
  if config.job == 'eval' and not config.init_from:
    raise UserError(
      'job=eval needs init_from: the workdir, checkpoint or folder of Hugging '
      "Face's BERT to evaluate."
    )


def _validate_quickstart(config: ConfigDict) -> None:
  key_validation.check_keys(config, quickstart_config.quickstart_defaults())
  key_validation.check_tuples(flatten(config.to_dict()))
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


def _check_values(config: ConfigDict) -> None:
  key_validation.check_values(config)
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
  train_validation.check_finetuning(config)


def _validate_spans(config: ConfigDict) -> None:
  data = config.data
  _check_source(config, ('files',))
  if data.task != 'squad':
    raise UserError(
      f'data.task={data.task} is not of these keys, which are those of '
      'data.task=squad: use another config, such as configs/cola.py.'
    )
  wanted = ('dev_file',) if config.job == 'eval' else ('train_file', 'dev_file')
  for key in wanted:
    if not data[key]:
      raise UserError(
        f'data.{key} is not set: name a file of SQuAD, such as '
        f'{key.partition("_")[0]}-v1.1.json.'
      )
  if config.job == 'eval' and config.seeds:
    raise UserError('job=eval evaluates one checkpoint: leave seeds empty.')
  train_validation.check_finetuning(config)
