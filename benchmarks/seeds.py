"""Seconds of training steps of several seeds: one by one, and together.

  python benchmarks/seeds.py GLUE_FOLDER VOCAB [--task=cola] [--size=tiny]
    [--seeds=5] [--batch_size=32] [--rounds=12] [--steps=5] [--cores=1]

The steps of fine-tuning, on packed rows of the task, with dropout, of fresh
models: of each seed as `seeds` alone trains it, and of all of them at once as
`seeds_together` does. First the losses of a few steps are compared, dropout
included. Then both ways take turns in one process, which begins at the other
one each round; the shapes of a round are compiled before its clock starts.
Prints the median, least and most over the rounds of the times of a step of all
seeds, CPU seconds beside wall seconds, and of the ratios within a round: how
many times faster together is.
"""

import argparse
import os
import pathlib
import statistics
import time
from collections.abc import Callable
from typing import Any

from peers import pin


def _parse() -> argparse.Namespace:
  parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
  parser.add_argument('glue', type=pathlib.Path)
  parser.add_argument('vocab', type=pathlib.Path)
  parser.add_argument('--task', default='cola')
  parser.add_argument('--size', default='tiny')
  parser.add_argument('--seeds', type=int, default=5)
  parser.add_argument('--batch_size', type=int, default=32)
  parser.add_argument('--rounds', type=int, default=12)
  parser.add_argument('--steps', type=int, default=5)
  parser.add_argument('--cores', type=int, default=1)
  return parser.parse_args()


def main() -> None:
  """Compares the two ways and prints what came out."""
  given = _parse()
  pin(given.cores)
  import jax
  import jax.numpy as jnp
  import numpy as np

  from shared_bert import compilation_cache, recipes, task_data
  from shared_bert import config as config_lib
  from shared_bert.data.packed_batches import PackedRows
  from shared_bert.data.stacked_batches import StackedRows
  from shared_bert.data.tokenizer import Tokenizer
  from shared_bert.model import parameters
  from shared_bert.task_model import TaskModel
  from shared_bert.training import mesh as mesh_lib
  from shared_bert.training import optimizer as optimizer_lib
  from shared_bert.training.step import init_state, make_train_step, of_seed

  # Seeds that are trained one by one share what the first one compiled.
  compilation_cache.keep_programs()
  config = config_lib.glue_config(f'size={given.size}', given.task)
  config.data.source, config.data.glue_dir = 'local', str(given.glue)
  config = recipes.fill_in(config)
  tokenizer = Tokenizer.load(given.vocab)
  data = task_data.encode(
    task_data.load_task(config.data), tokenizer, config.data.seq_len
  )
  mesh = mesh_lib.make_mesh()
  model = TaskModel(
    config_lib.model_config(
      config, tokenizer.vocab_size, jax.default_backend()
    ),
    data,
    config,
    mesh,
  )
  optimizer = optimizer_lib.of_config(config.train)
  seeds = tuple(range(given.seeds))

  def rows_of(seed: int) -> PackedRows:
    return PackedRows(
      data.arrays['train'],
      given.batch_size,
      seed,
      buckets=config.data.length_buckets,
    )

  def initial(key: jax.Array) -> Any:
    return parameters.initialise(model.make, key)

  class Way:
    """A step of one seed, or of several at once, and what it is at."""

    def __init__(self, seed: int | tuple[int, ...]):
      several = not isinstance(seed, int)
      if isinstance(seed, int):
        self.rows, make = rows_of(seed), lambda: initial(jax.random.key(seed))
      else:
        self.rows = StackedRows(rows_of, seed)
        keys = jnp.stack([jax.random.key(one) for one in seed])
        make = lambda: jax.vmap(initial)(keys)  # noqa: E731
      self.state = init_state(
        make,
        optimizer,
        model.metric_names,
        mesh,
        seeds=len(seed) if several else None,
      )
      self.several, self.compiled, self.sums = several, set(), {}
      self.step = make_train_step(
        model.loss_sums, optimizer, mesh, seed=seed, log_every=1
      )

    def ready(self, first: int, count: int) -> list[dict]:
      """The batches of some steps; their shapes are compiled."""
      batches = [
        mesh_lib.place_batch(mesh, self.rows(first + n), self.several)
        for n in range(count)
      ]
      for batch in batches:
        if (shape := batch['input_ids'].shape) not in self.compiled:
          self.compiled.add(shape)
          state = jax.tree.map(jnp.copy, self.state)
          self.step(state, batch, 0.0)
      jax.block_until_ready((batches, self.state))
      return batches

    def take(self, batches: list[dict]) -> None:
      for batch in batches:
        self.state, self.sums = self.step(self.state, batch, 1e-4)
      jax.block_until_ready(self.state)

  alone, together = [Way(seed) for seed in seeds], Way(seeds)
  ways: dict[str, list[Way]] = {'one by one': alone, 'together': [together]}

  def turn(name: str, first: int) -> list[float]:
    ready: list[tuple[Callable[[list[dict]], None], list[dict]]] = [
      (way.take, way.ready(first, given.steps)) for way in ways[name]
    ]
    wall, cpu = time.perf_counter(), time.process_time()
    for take, batches in ready:
      take(batches)
    return [
      1e3 * (time.perf_counter() - wall) / given.steps,
      1e3 * (time.process_time() - cpu) / given.steps,
    ]

  for name in ways:
    turn(name, 0)
  for seed, way in zip(seeds, alone, strict=True):
    ours, theirs = together.sums[of_seed(seed, 'loss')], way.sums['loss']
    np.testing.assert_allclose(ours[0], theirs[0], rtol=1e-5)

  times: dict[str, list[list[float]]] = {name: [] for name in ways}
  for number in range(1, given.rounds + 1):
    for name in ways if number % 2 else reversed(ways):
      times[name].append(turn(name, number * given.steps))
  shapes = ', '.join(
    'x'.join(map(str, shape)) for shape in sorted(together.compiled)
  )
  print(
    f'{given.task}, {given.size}, {given.seeds} seeds of {given.batch_size} '
    f'examples, {shapes}; load {os.getloadavg()[0]:.1f}'
  )
  for kind, of in enumerate(('wall', 'CPU')):
    columns = {name: [t[kind] for t in times[name]] for name in ways}
    columns['ratio'] = [a / b for a, b in zip(*columns.values(), strict=True)]
    for name, values in columns.items():
      print(
        f'{of:5}{name:12}{statistics.median(values):8.2f} '
        f'({min(values):.2f} to {max(values):.2f})'
      )


if __name__ == '__main__':
  main()
