"""Steps, tokens, schedule and hours of a run, before it is one."""

import dataclasses
from collections.abc import Callable

from shared_bert import config as config_lib
from shared_bert import run_plan
from shared_bert.errors import UserError
from shared_bert.model.flops import known_devices, peak_flops
from shared_bert.planning.subject import Subject
from shared_bert.training.phases import Course
from shared_bert.training.schedules import schedule_of_config

# What is assumed where nothing is said. Not a measurement.
ASSUMED_UTILISATION = 0.4
# Those whose hours are shown where no device is named.
_USUAL_DEVICES = ('L4', 'A100', 'H100', 'B200', 'TPU v4', 'TPU v5e', 'TPU v6')
_COLUMNS, _ROWS = 60, 4
_BARS = ' ▁▂▃▄▅▆▇█'


@dataclasses.dataclass(frozen=True)
class Speed:
  """How fast one device trains.

  Attributes:
    name: for the table.
    flops: FLOP/s that it keeps up.
  """

  name: str
  flops: float


def speeds(
  device: str | None, tflops: float | None, utilisation: float | None
) -> tuple[list[Speed], str]:
  """The speeds to plan for, and how they are meant.

  Args:
    device: a name of `flops.known_devices`, or None.
    tflops: TFLOP/s that one device was measured to keep up, or None.
    utilisation: share of its peak that a device keeps up; None to assume one.

  Returns:
    One speed, or some usual ones; and what they are.

  Raises:
    UserError: for values that cannot be, or that contradict each other.
  """
  if tflops is not None:
    for name, value in (('device', device), ('utilisation', utilisation)):
      if value is not None:
        raise UserError(
          f'--tflops={tflops:g} is what a device was measured to do, beside '
          f'which --{name}={value} says nothing: leave one of them out.'
        )
    if not 0 < tflops < float('inf'):
      raise UserError(f'--tflops={tflops:g} must be above 0 and finite.')
    return [Speed(f'{tflops:g} TFLOP/s', tflops * 1e12)], 'as --tflops says'
  share = ASSUMED_UTILISATION if utilisation is None else utilisation
  if not 0 < share <= 1:
    raise UserError(
      f'--utilisation={share:g} must be above 0 and at most 1: the share of '
      'the peak of the devices that training keeps up.'
    )
  names = _USUAL_DEVICES if device is None else (device,)
  found = []
  for name in names:
    peak = peak_flops(name) if name.strip() else None
    if peak is None:
      raise UserError(
        f'--device={name} is not known: use one of '
        f'{", ".join(known_devices())}; or give --tflops, what one device was '
        'measured to do.'
      )
    found.append(Speed(name, peak * share))
  meant = f'{share:g} of the bfloat16 peak'
  if utilisation is None:
    meant += ', an assumption (--utilisation)'
  return found, meant


@dataclasses.dataclass(frozen=True)
class Work:
  """What a run does, or does in its time.

  Attributes:
    steps: optimiser steps.
    tokens: places in the rows of all steps, padding among them.
    flops: of all steps.
  """

  steps: int
  tokens: int
  flops: float


def work(subject: Subject, course: Course) -> Work:
  """All of a course that counts steps."""
  steps, tokens, flops = 0, 0, 0.0
  for phase in course.phases():
    count = course.last_step(phase) - phase.first_step
    slots = count * phase.batch_size * phase.seq_len
    steps, tokens = steps + count, tokens + slots
    flops += slots * subject.train_flops(phase.seq_len)
  return Work(steps, tokens, flops)


def work_in_time(subject: Subject, course: Course, flops: float) -> Work:
  """What a course by the clock comes to.

  Args:
    subject: what is planned.
    course: that counts seconds.
    flops: FLOP/s of all devices together.
  """
  assert course.seconds is not None
  steps, tokens, done, start = 0, 0, 0.0, 0.0
  for part in course.parts:
    seconds, start = course.seconds * (part.until - start), part.until
    slots = part.batch_size * course.seq_lens[part.stage]
    a_step = slots * subject.train_flops(course.seq_lens[part.stage])
    count = int(seconds * flops / a_step)
    steps, tokens = steps + count, tokens + count * slots
    done += count * a_step
  return Work(steps, tokens, done)


