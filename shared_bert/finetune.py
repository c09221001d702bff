"""Fine-tuning on a task, from a pre-trained checkpoint to its metrics."""

import copy
import functools
import pathlib
from typing import Any

import jax
from ml_collections import ConfigDict

from shared_bert import config as config_lib
from shared_bert import recipes, run_plan, task_data, train_validation
from shared_bert.data import batches as batches_lib
from shared_bert.data import glue
from shared_bert.data.packed_batches import PackedRows
from shared_bert.interop.starting import open_start, weighted_by
from shared_bert.model import flops, parameters
from shared_bert.task_model import TaskModel
from shared_bert.training import mesh as mesh_lib
from shared_bert.training import optimizer as optimizer_lib
from shared_bert.training import processes
from shared_bert.training import run as run_lib
from shared_bert.training import workdir as workdir_lib
from shared_bert.training.logging import say
from shared_bert.training.loop import LoopSettings
from shared_bert.training.run import Options
from shared_bert.training.schedules import schedule_of_config


@workdir_lib.alone_in_workdir
def finetune(
  config: ConfigDict, workdir: pathlib.Path, options: Options = Options()
) -> dict[str, Any]:
  """Runs the job to its end, from where the workdir stands.

  Args:
    config: of `config.finetune_defaults`, validated.
    workdir: of the run.
    options: of the command, apart from what is computed.

  Returns:
    The results, as in `results.json`.

  Raises:
    UserError: for what the user can mend.
    Preempted: after a signal, once the state is saved.
  """
  config = recipes.fill_in(copy.deepcopy(config))
  finished = workdir_lib.claim(workdir, config_lib.recorded(config))
  if finished is not None:
    say(f'{workdir} is complete; nothing to do.')
    run_lib.show(workdir, finished)
    return finished

  # Devices that can share the batches.
  devices = mesh_lib.find_devices()
  train = config.train
  train_validation.check_shares(config, len(devices))
  platform = jax.default_backend()
  train_validation.check_backend(config, platform)

  # Data: every split as padded rows; unlabelled ones are only predicted.
  start = None
  if config.init_from:
    start = open_start(config.init_from, config.model)
  # What is downloaded, prepared or trained now is so once.
  loaded = processes.first_ahead(lambda: task_data.load_task(config.data))
  tokenizer = processes.first_ahead(
    lambda: task_data.open_tokenizer(config.data, loaded, workdir, start)
  )
  data = task_data.encode(loaded, tokenizer, config.data.seq_len)
  fingerprint = glue.fingerprint(data.splits)
  described = task_data.describe(data, tokenizer, config.data.seq_len)
  if options.dry_run:
    data = data.head(config.data.eval_batch_size)
  task = data.task

  # Model: its loss, outputs and metrics as compiled functions.
  model = config_lib.model_config(config, tokenizer.vocab_size, platform)
  mesh = mesh_lib.mesh_for(config.mesh.fsdp, model, devices)
  task_model = TaskModel(model, data, config, mesh)
  rows_of = batches_lib.Rows
  if config.data.packing:
    # Each device cuts its own rows into micro-batches.
    rows_of = functools.partial(
      PackedRows, multiple=mesh.size * train.accumulation
    )
  rows = rows_of(
    data.arrays['train'],
    train.batch_size,
    config.seed,
    buckets=config.data.length_buckets,
    part_of=mesh_lib.part_of(mesh),
  )

  start = weighted_by(
    start,
    rows.num_rows,
    lambda chosen: {
      name: data.arrays['train'][name][chosen]
      for name in ('input_ids', 'token_type_ids', 'segment_ids')
    },
  )

  def make_params():
    key = jax.random.fold_in(jax.random.key(config.seed), 0)
    return parameters.initialise(task_model.make, key)

  # Plan and run.
  course = config_lib.course_of(config, (config.data.seq_len,), rows.num_rows)
  schedule = schedule_of_config(
    train, config_lib.warmup_of(config, course.steps)
  )
  plan = run_plan.describe(
    config,
    workdir,
    model,
    mesh,
    course=course,
    num_rows=rows.num_rows,
    data=described,
  )
  say(plan)
  epoch = -(-rows.num_rows // train.batch_size)  # the last one ends the run
  outcome = run_lib.run(
    config.to_dict(),
    workdir,
    mesh,
    LoopSettings(
      name=f'fine-tune {task.name}',
      course=course,
      log_every=train.log_every,
      evaluate_every=train.eval_every or epoch,
      checkpoint_every=train.checkpoint_every,
      patience=train.early_stopping,
    ),
    start=start,
    make_params=make_params,
    loss_function=task_model.loss_sums,
    metric_names=task_model.metric_names,
    optimizer=optimizer_lib.of_config(train),
    learning_rate=schedule,
    batches=lambda phase, first, last: batches_lib.prefetch(
      rows, first, last, lambda batch: mesh_lib.place_batch(mesh, batch)
    ),
    evaluate=lambda params, phase: task_model.evaluate(params),
    attention_entropy=task_model.attention_entropy,
    flops_per_token=lambda length: flops.train_flops_per_token(
      model, length, 0, task.num_outputs
    ),
    identity={
      'data_fingerprint': fingerprint,
      'tokenizer_sha256': tokenizer.sha256,
      'label_names': list(task.label_names),
    },
    files=tokenizer.files(),
    plan=plan,
    best_metric=f'{next(iter(data.labels))}/{task.primary_metric}',
    options=options,
  )

  # Leaderboard files, from the last step as the metrics are.
  if config.data.predict_test:
    task_model.write_predictions(outcome.params, workdir / 'predictions')
  return run_lib.finish(
    workdir,
    {
      'job': 'finetune',
      'attention': model.attention,
      'steps': outcome.steps,
      'seconds': outcome.seconds,
      'training_seconds': outcome.training_seconds,
      'parameters': parameters.count(outcome.params),
      'best': outcome.best,
      **task_model.report(outcome.evaluation),
    },
    options,
  )
