"""A run small enough for a test: a real model, loss, loop and checkpoints."""

import jax
import numpy as np
import optax

from shared_bert.model import parameters
from shared_bert.model.config import BertConfig
from shared_bert.model.heads import BertForMaskedLM
from shared_bert.training import mesh as mesh_lib
from shared_bert.training import optimizer as optimizer_lib
from shared_bert.training import run as run_lib
from shared_bert.training import schedules
from shared_bert.training import step as step_lib
from shared_bert.training.checkpoint import open_checkpoint
from shared_bert.training.evaluation import Evaluation, watch_attention
from shared_bert.training.loop import LoopSettings
from shared_bert.training.phases import Course, lay_out

V, S, B = 32, 8, 16


def model_config(**changes) -> BertConfig:
  """Two layers of width 16."""
  values = {
    'vocab_size': V,
    'hidden_size': 16,
    'num_layers': 2,
    'num_heads': 2,
    'intermediate_size': 32,
    'max_positions': S,
  }
  return BertConfig(**(values | changes))


def maker(config: BertConfig):
  """Builds the masked-word model of a configuration."""
  return lambda rngs: BertForMaskedLM(config, rngs=rngs)


def loss_function(config: BertConfig):
  """Predicts every token from a row with some of them hidden."""
  apply = parameters.applier(maker(config))

  def sums(params, batch, key):
    logits = apply(
      params, batch['input_ids'], segment_ids=batch['segment_ids'], key=key
    )
    losses = optax.softmax_cross_entropy_with_integer_labels(
      logits, batch['labels']
    )
    weights = batch['weights']
    return {'loss': ((losses * weights).sum(), weights.sum())}

  return sums


def batch(step: int) -> dict[str, np.ndarray]:
  """A batch as a pure function of the step, with uneven weights."""
  rng = np.random.default_rng([7, step])
  labels = rng.integers(5, V, (B, S)).astype(np.int32)
  hidden = rng.random((B, S)) < rng.uniform(0.1, 0.9, (B, 1))
  lengths = rng.integers(3, S + 1, (B, 1))
  real = np.arange(S) < lengths
  return {
    'input_ids': np.where(hidden, 1, labels).astype(np.int32),
    'labels': labels,
    'segment_ids': real.astype(np.int32),
    'weights': (hidden & real).astype(np.float32),
  }


def optimizer(name: str = 'adamw'):
  """An optimiser with the project's defaults."""
  return optimizer_lib.make_optimizer(
    name,
    weight_decay=0.01,
    no_decay=r'(bias|scale|/d_[qkv])$',
    clip_norm=1.0,
  )


def schedule(total_steps: int, learning_rate: float = 1e-2):
  """Linear, after a warm-up of one step."""
  return schedules.learning_rate_schedule(
    'linear', learning_rate, 1 / total_steps
  )


def abstract_state(name: str = 'adamw'):
  """Shapes and dtypes of the state that `run` saves."""
  return step_lib.abstract_state(
    lambda: parameters.initialise(maker(model_config()), jax.random.key(0)),
    optimizer(name),
    ('loss',),
    mesh_lib.make_mesh(),
  )


def run(
  workdir,
  *,
  steps=6,
  checkpoint_every=0,
  evaluate_every=0,
  log_every=2,
  make_batch=batch,
  devices=None,
  fsdp=1,
  seed=0,
  data_fingerprint='data',
  init_from='',
  tensorboard=False,
  pictures=None,
  optimizer_name='adamw',
  course=None,
  **train,
):
  """`training.run.run` on the tiny model; returns its outcome."""
  workdir.mkdir(parents=True, exist_ok=True)
  config = model_config()
  mesh = mesh_lib.make_mesh(fsdp, devices)
  loss = loss_function(config)
  evaluate_batch = mesh_lib.on_mesh(
    mesh, lambda params, b: loss(params, b, None)
  )

  def batches(phase, first, last):
    for step in range(first, last):
      rows = make_batch(step)
      # The batches of smaller phases are the first rows of a whole one.
      rows = {k: v[: phase.batch_size] for k, v in rows.items()}
      yield mesh_lib.place_batch(mesh, rows)

  def evaluate(params, phase):
    total, weight = evaluate_batch(params, batch(1000))['loss']
    metrics = {'heldout': {'loss': float(total / weight)}}
    return Evaluation(metrics, pictures or {})

  return run_lib.run(
    {
      'seed': seed,
      'tensorboard': tensorboard,
      'train': {
        'keep_checkpoints': 2,
        'log_every': log_every,
        **train,
      },
    },
    workdir,
    mesh,
    LoopSettings(
      'tiny',
      course or Course(lay_out((1.0,), (B,), (1,)), (S,), steps=steps),
      log_every,
      evaluate_every,
      checkpoint_every,
    ),
    start=open_checkpoint(init_from) if init_from else None,
    make_params=lambda: parameters.initialise(
      maker(config), jax.random.key(seed)
    ),
    loss_function=loss,
    metric_names=('loss',),
    optimizer=optimizer(optimizer_name),
    learning_rate=schedule(steps),
    batches=batches,
    evaluate=evaluate,
    attention_entropy=watch_attention(
      config, mesh, batch(1000) | {'weight': np.ones(B, np.float32)}
    ),
    flops_per_token=lambda length: 1e6,
    identity={'data_fingerprint': data_fingerprint},
    files={},
    plan='a tiny run',
  )
