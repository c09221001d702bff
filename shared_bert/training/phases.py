"""What a run does when: its budget, stages of row length, growing batches.

All that changes during a run (which corpus, how many rows a step) is laid out
as shares of it, before anything is read: the `parts`. The budget, in steps or
in seconds, turns shares into steps. Where it counts steps, every phase is known
from the start; where it counts seconds, a phase begins when its time has come,
and its first step is kept with the checkpoint. Either way a phase knows its
first step and first example, so a batch is a pure function of its step.
"""

import dataclasses
import itertools
import math
import sys
from collections.abc import Sequence
from typing import Any

# Shares are sums of decimal fractions: 0.1 + 0.2 is not 0.3.
_ROUNDING = 1e-9


@dataclasses.dataclass(frozen=True)
class Part:
  """A share of a run in which nothing changes.

  Attributes:
    stage: number of the corpus that is read, from 0.
    until: share of the run, from 0 to 1, at which the part ends.
    batch_size: B, rows a step, over all devices.
    accumulation: micro-batches a step is cut into.
  """

  stage: int
  until: float
  batch_size: int
  accumulation: int


@dataclasses.dataclass(frozen=True)
class Phase(Part):
  """A part whose place in the run is known.

  Attributes:
    seq_len: S, tokens in a row.
    first_step: steps done before it.
    first_example: rows of its corpus that were read before it, in their
      endless shuffled order.
  """

  seq_len: int
  first_step: int
  first_example: int

  def example(self, step: int) -> int:
    """The first row that a step of the phase reads, in the shuffled order."""
    return self.first_example + (step - self.first_step) * self.batch_size


