"""Fine-tuning on a task, from a pre-trained checkpoint to its metrics."""

import contextlib
import copy
import functools
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from shared_bert import config as config_lib
from shared_bert import (
  recipes,
  run_plan,
  task_data,
  tasks,
  train_validation,
)
from shared_bert.data import batches as batches_lib
from shared_bert.data.packed_batches import PackedRows
from shared_bert.data.stacked_batches import StackedRows
from shared_bert.errors import UserError
from shared_bert.interop.starting import open_start, weighted_by
from shared_bert.model import flops, parameters
from shared_bert.training import mesh as mesh_lib
from shared_bert.training import optimizer as optimizer_lib
from shared_bert.training import processes, seed_groups
from shared_bert.training import run as run_lib
from shared_bert.training import workdir as workdir_lib
from shared_bert.training.logging import say
from shared_bert.training.loop import LoopSettings
from shared_bert.training.run import Options
from shared_bert.training.schedules import schedule_of_config
from shared_bert.training.seeds import Seeds


@workdir_lib.alone_in_workdir
def finetune(
  config: ConfigDict, workdir: pathlib.Path, options: Options = Options()
) -> dict[str, Any]:
  """Runs the job to its end, from where the workdir stands.

  Args:
    config: of `config.finetune_defaults` or `span_config.squad_defaults`,
      validated.
    workdir: of the run.
    options: of the command, apart from what is computed.

  Returns:
    The results, as in `results.json`.

  Raises:
    UserError: for what the user can mend.
    Preempted: after a signal, once the state is saved.
  """
  config = _filled_in(config, workdir)
  finished = _finished(config, workdir)
  if finished is not None:
    return finished
  (results,) = _train({workdir: config}, options)
  return results


def finetune_together(
  config: ConfigDict,
  workdirs: Mapping[int, pathlib.Path],
  options: Options = Options(),
) -> dict[int, dict[str, Any]]:
  """Runs the job of several seeds at once, each as `finetune` would alone.

  Every compiled step is one of all the seeds that are not complete and stand at
  the same step. Others go on apart, each from its own, so that nothing that is
  saved is lost. Where one is left, it runs alone.

  Args:
    config: as for `finetune`; its `seed` does not count.
    workdirs: seed to the folder of its run; all in one folder.
    options: of the command.

  Returns:
    The results of each, as in its `results.json`.

  Raises:
    UserError: for what the user can mend.
    Preempted: after a signal, once the state of each is saved.
  """
  if processes.count() > 1:
    raise UserError(
      f'seeds_together=True trains in one process, and there are '
      f'{processes.count()}: leave it out, or start one process.'
    )
  results, runs = {}, {}
  with contextlib.ExitStack() as held:
    for seed, workdir in workdirs.items():
      held.enter_context(workdir_lib.alone(workdir))
      one = copy.deepcopy(config)
      one.seed = seed
      one = _filled_in(one, workdir)
      finished = _finished(one, workdir)
      if finished is None:
        runs[workdir] = one
      else:
        results[seed] = finished
    groups = seed_groups.groups_of(runs)
    if len(groups) > 1:
      seeds = [', '.join(str(runs[w].seed) for w in group) for group in groups]
      say(f'apart       seeds {"; ".join(seeds)}: saved at different steps')
    for group in groups:
      trained = _train({workdir: runs[workdir] for workdir in group}, options)
      results |= {
        runs[workdir].seed: its
        for workdir, its in zip(group, trained, strict=True)
      }
  return {seed: results[seed] for seed in workdirs}


def _filled_in(config: ConfigDict, workdir: pathlib.Path) -> ConfigDict:
  """A copy with what was left open, as the run in the workdir has it."""
  config = recipes.fill_in(copy.deepcopy(config))
  if config.data.get('packing', False) is None:
    # What began one example a row goes on so, with the same draws of dropout.
    config.data.packing = workdir_lib.begun_with(
      workdir, 'data.packing', absent=False, new=True
    )
  return config


def _finished(
  config: ConfigDict, workdir: pathlib.Path
) -> dict[str, Any] | None:
  """Claims the workdir; the results if its run is complete, else None."""
  finished = workdir_lib.claim(
    workdir, config_lib.recorded(config), usual=config_lib.usual_model()
  )
  if finished is not None:
    say(f'{workdir} is complete; nothing to do.')
    run_lib.show(workdir, finished)
  return finished


def _seeds_of(runs: Mapping[pathlib.Path, ConfigDict]) -> Seeds:
  """Runs that are to train as one.

  Raises:
    UserError: if they cannot.
  """
  configs = tuple(runs.values())
  if len({config.data.packing for config in configs}) > 1:
    raise UserError(
      f'some of {", ".join(map(str, runs))} began with data.packing, and some '
      'without: go on with seeds_together=False.'
    )
  return Seeds(
    tuple(config.seed for config in configs),
    tuple(runs),
    tuple(config.to_dict() for config in configs),
  )