def hours_lines(
  subject: Subject, devices: int, rates: list[Speed], meant: str
) -> list[str]:
  """How long the run takes, or how far it comes.

  Args:
    subject: with a course.
    devices: that share each step.
    rates: of one device.
    meant: what the rates are.
  """
  course = subject.course
  assert course is not None
  many = f'{devices:,} devices' if devices > 1 else '1 device'
  if course.steps is not None:
    all_of_it = work(subject, course)
    lines = [
      f'work        {all_of_it.tokens:,} tokens, {all_of_it.flops:.3e} FLOPs '
      'of training',
      f'hours       on {many}, at {meant}:',
    ]
    for rate in rates:
      hours = all_of_it.flops / (rate.flops * devices) / 3600
      days = f' ({hours / 24:,.1f} days)' if hours > 48 else ''
      lines.append(f'  {rate.name:24}{_hours(hours):>14}{days}')
  else:
    assert course.seconds is not None
    lines = [
      f'hours       {course.seconds / 3600:g} pay, on {many}, at {meant}, for:'
    ]
    for rate in rates:
      paid = work_in_time(subject, course, rate.flops * devices)
      epochs = ''
      if subject.num_rows and len(course.seq_lens) == 1:
        rows = paid.tokens / course.seq_lens[0]
        epochs = f', {rows / subject.num_rows:,.2f} epochs'
      lines.append(
        f'  {rate.name:24}{paid.steps:>14,} steps, {paid.tokens:,} tokens'
        + epochs
      )
  return [*lines, '  evaluations, saving and compiling are not counted']


def _hours(hours: float) -> str:
  return f'{hours:,.1f}' if hours >= 10 else f'{hours:.3g}'


def course_lines(subject: Subject) -> list[str]:
  """Steps, optimiser and a sketch of the learning rate.

  Args:
    subject: with a course.

  Raises:
    UserError: if the warm-up leaves nothing of the run.
  """
  course, config = subject.course, subject.config
  assert course is not None
  warmup = config_lib.warmup_of(config, course.steps)
  schedule = schedule_of_config(config.train, warmup)
  return [
    *run_plan.course_lines(course, subject.num_rows),
    run_plan.optimizer_line(config, course),
    *sketch(schedule, warmup, course),
  ]


def sketch(
  schedule: Callable[[float], float], warmup: float, course: Course
) -> list[str]:
  """The learning rate over the run, drawn.

  Args:
    schedule: share of the run that is done to learning rate.
    warmup: share of the run that the warm-up takes.
    course: whose parts are marked.
  """
  middles = [(column + 0.5) / _COLUMNS for column in range(_COLUMNS)]
  rates = [schedule(middle) for middle in middles]
  peak = schedule(warmup) or 1.0
  levels = [round(8 * _ROWS * rate / peak) for rate in rates]
  rows = []
  for row in reversed(range(_ROWS)):
    bars = (_BARS[min(8, max(0, level - 8 * row))] for level in levels)
    rows.append(''.join(bars).rstrip())
  axis = ['─'] * _COLUMNS
  for part in course.parts[:-1]:
    axis[min(_COLUMNS - 1, int(part.until * _COLUMNS))] = '┴'
  if warmup:
    axis[int(warmup * _COLUMNS)] = 'w'
  end = (
    f'{course.steps:,} steps'
    if course.steps is not None
    else f'{(course.seconds or 0) / 3600:g} hours'
  )
  marks = [f'w the warm-up ends, at {warmup:.1%}'] if warmup else []
  if len(course.parts) > 1:
    marks.append('┴ the next batch or length begins')
  lines = [f'{"rate":12}{rows[0]}', *(f'{"":12}{row}' for row in rows[1:])]
  lines.append(f'{"":12}{"".join(axis)} {end}')
  if marks:
    lines.append(f'{"":12}{"; ".join(marks)}')
  return [line.rstrip() for line in lines]
