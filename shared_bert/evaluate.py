"""Evaluating a checkpoint: its metrics and predictions, without training."""

import copy
import dataclasses
import pathlib
import time
from typing import Any

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from shared_bert import config as config_lib
from shared_bert import pretrain as pretrain_lib
from shared_bert import run_plan, span_config, tasks
from shared_bert.errors import UserError
from shared_bert.interop import classes
from shared_bert.interop.opening import is_foreign, open_model
from shared_bert.interop.saved import SavedModel
from shared_bert.masked_model import MaskedModel
from shared_bert.model import parameters
from shared_bert.model.config import BertConfig, dtype_on
from shared_bert.span_data import SpanData
from shared_bert.task_data import TaskData
from shared_bert.task_model import TaskModel
from shared_bert.training import mesh as mesh_lib
from shared_bert.training import processes
from shared_bert.training import run as run_lib
from shared_bert.training import workdir as workdir_lib
from shared_bert.training.logging import say
from shared_bert.training.run import Options

# What a folder holds, by its head, and the configs that evaluate such a model.
_HEADS = {
  'pretraining': 'a model of masked words and next sentences',
  'masked_lm': 'a model of masked words',
  'classification': 'a classifier',
  'question_answering': 'a model that answers questions',
  'encoder': 'an encoder without a head',
}
_CONFIGS = {
  'pretraining': 'configs/pretrain.py',
  'masked_lm': 'configs/pretrain.py',
  'classification': 'configs/cola.py',
  'question_answering': 'configs/squad.py',
}


@workdir_lib.alone_in_workdir
def evaluate(
  config: ConfigDict, workdir: pathlib.Path, options: Options = Options()
) -> dict[str, Any]:
  """Scores the model `init_from` on the data of this config.

  The model is that of the checkpoint or the folder, and the rows of a task are
  as long as in a checkpoint's training: the `model` keys of the config and
  `data.seq_len` do not count. Of a BERT of others, which does not say how long
  its rows were, `data.seq_len` does.

  Args:
    config: of `pretrain_defaults`, `finetune_defaults` or `squad_defaults`
      with `job='eval'`, validated.
    workdir: where `results.json` and predictions go; no checkpoint does.
    options: of the command.

  Returns:
    The results, as in `results.json`.

  Raises:
    UserError: for a model of another kind than the data asks for, and other
      things that the user can mend.
  """
  started = time.monotonic()
  is_ours = not is_foreign(config.init_from)
  workdir_lib.claim(workdir, config_lib.recorded(config, brings_length=is_ours))
  saved = open_model(config.init_from).cut_to_vocabulary()
  model_config, mesh, config = set_up(saved, config)
  is_of_words = 'mask_ratio' in config.data
  build = _masked_model if is_of_words else _task_model
  model, params = build(config, model_config, saved, mesh, options)
  params = mesh_lib.place(mesh, params)
  metrics = model.evaluate(params).metrics
  if isinstance(model, TaskModel):
    model.leave_predictions(params, workdir)
  return run_lib.finish(
    workdir,
    {
      'job': 'eval',
      'seconds': time.monotonic() - started,
      **facts_of(saved),
      **model.report(metrics),
    },
    options,
  )


def set_up(
  saved: SavedModel, config: ConfigDict
) -> tuple[BertConfig, Mesh, ConfigDict]:
  """What a model is evaluated with; says what it is.

  Args:
    saved: the model `init_from`.
    config: of a job that evaluates, validated.

  Returns:
    Its configuration, computing in what it was trained in; the devices; and
    the config with what the model decides, `data.seq_len`.

  Raises:
    UserError: as `evaluate`.
  """
  is_of_words = 'mask_ratio' in config.data
  if is_of_words:
    _check_kind(saved, 'pretrain', ('masked_lm', 'pretraining'), config)
  elif span_config.asks_for_spans(config.data):
    _check_kind(saved, 'finetune', ('question_answering',), config)
  else:
    _check_kind(saved, 'finetune', ('classification',), config)
  if not is_of_words:
    config = copy.deepcopy(config)
    config.data.seq_len = _row_length(saved, config.data.seq_len)
  # Of a BERT of others nobody says what to compute it in.
  dtype = (saved.run or {}).get('model', {}).get('dtype', 'auto')
  if dtype == 'auto':
    dtype = dtype_on(jax.default_backend())
  model_config = dataclasses.replace(saved.config, dtype=dtype)
  step = saved.facts.get('step')
  say(
    f'evaluating  {"" if step is None else f"step {step:,} of "}{saved.path}\n'
    f'model       {run_plan.model_line(model_config)}'
  )
  devices = mesh_lib.find_devices()
  mesh = mesh_lib.mesh_for(config.mesh.fsdp, model_config, devices)
  return model_config, mesh, config


