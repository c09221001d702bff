"""Seconds of an example, fine-tuned on packed and on padded rows, in turns.

  python benchmarks/packing.py GLUE_FOLDER VOCAB [--task=mnli] [--size=tiny]
    [--batch_size=32] [--rounds=12] [--steps=10]

Prints what share of the places in rows is padding over an epoch, and the shapes
of batches, each of which is compiled. Then both train fresh models on the same
examples in one process: in each round, which begins at the other one each time,
each does a few steps, waited for. The shapes of a round are compiled before its
clock starts. Prints the median, least and most over the rounds, CPU seconds
beside wall seconds, and the ratios of padded to packed in each round.
"""

import argparse
import importlib.metadata
import os
import pathlib
import statistics
import time
from collections.abc import Callable

import jax
import numpy as np

from shared_bert import config as config_lib
from shared_bert import recipes, task_data
from shared_bert.data import batches as batches_lib
from shared_bert.data.packed_batches import PackedRows
from shared_bert.data.tokenizer import Tokenizer
from shared_bert.model import parameters
from shared_bert.task_model import TaskModel
from shared_bert.training import mesh as mesh_lib
from shared_bert.training import optimizer as optimizer_lib
from shared_bert.training.step import init_state, make_train_step

Batches = Callable[[int], dict[str, np.ndarray]]


def stepper(
  model: TaskModel, train, rows: Batches
) -> Callable[[int, int], tuple[float, float]]:
  """Builds a step with fresh parameters.

  Args:
    model: what is trained.
    train: keys of the optimiser.
    rows: its batches.

  Returns:
    A function that does some steps from one on, to their wall and CPU seconds.
  """
  mesh = mesh_lib.make_mesh()
  optimizer = optimizer_lib.of_config(train)
  state = init_state(
    lambda: parameters.initialise(model.make, jax.random.key(0)),
    optimizer,
    model.metric_names,
    mesh,
  )
  step = make_train_step(model.loss_sums, optimizer, mesh, seed=0, log_every=50)
  compiled = set()

  def take(first: int, count: int) -> tuple[float, float]:
    nonlocal state
    coming = [mesh_lib.place_batch(mesh, rows(first + n)) for n in range(count)]
    for batch in coming:
      if batch['input_ids'].shape not in compiled:
        compiled.add(batch['input_ids'].shape)
        state, _ = step(state, batch, 0.0)
    jax.block_until_ready((coming, state))
    wall, cpu = time.perf_counter(), time.process_time()
    for batch in coming:
      state, _ = step(state, batch, 1e-5)
    jax.block_until_ready(state)
    return time.perf_counter() - wall, time.process_time() - cpu

  return take


def main() -> None:
  """Counts, measures and prints."""
  parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
  parser.add_argument('glue', type=pathlib.Path)
  parser.add_argument('vocab', type=pathlib.Path)
  parser.add_argument('--task', default='mnli')
  parser.add_argument('--size', default='tiny')
  parser.add_argument('--batch_size', type=int, default=32)
  parser.add_argument('--rounds', type=int, default=12)
  parser.add_argument('--steps', type=int, default=10)
  arguments = parser.parse_args()
  config = config_lib.glue_config(f'size={arguments.size}', arguments.task)
  config.data.source, config.data.glue_dir = 'local', str(arguments.glue)
  config.train.batch_size = arguments.batch_size
  config = recipes.fill_in(config)
  packages = ('jax', 'jaxlib', 'optax', 'numpy')
  print(*(f'{name} {importlib.metadata.version(name)}' for name in packages))
  print(f'{jax.devices()[0].device_kind}, {vars(arguments)}')

  tokenizer = Tokenizer.load(arguments.vocab)
  loaded = task_data.load_task(config.data)
  data = loaded.encode(tokenizer, config.data.seq_len)
  model = TaskModel(
    config_lib.model_config(
      config, tokenizer.vocab_size, jax.default_backend()
    ),
    data,
    config,
    mesh_lib.make_mesh(),
  )
  arrays, buckets = data.arrays['train'], config.data.length_buckets
  sizes = arrays, arguments.batch_size, config.seed
  made: dict[str, Batches] = {
    'padded': batches_lib.Rows(*sizes, buckets),
    'packed': PackedRows(*sizes, buckets=buckets, multiple=jax.device_count()),
  }
  epoch = len(arrays['lengths']) // arguments.batch_size
  for name, rows in made.items():
    seen = [rows(step)['segment_ids'] for step in range(epoch)]
    padding = 1 - sum(map(np.count_nonzero, seen)) / sum(s.size for s in seen)
    shapes = ', '.join(
      f'{r}x{s}' for r, s in sorted({ids.shape for ids in seen})
    )
    print(f'{name}: {padding:.1%} padding, shapes {shapes}')

  steppers = {
    name: stepper(model, config.train, rows) for name, rows in made.items()
  }
  names, times = list(made), {name: [] for name in made}
  for number in range(arguments.rounds):
    for name in names if number % 2 else names[::-1]:
      seconds = steppers[name](number * arguments.steps, arguments.steps)
      examples = arguments.steps * arguments.batch_size
      times[name].append([1e3 * s / examples for s in seconds])
  print(f'milliseconds an example, load {os.getloadavg()}')
  for kind, of in enumerate(('wall', 'CPU')):
    columns = {name: [t[kind] for t in times[name]] for name in names}
    columns['ratio'] = [a / b for a, b in zip(*columns.values(), strict=True)]
    for name, values in columns.items():
      print(
        f'{of:5}{name:8}{statistics.median(values):8.3f} '
        f'({min(values):.3f}-{max(values):.3f})'
      )


if __name__ == '__main__':
  main()
