"""FlaxBert of transformers 4 in an environment of its own, for `peers.py`.

  python benchmarks/flax_bert.py KIND FOLDER ROWS.npz LEARNING_RATE

Loads the BERT in FOLDER. Then, for each line `step` of standard input, does one
step on the rows and prints logits or the loss; for `cpu_seconds`, its own. KIND
is `forward`, `train` or `finetune`, of which the last has one batch of rows
after the other. It trains as transformers' examples/flax/language-modeling/
run_mlm_flax.py does: a head over all tokens, AdamW without decay of biases and
LayerNorms.
"""

import itertools
import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any

os.environ['USE_TF'] = '0'

import jax
import jax.numpy as jnp
import numpy as np
import optax
import transformers
from flax import traverse_util

_DECAY, _EPSILON = 0.01, 1e-6  # as the others have it


def forward(folder: str, rows: dict[str, np.ndarray]) -> Callable[[], Any]:
  """A function that classifies the rows, to logits [B, C]."""
  model = transformers.FlaxBertForSequenceClassification.from_pretrained(
    folder, from_pt=True
  )
  apply = jax.jit(lambda params, rows: model(**rows, params=params).logits)
  params = jax.device_put(model.params)
  return lambda: apply(params, rows).tolist()


def train(
  model: Any, batches: list[dict[str, np.ndarray]], learning_rate: float
) -> Callable[[], Any]:
  """A function that does a training step on the next batch, to its loss."""
  coming = itertools.cycle(jax.device_put(batches))

  def decays(params: Any) -> Any:
    flat = traverse_util.flatten_dict(params)
    return traverse_util.unflatten_dict(
      {k: not ('LayerNorm' in k or k[-1] == 'bias') for k in flat}
    )

  optimizer = optax.adamw(
    learning_rate, eps=_EPSILON, weight_decay=_DECAY, mask=decays
  )

  def loss_of(params: Any, batch: Any) -> jax.Array:
    batch, labels = dict(batch), batch['labels']
    del batch['labels']
    # Dropout of 0 is drawn for nothing, and not at all if it is not training.
    logits = model(**batch, params=params, train=False).logits
    losses = optax.softmax_cross_entropy_with_integer_labels(
      logits, jnp.maximum(labels, 0)
    )
    return jnp.where(labels >= 0, losses, 0).sum() / (labels >= 0).sum()

  def update(params: Any, state: Any, batch: Any) -> Any:
    loss, grads = jax.value_and_grad(loss_of)(params, batch)
    updates, state = optimizer.update(grads, state, params)
    return optax.apply_updates(params, updates), state, loss

  step = jax.jit(update, donate_argnums=(0, 1))
  params = jax.device_put(model.params)
  state = optimizer.init(params)

  def do() -> float:
    nonlocal params, state
    params, state, loss = step(params, state, next(coming))
    jax.block_until_ready(params)
    return float(loss)

  return do


def main() -> None:
  """Answers until standard input ends."""
  kind, folder, path, learning_rate = sys.argv[1:]
  with np.load(path) as archive:
    rows = {name: archive[name].astype(np.int32) for name in archive}
  if kind == 'forward':
    step = forward(folder, rows)
  else:
    batches, of = [rows], transformers.FlaxBertForMaskedLM
    if kind == 'finetune':
      of = transformers.FlaxBertForSequenceClassification
      batches = [
        {name: array[n] for name, array in rows.items()}
        for n in range(len(rows['labels']))
      ]
    model = of.from_pretrained(folder, from_pt=True)
    step = train(model, batches, float(learning_rate))
  answers = {'step': step, 'cpu_seconds': time.process_time}
  for line in sys.stdin:
    print(json.dumps(answers[line.strip()]()), flush=True)


if __name__ == '__main__':
  main()
