"""Fine-tuning on a task, from a pre-trained checkpoint to its metrics."""

import functools
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

from shared_bert import config as config_lib
from shared_bert import plan as plan_lib
from shared_bert.data import batches as batches_lib
from shared_bert.data import glue, toy
from shared_bert.data.encoding import encode_examples
from shared_bert.data.glue import Examples, Task
from shared_bert.data.tokenizer import Tokenizer
from shared_bert.model import parameters
from shared_bert.model.heads import BertForSequenceClassification
from shared_bert.training import evaluation as evaluation_lib
from shared_bert.training import mesh as mesh_lib
from shared_bert.training import metrics as metrics_lib
from shared_bert.training import optimizer as optimizer_lib
from shared_bert.training import pictures as pictures_lib
from shared_bert.training import run as run_lib
from shared_bert.training import workdir as workdir_lib
from shared_bert.training.checkpoint import open_checkpoint
from shared_bert.training.logging import say
from shared_bert.training.loop import LoopSettings

Arrays = dict[str, np.ndarray]


def finetune(config: ConfigDict, workdir: pathlib.Path) -> dict[str, Any]:
  """Runs the job to its end, from where the workdir stands.

  Args:
    config: of `config.finetune_defaults`, validated.
    workdir: of the run.

  Returns:
    The results, as in `results.json`.

  Raises:
    UserError: for what the user can mend.
    Preempted: after a signal, once the state is saved.
  """
  finished = workdir_lib.claim(workdir, config.to_dict())
  if finished is not None:
    say(f'{workdir} is complete; nothing to do.')
    run_lib.show(workdir, finished)
    return finished

  # Data: every split as padded rows; unlabelled ones are only predicted.
  tokenizer = _open_tokenizer(config)
  task, splits = _load_splits(config)
  arrays = {
    split: _encode(tokenizer, examples, config.data.seq_len)
    for split, examples in splits.items()
  }
  labels = {
    split: examples.labels
    for split, examples in splits.items()
    if split != 'train' and examples.labels is not None
  }
  mesh = mesh_lib.make_mesh()
  train, data = config.train, config.data
  mesh_lib.check_batch_size(
    'train.batch_size', train.batch_size, mesh, train.accumulation
  )
  mesh_lib.check_batch_size('data.eval_batch_size', data.eval_batch_size, mesh)
  rows = batches_lib.Rows(
    arrays['train'], train.batch_size, config.seed, buckets=data.length_buckets
  )

  # Model, loss and outputs.
  model = config_lib.model_config(
    config, tokenizer.vocab_size, jax.default_backend()
  )
  make = lambda rngs: BertForSequenceClassification(  # noqa: E731
    model, task.num_outputs, rngs=rngs
  )
  apply = parameters.applier(make)

  def make_params():
    key = jax.random.fold_in(jax.random.key(config.seed), 0)
    return parameters.initialise(make, key)

  def loss_function(params, batch, key):
    outputs = apply(
      params,
      batch['input_ids'],
      batch['token_type_ids'],
      batch['segment_ids'],
      key,
    )
    return _loss_sums(task, outputs, batch['labels'])

  outputs_function = jax.jit(
    lambda params, batch: apply(
      params,
      batch['input_ids'],
      batch['token_type_ids'],
      batch['segment_ids'],
    )
  )

  def outputs_of(params, split: str) -> np.ndarray:
    """The model's outputs on a split, float32 [N, num_outputs]."""
    placed = (
      (mesh_lib.place_batch(mesh, batch), batch['row_id'], batch['weight'])
      for batch in batches_lib.eval_batches(
        arrays[split],
        data.eval_batch_size,
        buckets=data.length_buckets,
        lengths=arrays[split]['lengths'],
      )
    )
    return evaluation_lib.predict(
      outputs_function, params, placed, len(splits[split])
    )

  def evaluate(params):
    metrics, pictures = {}, {}
    for split, gold in labels.items():
      predictions = predictions_of(task, outputs_of(params, split))
      metrics[split] = metrics_lib.evaluate_metrics(
        task.metrics, predictions, gold
      )
      if not task.is_regression:
        pictures[f'{split}/confusion'] = functools.partial(
          pictures_lib.confusion_matrix,
          metrics_lib.confusion_counts(predictions, gold, task.num_outputs),
          task.label_names,
        )
    return evaluation_lib.Evaluation(metrics, pictures)

  # The first rows of the first evaluated split, to watch the attention on.
  sample = next(
    batches_lib.eval_batches(
      arrays[next(iter(labels))], data.eval_batch_size, data.length_buckets
    )
  )

  # Plan and run.
  total = config_lib.total_steps(config, rows.num_rows)
  warmup = config_lib.warmup_steps(config, total)
  schedule = optimizer_lib.learning_rate_schedule(
    train.schedule, train.learning_rate, warmup, total
  )
  plan = plan_lib.describe(
    config,
    workdir,
    model,
    mesh,
    total_steps=total,
    warmup_steps=warmup,
    num_rows=rows.num_rows,
    data=_data_lines(config, task, splits, arrays, tokenizer),
  )
  say(plan)
  epoch = max(1, round(rows.num_rows / train.batch_size))
  outcome = run_lib.run(
    config.to_dict(),
    workdir,
    mesh,
    LoopSettings(
      name=f'fine-tune {task.name}',
      total_steps=total,
      batch_size=train.batch_size,
      log_every=train.log_every,
      evaluate_every=train.eval_every or epoch,
      checkpoint_every=train.checkpoint_every,
    ),
    make_params=make_params,
    loss_function=loss_function,
    metric_names=('loss',) if task.is_regression else ('loss', 'accuracy'),
    optimizer=optimizer_lib.of_config(train, schedule),
    learning_rate=schedule,
    batches=lambda start, stop: batches_lib.prefetch(
      rows, start, stop, lambda batch: mesh_lib.place_batch(mesh, batch)
    ),
    evaluate=evaluate,
    attention_entropy=evaluation_lib.watch_attention(
      model, mesh_lib.place_batch(mesh, sample)
    ),
    identity={
      'data_fingerprint': glue.fingerprint(splits),
      'tokenizer_sha256': tokenizer.sha256,
    },
    files=tokenizer.files(),
    plan=plan,
    best_metric=f'{next(iter(labels))}/{task.primary_metric}',
  )

  # Leaderboard files, from the last step as the metrics are.
  for split, examples in splits.items():
    if split in labels or split == 'train' or not data.predict_test:
      continue
    glue.write_predictions(
      task,
      split,
      examples.ids,
      predictions_of(task, outputs_of(outcome.params, split)),
      workdir / 'predictions',
    )
  return run_lib.finish(
    workdir,
    {
      'job': 'finetune',
      'task': task.name,
      'attention': model.attention,
      'steps': total,
      'seconds': outcome.seconds,
      'parameters': parameters.count(outcome.params),
      'metrics': outcome.evaluation,
      'best': outcome.best,
      'examples': {split: len(e) for split, e in splits.items()},
      'majority': {
        split: metrics_lib.majority_rate(gold)
        for split, gold in labels.items()
        if not task.is_regression
      },
    },
  )