def _train(
  runs: Mapping[pathlib.Path, ConfigDict], options: Options
) -> list[dict[str, Any]]:
  """Trains a run to its end; or several, that differ in their seed, as one.

  Args:
    runs: folder, claimed, to the run's config, filled in.
    options: of the command.

  Returns:
    The results of each.
  """
  (workdir, config), *others = runs.items()
  seeds = None
  if others:
    seeds, workdir = _seeds_of(runs), workdir.parent

  # Devices that can share the batches.
  devices = mesh_lib.find_devices()
  train = config.train
  train_validation.check_shares(config, len(devices))
  platform = jax.default_backend()
  train_validation.check_backend(config, platform)

  # Data: every split as rows; unlabelled ones are only predicted.
  start = None
  if config.init_from:
    start = open_start(config.init_from, config.model)
  # What is downloaded, prepared or trained now is so once.
  loaded = processes.first_ahead(lambda: tasks.load(config.data))
  tokenizer = processes.first_ahead(
    lambda: task_data.open_tokenizer(config.data, loaded, workdir, start)
  )
  data = loaded.encode(tokenizer, config.data.seq_len)
  fingerprint = data.fingerprint()
  described = data.describe(tokenizer, config.data.seq_len)
  if options.dry_run:
    data = data.head(config.data.eval_batch_size)

  # Model: its loss, outputs and metrics as compiled functions.
  model = config_lib.model_config(config, tokenizer.vocab_size, platform)
  mesh = mesh_lib.mesh_for(config.mesh.fsdp, model, devices)
  task_model = tasks.model_of(model, data, config, mesh)
  kind = batches_lib.Rows
  if recipes.packs(config.data):
    # Each device cuts its own rows into micro-batches.
    kind = functools.partial(
      PackedRows, multiple=mesh.size * train.accumulation
    )

  def rows_of(seed: int) -> batches_lib.Rows | PackedRows:
    return kind(
      data.arrays['train'],
      train.batch_size,
      seed,
      buckets=config.data.length_buckets,
      part_of=mesh_lib.part_of(mesh),
    )

  if seeds:
    rows = StackedRows(rows_of, seeds.numbers)
  else:
    rows = rows_of(config.seed)

  start = weighted_by(
    start,
    rows.num_rows,
    lambda chosen: {
      name: data.arrays['train'][name][chosen].astype(np.int32)
      for name in ('input_ids', 'token_type_ids', 'segment_ids')
    },
  )

  def initialise(key: jax.Array) -> parameters.Params:
    return parameters.initialise(task_model.make, jax.random.fold_in(key, 0))

  def make_params() -> parameters.Params:
    if seeds:
      return jax.vmap(initialise)(seeds.keys())
    return initialise(jax.random.key(config.seed))

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
  evaluate, watch = task_model.evaluate, task_model.attention_entropy
  if seeds:
    evaluate, watch = seeds.evaluate(evaluate), seeds.watch(watch)
    plan += (
      f'\ntogether    seeds {", ".join(map(str, seeds.numbers))}, a batch of '
      'each in every step'
    )
  say(plan)
  epoch = -(-rows.num_rows // train.batch_size)  # the last one ends the run
  outcome = run_lib.run(
    config.to_dict(),
    workdir,
    mesh,
    LoopSettings(
      name=f'fine-tune {data.name}',
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
      rows,
      first,
      last,
      lambda batch: mesh_lib.place_batch(mesh, batch, seeds is not None),
    ),
    evaluate=lambda params, phase: evaluate(params),
    attention_entropy=watch,
    flops_per_token=lambda length: flops.train_flops_per_token(
      model, length, 0, data.pooled_outputs
    ),
    identity={
      'data_fingerprint': fingerprint,
      'tokenizer_sha256': tokenizer.sha256,
      'label_names': list(data.label_names),
    },
    files=tokenizer.files(),
    plan=plan,
    best_metric=data.best_metric,
    seeds=seeds,
    options=options,
  )

  # From the last step, as the metrics are.
  results = []
  outcomes = seeds.apart(outcome) if seeds else [outcome]
  for folder, its in zip(runs, outcomes, strict=True):
    task_model.leave_predictions(its.params, folder)
    results.append(
      run_lib.finish(
        folder,
        {
          'job': 'finetune',
          'attention': model.attention,
          'steps': its.steps,
          'seconds': its.seconds,
          'training_seconds': its.training_seconds,
          'parameters': parameters.count(its.params),
          'best': its.best,
          **task_model.report(its.evaluation),
        },
        options,
      )
    )
  return results