def facts_of(saved: SavedModel) -> dict[str, Any]:
  """What `results.json` says of a model that was evaluated."""
  step = saved.facts.get('step')
  return {
    'checkpoint': str(saved.path),
    **({} if step is None else {'step': step}),
    'attention': saved.config.attention,
    'parameters': parameters.count(saved.params),
  }


def _check_kind(
  saved: SavedModel, job: str, wanted: tuple[str, ...], config: ConfigDict
) -> None:
  """Refuses a model that does not answer what the data asks.

  Raises:
    UserError: as `evaluate`.
  """
  named = config.init_from
  if saved.run is not None and saved.run['job'] != job:
    raise UserError(
      f'init_from={named} is a checkpoint of job={saved.run["job"]}, '
      f'and this config evaluates one of job={job}: use the config that it '
      'was trained with'
      + (', or fine-tune it first.' if job == 'finetune' else '.')
    )
  if saved.head not in wanted:
    other = _CONFIGS.get(saved.head)
    raise UserError(
      f'init_from={named} is {_HEADS[saved.head]}, and this config evaluates '
      f'{_HEADS[wanted[0]]}: train it first, by the same command without '
      'job=eval' + (f', or use a config such as {other}.' if other else '.')
    )


def _row_length(saved: SavedModel, asked: int) -> int:
  """S of a task: as in training, since longer rows meet fresh positions."""
  if saved.run is not None:
    return saved.seq_len
  most = saved.config.max_positions
  if asked > most:
    say(
      f'rows        of {most} tokens instead of data.seq_len={asked}: the '
      'model has positions for no more'
    )
  return min(asked, most)


def _masked_model(
  config: ConfigDict,
  model_config: BertConfig,
  saved: SavedModel,
  mesh: Mesh,
  options: Options,
) -> tuple[MaskedModel, dict[str, Any]]:
  """On the held-out rows of a corpus."""
  rows = config_lib.evaluation_rows(config)
  mesh_lib.check_batch_size(
    'train.batch_size / train.accumulation', rows, mesh.size
  )
  corpus = pretrain_lib.open_corpora(config, saved)[-1]
  if corpus.seq_len > model_config.max_positions:
    raise UserError(
      f'init_from={config.init_from} has positions for '
      f'{model_config.max_positions} tokens, and the rows of the text have '
      f'{corpus.seq_len}: prepare it in shorter ones.'
    )
  model = pretrain_lib.on_heldout(
    model_config, saved, config, corpus, mesh, options
  )
  return model, saved.params


def _task_model(
  config: ConfigDict,
  model_config: BertConfig,
  saved: SavedModel,
  mesh: Mesh,
  options: Options,
) -> tuple[TaskModel, dict[str, Any]]:
  """On splits of a task; those without labels are predicted."""
  saved, data = task_rows(config, saved, mesh, options)
  return tasks.model_of(model_config, data, config, mesh), saved.params


def task_rows(
  config: ConfigDict,
  saved: SavedModel,
  mesh: Mesh,
  options: Options,
  *,
  only_dev: bool = False,
) -> tuple[SavedModel, TaskData | SpanData]:
  """The rows of a task that a model is evaluated on; says what they are.

  Args:
    config: from `set_up`, of a task.
    saved: the model.
    mesh: from `set_up`.
    options: of the command.
    only_dev: the dev sets alone where `data.splits` names none.

  Returns:
    The model with its outputs in the order of the task's classes, and the task
    with its splits encoded.

  Raises:
    UserError: for files that are missing or hold what they should not, and for
      a model of other classes.
  """
  data = config.data
  mesh_lib.check_batch_size(
    'data.eval_batch_size', data.eval_batch_size, mesh.size
  )
  if data.source == 'files' and not data.get('label_names', True):
    classes.check_named(
      saved,
      f'Or name them in data.label_names, if data.label_column='
      f'{data.label_column} has these',
    )
  loaded = processes.first_ahead(
    lambda: tasks.load(
      data,
      evaluating=True,
      only_dev=only_dev,
      label_names=list(saved.label_names),
    )
  )
  if isinstance(loaded, TaskData):
    saved = classes.in_order_of(saved, loaded.name, loaded.label_names)
  encoded = loaded.encode(saved.tokenizer, data.seq_len)
  if options.dry_run:
    encoded = encoded.head(data.eval_batch_size)
  say('\n'.join(encoded.describe(saved.tokenizer, data.seq_len)))
  return saved, encoded
