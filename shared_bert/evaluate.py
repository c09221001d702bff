"""Evaluating a checkpoint: its metrics and predictions, without training."""

import copy
import pathlib
import time
from typing import Any

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from shared_bert import config as config_lib
from shared_bert import pretrain as pretrain_lib
from shared_bert import run_plan, task_data
from shared_bert.data.tokenizer import Tokenizer
from shared_bert.errors import UserError
from shared_bert.masked_model import MaskedModel
from shared_bert.model import parameters
from shared_bert.model.config import BertConfig
from shared_bert.task_model import TaskModel
from shared_bert.training import mesh as mesh_lib
from shared_bert.training import processes
from shared_bert.training import run as run_lib
from shared_bert.training import workdir as workdir_lib
from shared_bert.training.checkpoint import open_checkpoint
from shared_bert.training.logging import say
from shared_bert.training.run import Options
from shared_bert.training.step_folders import Checkpoint


@workdir_lib.alone_in_workdir
def evaluate(
  config: ConfigDict, workdir: pathlib.Path, options: Options = Options()
) -> dict[str, Any]:
  """Scores the checkpoint `init_from` on the data of this config.

  The model is the checkpoint's, and the rows of a task are as long as in its
  training: the `model` keys of the config and `data.seq_len` do not count.

  Args:
    config: of `pretrain_defaults` or `finetune_defaults` with `job='eval'`,
      validated.
    workdir: where `results.json` and predictions go; no checkpoint does.
    options: of the command.

  Returns:
    The results, as in `results.json`.

  Raises:
    UserError: for a checkpoint of another kind than the data asks for, and
      other things that the user can mend.
  """
  started = time.monotonic()
  workdir_lib.claim(workdir, config_lib.recorded(config))
  checkpoint = open_checkpoint(config.init_from)
  trained = ConfigDict(checkpoint.metadata['config'])
  asked = 'pretrain' if 'mask_ratio' in config.data else 'finetune'
  if trained.job != asked:
    raise UserError(
      f'init_from={config.init_from} is a checkpoint of job={trained.job}, '
      f'and this config evaluates one of job={asked}: use the config that it '
      'was trained with.'
    )
  tokenizer = Tokenizer.load(checkpoint.path)
  # Longer rows would meet positions that were never trained.
  if asked == 'finetune':
    config = copy.deepcopy(config)
    config.data.seq_len = trained.data.seq_len
  model_config = config_lib.model_config(
    ConfigDict({'model': trained.model, 'data': config.data}),
    tokenizer.vocab_size,
    jax.default_backend(),
  )
  say(
    f'evaluating  step {checkpoint.step:,} of {checkpoint.path}\n'
    f'model       {run_plan.model_line(trained.model.size, model_config)}'
  )
  devices = mesh_lib.find_devices()
  mesh = mesh_lib.mesh_for(config.mesh.fsdp, model_config, devices)
  build = _masked_model if asked == 'pretrain' else _task_model
  model = build(config, model_config, tokenizer, checkpoint, mesh, options)
  params = checkpoint.load_params(
    mesh_lib.placed(mesh, parameters.abstract(model.make))
  )
  metrics = model.evaluate(params).metrics
  if isinstance(model, TaskModel) and config.data.predict_test:
    model.write_predictions(params, workdir / 'predictions')
  return run_lib.finish(
    workdir,
    {
      'job': 'eval',
      'checkpoint': str(checkpoint.path),
      'step': checkpoint.step,
      'attention': model_config.attention,
      'seconds': time.monotonic() - started,
      'parameters': parameters.count(params),
      **model.report(metrics),
    },
    options,
  )


def _masked_model(
  config: ConfigDict,
  model_config: BertConfig,
  tokenizer: Tokenizer,
  checkpoint: Checkpoint,
  mesh: Mesh,
  options: Options,
) -> MaskedModel:
  """On the held-out rows of a corpus."""
  rows = config_lib.evaluation_rows(config)
  mesh_lib.check_batch_size(
    'train.batch_size / train.accumulation', rows, mesh.size
  )
  corpus = pretrain_lib.open_corpora(config, checkpoint)[-1]
  rows = config.data.heldout_rows or len(corpus.heldout)
  rows = min(rows, config.train.batch_size) if options.dry_run else rows
  labels = corpus.heldout_labels
  return MaskedModel(
    model_config,
    config,
    tokenizer,
    corpus.heldout[:rows],
    mesh,
    None if labels is None else labels[:rows],
    has_next_sentence='params/next_sentence/kernel' in checkpoint.leaves,
  )


def _task_model(
  config: ConfigDict,
  model_config: BertConfig,
  tokenizer: Tokenizer,
  checkpoint: Checkpoint,
  mesh: Mesh,
  options: Options,
) -> TaskModel:
  """On splits of a task; those without labels are predicted."""
  labels = checkpoint.metadata.get('label_names')
  if labels is None:
    raise UserError(
      f'init_from={config.init_from} does not say what its classes mean: it '
      'was saved by an earlier version; fine-tune again.'
    )
  mesh_lib.check_batch_size(
    'data.eval_batch_size', config.data.eval_batch_size, mesh.size
  )
  loaded = processes.first_ahead(
    lambda: task_data.load_task(
      config.data, evaluating=True, label_names=labels
    )
  )
  if list(loaded.task.label_names) != labels:
    raise UserError(
      f'{loaded.task.name} has the labels '
      f'{", ".join(loaded.task.label_names) or "of a regression"}, and '
      f'init_from={config.init_from} was trained on '
      f'{", ".join(labels) or "scores"}: evaluate it on data with the same.'
    )
  data = task_data.encode(loaded, tokenizer, config.data.seq_len)
  if options.dry_run:
    data = data.head(config.data.eval_batch_size)
  say('\n'.join(task_data.describe(data, tokenizer, config.data.seq_len)))
  return TaskModel(model_config, data, config, mesh)