def lay_out(
  shares: Sequence[float],
  batch_sizes: Sequence[int],
  accumulations: Sequence[int],
  *,
  ramp_batch_size: int = 0,
  ramp_ratio: float = 0.0,
) -> tuple[Part, ...]:
  """The parts of a run.

  A ramp doubles the rows of a step from `ramp_batch_size` to the first stage's
  batch. Each size lasts as long as it is large, which follows a straight line
  through the ramp; each is a compilation, so there are few. Micro-batches are
  as large as after the ramp, or as near as the rows can be cut equally.

  Args:
    shares: of the stages, which add up to 1.
    batch_sizes: B of each stage.
    accumulations: micro-batches of each stage.
    ramp_batch_size: B of the first step; 0 for no ramp.
    ramp_ratio: share of the run by which the batch is grown.
  """
  ends = list(itertools.accumulate(shares))
  ends[-1] = 1.0
  parts = [
    Part(stage, end, size, cut)
    for stage, (end, size, cut) in enumerate(
      zip(ends, batch_sizes, accumulations, strict=True)
    )
  ]
  if not ramp_batch_size:
    return tuple(parts)
  full, cut = batch_sizes[0], accumulations[0]
  sizes = [ramp_batch_size]
  while 2 * sizes[-1] < full:
    sizes.append(2 * sizes[-1])
  ramp = [
    Part(0, ramp_ratio * done / sum(sizes), size, _cut(size, full // cut))
    for size, done in zip(sizes, itertools.accumulate(sizes), strict=True)
  ]
  return (*ramp, *parts)


def _cut(rows: int, micro_batch: int) -> int:
  """Into how many equal parts of at most `micro_batch` rows some are cut."""
  parts = math.ceil(rows / micro_batch)
  while rows % parts:
    parts += 1
  return parts


def _weighted(parts: Sequence[Part], values: Sequence[float]) -> float:
  """Mean of a value over the steps of a run."""
  starts = [0.0, *(part.until for part in parts)]
  return sum(
    (part.until - start) * value
    for part, start, value in zip(parts, starts, values, strict=False)
  )


@dataclasses.dataclass(frozen=True)
class Course:
  """A run from its first step to its last.

  Attributes:
    parts: in their order.
    seq_lens: S of each stage.
    steps: the budget in optimiser steps, or None.
    seconds: the budget in seconds of training, or None.
  """

  parts: tuple[Part, ...]
  seq_lens: tuple[int, ...]
  steps: int | None = None
  seconds: float | None = None

  @classmethod
  def of_tokens(
    cls, parts: tuple[Part, ...], seq_lens: tuple[int, ...], tokens: float
  ) -> 'Course':
    """As many steps as read some tokens, padding counted with them."""
    slots = [part.batch_size * seq_lens[part.stage] for part in parts]
    steps = max(1, round(tokens / _weighted(parts, slots)))
    return cls(parts, seq_lens, steps=steps)

  @classmethod
  def of_rows(
    cls, parts: tuple[Part, ...], seq_lens: tuple[int, ...], rows: float
  ) -> 'Course':
    """As many steps as read some rows."""
    sizes = [part.batch_size for part in parts]
    steps = max(1, round(rows / _weighted(parts, sizes)))
    return cls(parts, seq_lens, steps=steps)

  def shortened(self) -> 'Course':
    """One step of each part: what a dry run goes through."""
    count = len(self.parts)
    parts = tuple(
      dataclasses.replace(part, until=number / count)
      for number, part in enumerate(self.parts, 1)
    )
    return Course(parts, self.seq_lens, steps=count)

  def progress(self, step: int, seconds: float) -> float:
    """The share of the run that is done.

    Args:
      step: steps done.
      seconds: of training, spent.
    """
    if self.seconds is not None:
      return min(1.0, seconds / self.seconds)
    return min(1.0, step / self.steps) if self.steps else 1.0

  def borders(self) -> tuple[int, ...]:
    """The first step of each phase but the first, where steps are counted."""
    return tuple(self._end(part) for part in self.parts[:-1])

  def _end(self, part: Part) -> int:
    assert self.steps is not None
    return math.ceil((part.until - _ROUNDING) * self.steps)

  def phase(self, borders: Sequence[int]) -> Phase:
    """The phase that begins at the last of some borders.

    Args:
      borders: the first step of every phase begun, but the first's.
    """
    firsts = (0, *borders)
    example, stage = 0, 0
    for part, first, after in zip(self.parts, firsts, firsts[1:], strict=False):
      # A stage begins at the first row of its corpus.
      example = (example if part.stage == stage else 0) + (
        after - first
      ) * part.batch_size
      stage = part.stage
    part = self.parts[len(borders)]
    return Phase(
      **vars(part),
      seq_len=self.seq_lens[part.stage],
      first_step=firsts[-1],
      first_example=example if part.stage == stage else 0,
    )

  def phases(self) -> list[Phase]:
    """Every phase that has a step, where steps are counted."""
    borders = self.borders()
    phases = [self.phase(borders[:n]) for n in range(len(self.parts))]
    return [phase for phase in phases if phase.first_step < self._end(phase)]

  def last_step(self, phase: Phase) -> int:
    """The last step of a phase, counted from 1; no end if a clock decides."""
    return sys.maxsize if self.steps is None else self._end(phase)

  def slots_after(self, step: int) -> int:
    """Token positions of the steps still to do, where steps are counted."""
    assert self.steps is not None
    return sum(
      max(0, self._end(phase) - max(step, phase.first_step))
      * phase.batch_size
      * phase.seq_len
      for phase in self.phases()
    )


class Position:
  """Where a run stands on its course.

  Attributes:
    course: the course.
    step: steps done.
    seconds: of training, spent.
    phase: of the next step.
  """

  def __init__(
    self, course: Course, step: int = 0, kept: dict[str, Any] | None = None
  ):
    """At the start, or where a checkpoint was saved.

    Args:
      course: of the run.
      step: steps done.
      kept: what `kept` gave at that step.
    """
    kept = kept or {'seconds': 0.0, 'borders': []}
    self.course = course
    self.step = step
    self.seconds = kept['seconds']
    self._borders = list(kept['borders'])
    self.phase = course.phase(self._borders)

  @property
  def progress(self) -> float:
    """The share of the run that is done, from 0 to 1."""
    return self.course.progress(self.step, self.seconds)

  @property
  def is_over(self) -> bool:
    """Whether the budget is spent."""
    return self.progress >= 1

  def move(self, step: int, seconds: float) -> None:
    """Goes on to where some steps are done and some seconds spent."""
    self.step, self.seconds = step, seconds
    while not self.is_over and self.progress >= self.phase.until - _ROUNDING:
      self._borders.append(step)
      self.phase = self.course.phase(self._borders)

  def kept(self) -> dict[str, Any]:
    """What a checkpoint must keep to go on from here, as JSON types."""
    return {'seconds': self.seconds, 'borders': list(self._borders)}
