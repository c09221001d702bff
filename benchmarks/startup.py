"""How long a start takes: compiling a training step, or reading it.

  python benchmarks/startup.py OUTPUT.json [--size=base] [--rounds=3]

Every turn is a process of its own that keeps compiled programs as the commands
do: first in a folder that is empty (cold), then from it (warm), and then help
and a refused config of `shared_bert.main`. Rounds follow one another; printed
and written to OUTPUT.json and OUTPUT.md are medians over rounds, with the least
and the most, of wall seconds and of all threads' CPU seconds:

  import    of JAX and shared_bert
  state     the first parameters and moments, compiled or read, and made
  trace     from Python to what XLA compiles, of the training step
  compile   of the training step by XLA, or reading it
  step      the first step, for which JAX looks the program up once more

On a machine that does other things too, read the CPU's; the load is reported.
The step is that of pre-training on random tokens, on one device.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Any

import machine

_PACKAGES = ('jax', 'jaxlib', 'flax', 'optax', 'numpy')
_STAGES = ('import', 'state', 'trace', 'compile', 'step')
_MAIN = ('-m', 'shared_bert.main')
_COMMANDS = {
  '--help': (*_MAIN, '--help'),
  'a wrong value': (
    *_MAIN,
    '--config=configs/pretrain.py:size=tiny',
    '--config.data.source=toy',
    '--config.train.schedule=linea',
  ),
}
_ROOT = pathlib.Path(__file__).parents[1]


class _Clock:
  """Wall and CPU seconds between the calls."""

  def __init__(self):
    self.stages: dict[str, tuple[float, float]] = {}
    self._last = time.perf_counter(), time.process_time()

  def stop(self, stage: str) -> None:
    """Ends a stage, and begins the next."""
    now = time.perf_counter(), time.process_time()
    self.stages[stage] = now[0] - self._last[0], now[1] - self._last[1]
    self._last = now


def start(given: argparse.Namespace) -> dict[str, Any]:
  """Starts as a run does, up to the first step; in a process of its own.

  Args:
    given: of the command.

  Returns:
    Seconds, wall and CPU, by stage; how many bytes are kept; the loss, as bits.
  """
  clock = _Clock()
  import jax
  from profile_step import build

  from shared_bert import compilation_cache
  from shared_bert.study.fresh_step import fresh_step

  clock.stop('import')
  compilation_cache.keep_programs()
  given.attention, given.model = 'shared', []
  config, _, masked, mesh, batch = build(given, dropout=0.1)
  state, step = jax.block_until_ready(fresh_step(config, masked, mesh))
  clock.stop('state')
  lowered = step.lower(state, batch)
  clock.stop('trace')
  lowered.compile()
  clock.stop('compile')
  _, sums = jax.block_until_ready(step(state, batch, 1e-4))
  clock.stop('step')
  return {'stages': clock.stages, 'loss': float(sums['loss'][0]).hex()}


def _run(*argv: str, **environment: str) -> tuple[str, float, float]:
  """Runs Python; returns its stdout, and wall and CPU seconds."""
  before, started = os.times(), time.perf_counter()
  done = subprocess.run(
    [sys.executable, *argv],
    cwd=_ROOT,
    env=os.environ | environment,
    capture_output=True,
    text=True,
    check=False,
  )
  wall, after = time.perf_counter() - started, os.times()
  cpu = sum(after[2:4]) - sum(before[2:4])
  return done.stdout, wall, cpu


def _round(argv: list[str]) -> dict[str, Any]:
  """A turn of each."""
  turns: dict[str, Any] = {'load': os.getloadavg()[0]}
  with tempfile.TemporaryDirectory() as folder:
    for turn in ('cold', 'warm'):
      said, *_ = _run(__file__, *argv, '--turn', XDG_CACHE_HOME=folder)
      turns[turn] = json.loads(said.splitlines()[-1])
    turns['bytes'] = sum(
      path.stat().st_size for path in pathlib.Path(folder).rglob('*-cache')
    )
  if turns['cold']['loss'] != turns['warm']['loss']:
    raise SystemExit('a kept program computes another loss than a new one.')
  for name, command in _COMMANDS.items():
    turns[name] = _run(*command)[1:]
  return turns


def _spread(values: list[float]) -> str:
  middle = statistics.median(values)
  return f'{middle:.2f} ({min(values):.2f} to {max(values):.2f})'


def markdown(told: dict[str, Any]) -> str:
  """The tables.

  Args:
    told: what is written as JSON.
  """
  rounds = told['rounds']
  versions = ', '.join(f'{k} {v}' for k, v in told['versions'].items())
  loads = [one['load'] for one in rounds]
  lines = [
    f'{told["processor"]}, {told["cpus"]} CPUs, {told["platform"]}; {versions};'
    f' {told["date"]}; {told["size"]}, {told["rows"]} rows of '
    f'{told["seq_len"]}; {len(rounds)} rounds, load '
    f'{min(loads):.1f} to {max(loads):.1f}; '
    f'{rounds[0]["bytes"] / 1e6:.1f} MB kept.',
    '',
    '| seconds | cold, wall | cold, CPU | warm, wall | warm, CPU |',
    '|---|---|---|---|---|',
  ]
  for stage in (*_STAGES, 'all'):
    cells = []
    for turn in ('cold', 'warm'):
      for kind in (0, 1):
        seconds = [
          sum(v[kind] for v in one[turn]['stages'].values())
          if stage == 'all'
          else one[turn]['stages'][stage][kind]
          for one in rounds
        ]
        cells.append(_spread(seconds))
    lines.append(f'| {stage} | {" | ".join(cells)} |')
  lines += ['', '| `shared_bert.main` with | wall | CPU |', '|---|---|---|']
  for name in _COMMANDS:
    cells = [_spread([one[name][kind] for one in rounds]) for kind in (0, 1)]
    lines.append(f'| {name} | {" | ".join(cells)} |')
  return '\n'.join(lines) + '\n'


def main() -> None:
  """Measures, prints and writes."""
  parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
  parser.add_argument('output', type=pathlib.Path)
  parser.add_argument('--size', default='base')
  parser.add_argument('--rows', type=int, default=8)
  parser.add_argument('--seq_len', type=int, default=128)
  parser.add_argument('--rounds', type=int, default=3)
  parser.add_argument('--turn', action='store_true', help=argparse.SUPPRESS)
  given = parser.parse_args()
  if given.turn:
    print(json.dumps(start(given)))
    return
  # Nothing that a user has set of where and what to keep.
  for name in [n for n in os.environ if n.startswith('JAX_')]:
    if 'CACHE' in name:
      del os.environ[name]
  told: dict[str, Any] = machine.facts(_PACKAGES) | {
    'size': given.size,
    'rows': given.rows,
    'seq_len': given.seq_len,
    'rounds': [_round(sys.argv[1:]) for _ in range(given.rounds)],
  }
  page = markdown(told)
  machine.finish(given.output, told, page)


if __name__ == '__main__':
  main()
