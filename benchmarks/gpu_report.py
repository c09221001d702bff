"""What `gpu.py` has found so far, and the minutes that it has left."""

import dataclasses
import json
import os
import pathlib
import shutil
import subprocess
import threading
import time
from collections.abc import Callable
from typing import Any

import machine
from contest import Contestant, compete, summarise

_PACKAGES = (
  'jax',
  'jaxlib',
  'flax',
  'optax',
  'orbax-checkpoint',
  'numpy',
  'torch',
  'transformers',
)
_CLOCKS = (
  'name,driver_version,clocks.sm,clocks.max.sm,clocks.mem,power.limit,'
  'temperature.gpu,utilization.gpu'
)


@dataclasses.dataclass(frozen=True)
class Scale:
  """How large everything is.

  Attributes:
    dtype: of the arithmetic.
    tolerance: of attention, as a share of the largest value.
    loss_tolerance: of losses.
    product: a side of the matrices of a product.
    copied: numbers that a copy has.
    tokens: places in the rows of a step.
    heads, head_size: of attention alone.
    lengths: S of attention alone.
    packed_size, packed_length: the model and S of packed beside padded rows.
    vocab_size: V.
    rounds: turns of each contestant, after one to warm up.
    short_turn, turn: seconds of a turn, of a kernel and of a step.
  """

  dtype: str = 'bfloat16'
  tolerance: float = 2e-2
  loss_tolerance: float = 1e-2
  product: int = 8192
  copied: int = 2**30
  tokens: int = 32_768
  heads: int = 12
  head_size: int = 64
  lengths: tuple[int, ...] = (128, 512)
  packed_size: str = 'base'
  packed_length: int = 512
  vocab_size: int = 30_522
  rounds: int = 7
  short_turn: float = 0.1
  turn: float = 1.0


REDUCED = Scale(
  dtype='float32',
  tolerance=1e-4,
  loss_tolerance=1e-4,
  product=64,
  copied=2**12,
  tokens=128,
  heads=2,
  head_size=16,
  lengths=(32,),
  packed_size='tiny',
  packed_length=32,
  vocab_size=60,
  rounds=2,
  short_turn=1e-3,
  turn=1e-3,
)


class Clock:
  """The minutes of a run, and how many of them a section may be at."""

  def __init__(self, minutes: float):
    self._start, self.seconds = time.monotonic(), 60 * minutes
    self._until = self.seconds

  def passed(self) -> float:
    """Seconds since the start."""
    return time.monotonic() - self._start

  def give_until(self, share: float) -> None:
    """Lets what comes next begin things until this share of the time."""
    self._until = share * self.seconds

  def is_up(self) -> bool:
    """Whether nothing more may be begun."""
    return self.passed() > self._until


class Report:
  """Findings by section and case, written anew with each of them."""

  def __init__(self, output: pathlib.Path, clock: Clock, facts: dict[str, Any]):
    self._output, self._clock = output, clock
    self._told: dict[str, Any] = facts | {
      'sections': {},
      'left_out': [],
      'doing': 'starting',
    }
    # The watchdog writes as well, from a thread of its own.
    self._lock = threading.Lock()

  def fact(self, name: str, what: Any) -> None:
    """Notes what is true of the whole run."""
    with self._lock:
      self._told[name] = what

  def begin(self, what: str) -> bool:
    """Whether there is time for something, which is told where there is none.

    Args:
      what: is to be done.
    """
    with self._lock:
      if self._clock.is_up():
        self._told['left_out'].append(what)
      else:
        self._told['doing'] = what
        print(f'{self._clock.passed():6.1f} s: {what}', flush=True)
        return True
    return False

  def add(self, section: str, case: str, found: dict[str, Any]) -> None:
    """Takes what was found of a case, and writes all there is."""
    with self._lock:
      self._told['sections'].setdefault(section, {})[case] = found
    self.write()

  def finish(self, in_time: bool) -> None:
    """Writes and prints all there is; to be called once."""
    with self._lock:
      doing = self._told.pop('doing', None)
      if not in_time and doing:
        self._told['left_out'].append(f'{doing}, begun and not finished')
      self._told['seconds'] = self._clock.passed()
    print(self.write(), flush=True)

  def write(self) -> str:
    """Writes OUTPUT.json and OUTPUT.md; returns the latter."""
    with self._lock:
      text, page = json.dumps(self._told, indent=2), markdown(self._told)
      for path, content in (
        (self._output, text + '\n'),
        (self._output.with_suffix('.md'), page),
      ):
        # Whole or not at all, whenever the machine ends the process.
        new = path.with_name(path.name + '.new')
        new.write_text(content)
        new.replace(path)
    return page


def watch(report: Report, clock: Clock) -> threading.Timer:
  """Ends the process when its time is up, with all that was found by then.

  A compilation cannot be stopped in another way.

  Args:
    report: written then.
    clock: of the run.

  Returns:
    What is to be cancelled by those who finish earlier.
  """

  def end() -> None:
    report.finish(in_time=False)
    os._exit(0)

  timer = threading.Timer(clock.seconds - clock.passed(), end)
  timer.daemon = True
  timer.start()
  return timer


