"""Seconds of a training step of several pre-training runs, in turns.

  python benchmarks/step.py OUTPUT.json RUN [RUN ...] [--rounds=12] [--steps=8]

Runs at the same time on a machine that does other things too are no comparison
of speed. This builds the step of each RUN anew, by its `config.json`, with its
corpus and fresh parameters, in one process on one core, and lets them take
turns: in each round, which begins at another run each time, every run does a
few steps on rows of its corpus, waited for. What is slow for one is slow for
its neighbour.

First the losses of the first step are compared with what a run in which
nothing is learned yet must have: within a tenth of the logarithm of the
vocabulary's size. Prints and writes the median, least and most of the seconds
of a step over the rounds, the median of the ratios to the first RUN of the same
round, CPU seconds beside wall seconds, and the load of the machine.
"""

import argparse
import importlib.metadata
import json
import math
import os
import pathlib
import statistics
from typing import Any

# One core, as each of the runs had.
if hasattr(os, 'sched_setaffinity'):
  os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})

import jax
from finished_runs import open_run

from shared_bert.data import batches as batches_lib
from shared_bert.masked_model import arrays_of
from shared_bert.study.cost import Stepper, in_turns
from shared_bert.study.fresh_step import fresh_step
from shared_bert.training import mesh as mesh_lib

_WARM_UP = 3


def stepper(run: pathlib.Path) -> Stepper:
  """Builds a run's step, and compares its first loss with chance.

  Args:
    run: its workdir.
  """
  config, corpus, masked = open_run(run, heldout_rows=1)
  state, step = fresh_step(config, masked, mesh_lib.make_mesh())
  size, parts = config.train.batch_size, config.train.accumulation
  arrays = arrays_of(corpus.train, corpus.train_labels)
  rows = batches_lib.Rows(arrays, size, config.seed)

  def batch_of(number: int) -> Any:
    return masked.place(rows.examples(number * size, size))

  state, window = step(state, batch_of(0), 1e-5, parts)
  total, weight = jax.device_get(window['loss'])
  loss, chance = float(total / weight), math.log(corpus.tokenizer.vocab_size)
  if abs(loss - chance) > chance / 10:
    raise SystemExit(
      f'{run}: first loss {loss:.3f}, and chance is {chance:.3f}'
    )
  its = Stepper(state, step, lambda number: batch_of(number + 1), parts)
  its(_WARM_UP)
  return its


def main() -> None:
  """Measures, prints and writes."""
  parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
  parser.add_argument('output', type=pathlib.Path)
  parser.add_argument('runs', type=pathlib.Path, nargs='+')
  parser.add_argument('--rounds', type=int, default=12)
  parser.add_argument('--steps', type=int, default=8)
  arguments = parser.parse_args()
  packages = ('jax', 'jaxlib', 'optax', 'numpy')
  print(*(f'{name} {importlib.metadata.version(name)}' for name in packages))
  print(f'{jax.devices()[0].device_kind}, one core, load {os.getloadavg()}')
  steppers = {run.name: stepper(run) for run in arguments.runs}
  steps = dict.fromkeys(steppers, arguments.steps)
  times = in_turns(steppers, arguments.rounds, steps)
  table, (reference, *_) = {}, steppers
  for name, turns in times.items():
    cpus = [turn.cpu for turn in turns]
    ratios = [
      ours.cpu / first.cpu
      for ours, first in zip(turns, times[reference], strict=True)
    ]
    table[name] = {
      'wall': statistics.median(turn.wall for turn in turns),
      'cpu': statistics.median(cpus),
      'cpu_least': min(cpus),
      'cpu_most': max(cpus),
      'cpu_ratio': statistics.median(ratios),
      'cpu_ratio_least': min(ratios),
      'cpu_ratio_most': max(ratios),
    }
  load = os.getloadavg()
  print(f'{arguments.rounds} rounds of {arguments.steps} steps, load {load}')
  print(
    f'{"milliseconds a step":20}{"wall":>8}{"CPU":>8}{"least":>8}{"most":>8}'
  )
  for name, row in table.items():
    values = (row[k] * 1e3 for k in ('wall', 'cpu', 'cpu_least', 'cpu_most'))
    print(
      f'{name:20}'
      + ''.join(f'{value:8.1f}' for value in values)
      + f'   {row["cpu_ratio"]:.3f} times the CPU seconds of {reference} '
      f'({row["cpu_ratio_least"]:.3f}-{row["cpu_ratio_most"]:.3f})'
    )
  arguments.output.write_text(json.dumps(table, indent=2) + '\n')


if __name__ == '__main__':
  main()