def predictions_of(task: Task, outputs: np.ndarray) -> np.ndarray:
  """Class ids int [N] or scores float [N] from outputs float32 [N, C]."""
  return outputs[:, 0] if task.is_regression else outputs.argmax(-1)


def _loss_sums(task: Task, outputs: jax.Array, labels: jax.Array):
  """Squared error for scores, cross entropy and accuracy for classes."""
  count = jnp.asarray(outputs.shape[0], jnp.float32)
  if task.is_regression:
    return {'loss': (jnp.square(outputs[:, 0] - labels).sum(), count)}
  losses = optax.softmax_cross_entropy_with_integer_labels(outputs, labels)
  correct = (outputs.argmax(-1) == labels).astype(jnp.float32)
  return {'loss': (losses.sum(), count), 'accuracy': (correct.sum(), count)}


def _open_tokenizer(config: ConfigDict) -> Tokenizer:
  """That of the checkpoint started from, or of the embedded data, or given."""
  if config.init_from:
    return Tokenizer.load(open_checkpoint(config.init_from).path)
  if config.data.source == 'toy':
    return toy.toy_tokenizer()
  return Tokenizer.load(config.data.vocab)


def _load_splits(config: ConfigDict) -> tuple[Task, dict[str, Examples]]:
  """The task and its splits; says which optional ones are not there."""
  data = config.data
  if data.source == 'toy':
    return toy.TOY_TASK, toy.toy_task(seed=0)
  task = glue.get_task(data.task)
  splits = {}
  for split in task.splits:
    examples = glue.load_split(task, data.glue_dir, split)
    if examples is None:
      path = task.paths(pathlib.Path(data.glue_dir), split)[0]
      say(f'{task.name} {split}: skipped, there is no {path}')
      continue
    if examples.skipped:
      reasons = ', '.join(
        f'{count} {reason}' for reason, count in examples.skip_reasons.items()
      )
      say(f'{task.name} {split}: {examples.skipped} lines left out: {reasons}')
    splits[split] = examples
  return task, splits


def _encode(tokenizer: Tokenizer, examples: Examples, seq_len: int) -> Arrays:
  arrays = encode_examples(tokenizer, examples.text_a, examples.text_b, seq_len)
  if examples.labels is not None:
    arrays['labels'] = examples.labels
  return arrays


def _data_lines(
  config: ConfigDict,
  task: Task,
  splits: dict[str, Examples],
  arrays: dict[str, Arrays],
  tokenizer: Tokenizer,
) -> list[str]:
  sizes = ', '.join(f'{split} {len(e):,}' for split, e in splits.items())
  lengths = arrays['train']['lengths']
  full = float((lengths == config.data.seq_len).mean())
  start = config.init_from or 'fresh parameters'
  return [
    f'task        {task.name}: {sizes}; {", ".join(task.metrics)}',
    f'rows        up to {config.data.seq_len} tokens, {lengths.mean():.1f} on '
    f'average, {full:.1%} full; {tokenizer.vocab_size:,} word pieces',
    f'starts from {start}',
  ]