def facts() -> dict[str, Any]:
  """The machine, versions, and what nvidia-smi says where there is one."""
  return machine.facts(_PACKAGES) | {'clocks_before': clocks()}


def clocks() -> dict[str, str] | None:
  """Clocks, limits and load of the first GPU, or None."""
  if not shutil.which('nvidia-smi'):
    return None
  ask = ['nvidia-smi', f'--query-gpu={_CLOCKS}', '--format=csv,noheader']
  answer = subprocess.run(ask, capture_output=True, text=True, check=False)
  values = answer.stdout.partition('\n')[0].split(', ')
  return dict(zip(_CLOCKS.split(','), values, strict=False))


def first_line(error: Exception) -> str:
  """An error in one line."""
  lines = str(error).strip().splitlines() or ['']
  return f'{type(error).__name__}: {lines[0][:300]}'


def tried(make: Callable[[], Any], name: str, errors: dict[str, str]) -> Any:
  """What `make` returns, or None with its error told in `errors`."""
  try:
    return make()
  except Exception as error:  # of any backend, compiler or library
    errors[name] = first_line(error)
    print(f'{name} failed: {errors[name]}', flush=True)
    return None


def timed(
  contestants: dict[str, Contestant],
  rounds: int,
  turn_seconds: float,
  pairs: list[tuple[str, str]] | None = None,
) -> dict[str, Any]:
  """Turns of all after one to warm up, and what they come to.

  Args:
    contestants: by name, compiled.
    rounds: that count.
    turn_seconds: of the slowest.
    pairs: who is compared; by default as `contest.pairs_of` has it.

  Returns:
    As `contest.summarise`, with `steps` of a turn and the `loads` of rounds.
  """
  if not contestants:
    return {'seconds': {}, 'ratios': [], 'steps': 0, 'loads': []}
  seconds, steps, loads = compete(contestants, rounds + 1, turn_seconds)
  seconds = {name: turns[1:] for name, turns in seconds.items()}
  loads = loads[1:]
  return {'steps': steps, 'loads': loads} | summarise(
    seconds, loads, os.cpu_count() or 1, pairs
  )


def agreed(
  parity: list[dict[str, Any]], name: str, difference: float, allowed: float
) -> bool:
  """Notes a difference; whether it is small enough to be timed."""
  # Not `>`: NaN is no parity.
  held = bool(difference <= allowed)
  parity.append(
    {
      'of': name,
      'difference': difference if difference < float('inf') else None,
      'allowed': allowed,
      'held': held,
    }
  )
  return held


def _number(value: float | None, form: str) -> str:
  return '' if value is None else format(value, form)


def markdown(told: dict[str, Any]) -> str:
  """What was measured, as a page."""
  versions = ', '.join(
    f'{name} {version}' for name, version in told['versions'].items() if version
  )
  lines = [
    f'{told.get("device", "no device yet")}, {told["date"]}, Python '
    f'{told["python"]}, {versions}.',
    '',
    f'Clocks before: {told["clocks_before"]}; after: '
    f'{told.get("clocks_after")}.',
  ]
  for section, cases in told['sections'].items():
    lines += [
      '',
      f'## {section}',
      '',
      '| | | ms | least to most | real tokens/s | TFLOP/s | of product | '
      'of peak | GB/s | GiB |',
      '|---|---|---:|---:|---:|---:|---:|---:|---:|---:|',
    ]
    for case, found in cases.items():
      for name, clock in found['seconds'].items():
        wall, rates = clock['wall'], found['rates'].get(name, {})
        lines.append(
          f'| {case} | {name} | {wall["median"] * 1e3:,.3f} | '
          f'{wall["least"] * 1e3:,.3f} to {wall["most"] * 1e3:,.3f} | '
          f'{_number(rates.get("tokens"), ",.0f")} | '
          f'{_number(rates.get("tflops"), ".1f")} | '
          f'{_number(rates.get("of_product"), ".2f")} | '
          f'{_number(rates.get("of_peak"), ".2f")} | '
          f'{_number(rates.get("gigabytes"), ",.0f")} | '
          f'{_number(rates.get("gib"), ".2f")} |'
        )
    rows = [
      (case, row) for case, found in cases.items() for row in found['ratios']
    ]
    if rows:
      lines += [
        '',
        '| | times faster | than | median | least to most |',
        '|---|---|---|---:|---:|',
      ]
    for case, row in rows:
      wall = row['wall']
      lines.append(
        f'| {case} | {row["second"]} | {row["first"]} | '
        f'{wall["median"]:.3f} | {wall["least"]:.3f} to {wall["most"]:.3f} |'
      )
    lines.append('')
    for case, found in cases.items():
      for row in found['parity']:
        kept = 'agrees' if row['held'] else 'DIFFERS, and was not timed'
        lines.append(
          f'- {case}: {row["of"]} {kept}: '
          f'{_number(row["difference"], ".1e") or "not finite"}, allowed '
          f'{row["allowed"]:.0e}.'
        )
      for name, error in found['errors'].items():
        lines.append(f'- {case}: {name} failed: {error}')
  left = told['left_out'] or ['nothing']
  lines += ['', f'Left out for time: {"; ".join(left)}.']
  return '\n'.join(lines) + '\n'
