"""Turns of contestants, and what their seconds come to."""

import dataclasses
import math
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

# A load average counts this process too, and lags.
_LOAD_MARGIN = 0.5


@dataclasses.dataclass(frozen=True)
class Case:
  """What is done with rows of one shape.

  Attributes:
    kind: `forward`, `train` or `finetune`.
    rows: B; of `finetune` examples.
    seq_len: S, all of them real tokens; of `finetune` the most there are.
  """

  kind: str
  rows: int
  seq_len: int

  def __str__(self) -> str:
    return f'{self.kind} {self.rows} x {self.seq_len}'

  @property
  def counted(self) -> str:
    """What a step has a number of."""
    return 'examples' if self.kind == 'finetune' else 'real tokens'

  @property
  def count(self) -> int:
    """How many a step has."""
    return self.rows * (1 if self.kind == 'finetune' else self.seq_len)


@dataclasses.dataclass(frozen=True)
class Contestant:
  """One way to do a case.

  Attributes:
    step: does it once and waits; returns logits [B, C], or the loss.
    cpu_seconds: CPU seconds so far of the process that does it.
    wait: for what the last step of a turn returned, where `step` itself does
      not wait, so that an accelerator always has the next one to do.
  """

  step: Callable[[], Any]
  cpu_seconds: Callable[[], float] = time.process_time
  wait: Callable[[Any], Any] = lambda done: done

  def take(self, steps: int) -> tuple[float, float]:
    """Does some steps; returns wall and CPU seconds of one."""
    wall, cpu = time.perf_counter(), self.cpu_seconds()
    done = None
    for _ in range(steps):
      done = self.step()
    self.wait(done)
    taken = time.perf_counter() - wall, self.cpu_seconds() - cpu
    return taken[0] / steps, taken[1] / steps


Rounds = dict[str, list[tuple[float, float]]]


def cases_of(names: list[str], seq_len: int, batch_size: int) -> list[Case]:
  """The cases by their names.

  Args:
    names: of cases.
    seq_len: S.
    batch_size: B of `finetune`.
  """
  shapes = {
    'forward': [('forward', 1, seq_len), ('forward', 8, seq_len)],
    'long': [('forward', 2, 4 * seq_len)],
    'train': [('train', 4, seq_len)],
    'finetune': [('finetune', batch_size, seq_len)],
  }
  unknown = [name for name in names if name not in shapes]
  if unknown:
    raise SystemExit(
      f'--cases={unknown[0]} is not known: use some of {", ".join(shapes)}.'
    )
  return [Case(*shape) for name in names for shape in shapes[name]]


def compete(
  contestants: dict[str, Contestant], rounds: int, turn_seconds: float
) -> tuple[Rounds, int, list[float]]:
  """Lets all take turns.

  Args:
    contestants: by name, each warmed up.
    rounds: how many turns each takes.
    turn_seconds: that the turn of the slowest is to last, at least.

  Returns:
    Wall and CPU seconds of a step by name and round, the steps of a turn, and
    the load average of the last minute before each round.
  """
  slowest = max(each.take(1)[0] for each in contestants.values())
  steps = math.ceil(turn_seconds / slowest)
  seconds: Rounds = {name: [] for name in contestants}
  loads = []
  for _ in range(rounds):
    loads.append(os.getloadavg()[0])
    for name, contestant in contestants.items():
      seconds[name].append(contestant.take(steps))
  return seconds, steps, loads


def spread(values: list[float]) -> dict[str, float]:
  """Median, least and most."""
  return {
    'median': statistics.median(values),
    'least': min(values),
    'most': max(values),
  }


def pairs_of(names: list[str]) -> list[tuple[str, str]]:
  """Who is compared: each of ours with each peer and with our slower ones."""
  ours = [name for name in names if name.startswith(('standard', 'shared'))]
  peers = [name for name in names if name not in ours]
  pairs = [(peer, our) for our in ours for peer in peers]
  return pairs + [(a, b) for i, a in enumerate(ours) for b in ours[i + 1 :]]


def summarise(
  seconds: Rounds,
  loads: list[float],
  cpus: int,
  pairs: list[tuple[str, str]] | None = None,
) -> dict[str, Any]:
  """Seconds and ratios of a case.

  Args:
    seconds: wall and CPU, by name and round.
    loads: before each round.
    cpus: of the machine.
    pairs: who is compared with whom; by default as `pairs_of` has it.

  Returns:
    `quiet`, the numbers of the rounds on a machine with a core to spare;
    `seconds` of these rounds, or of all if none is, by name and clock; and
    `ratios` of the two of a pair, the first's seconds to the second's.
  """
  quiet = [n for n, load in enumerate(loads) if load <= cpus + _LOAD_MARGIN]
  taken = quiet or range(len(loads))
  clocks = {'wall': 0, 'cpu': 1}

  def of(name: str, clock: str) -> list[float]:
    return [seconds[name][n][clocks[clock]] for n in taken]

  def ratio(first: str, second: str, clock: str) -> dict[str, float]:
    both = zip(of(first, clock), of(second, clock), strict=True)
    return spread([a / b for a, b in both])

  return {
    'quiet': quiet,
    'seconds': {n: {c: spread(of(n, c)) for c in clocks} for n in seconds},
    'ratios': [
      {'first': a, 'second': b} | {c: ratio(a, b, c) for c in clocks}
      for a, b in (pairs_of(list(seconds)) if pairs is None else pairs)
    ],
  }


def markdown(told: dict[str, Any]) -> str:
  """What was measured, as a page."""
  versions = ', '.join(f'{k} {v}' for k, v in told['versions'].items())
  load = '; '.join(
    f'{told[f"load_{t}"][0]:.1f} {t}' for t in ('before', 'after')
  )
  lines = [
    f'BERT-{told["size"]}, float32, {told["cores"]} of {told["cpus"]} cores of '
    f'{told["processor"]}, {told["date"]}. {versions}. Load {load}.',
  ]
  for name, case in told['cases'].items():
    rounds, quiet = len(case['loads']), len(case['quiet'])
    kept = f'{quiet} of them quiet' if quiet else 'none of them quiet'
    worst = max(row['difference'] for row in case['parity'])
    shares = ', '.join(
      f'{who} {share:.1%}' for who, share in case['padding'].items()
    )
    padding = f' Padding: {shares}.' if shares else ''
    lines += [
      '',
      f'## {name}',
      '',
      f'{rounds} rounds, {kept}, turns of {case["steps"]} steps; outputs agree '
      f'to {worst:.0e}.{padding}',
      '',
      f'| milliseconds a step | wall | CPU | {case["counted"]} a second |',
      '|---|---:|---:|---:|',
    ]
    for who, clocks in case['seconds'].items():
      wall, cpu = clocks['wall']['median'], clocks['cpu']['median']
      rate = case['count'] / wall
      lines.append(
        f'| {who} | {wall * 1e3:,.1f} | {cpu * 1e3:,.1f} | {rate:,.0f} |'
      )
    lines += [
      '',
      '| times faster | than | wall | least to most | CPU | least to most |',
      '|---|---|---:|---:|---:|---:|',
    ]
    for row in case['ratios']:
      cells = []
      for found in (row['wall'], row['cpu']):
        cells += [
          f'{found["median"]:.2f}',
          f'{found["least"]:.2f} to {found["most"]:.2f}',
        ]
      lines.append(
        f'| {row["second"]} | {row["first"]} | {" | ".join(cells)} |'
      )
  return '\n'.join(lines) + '\n'
