"""The one loop: batches in, steps out, logged, evaluated and kept."""

import contextlib
import dataclasses
import math
import pathlib
import signal
import time
from collections.abc import Callable, Generator
from typing import Any

import jax

from shared_bert.errors import Diverged, Preempted
from shared_bert.model.inspection import diagonals
from shared_bert.training import processes, stopping
from shared_bert.training.checkpoint import Checkpoints
from shared_bert.training.evaluation import Evaluation
from shared_bert.training.logging import MetricLog, Progress, duration, say
from shared_bert.training.meter import Meter
from shared_bert.training.phases import Course, Phase, Position
from shared_bert.training.step import Sums, TrainState

# (phase, steps done, last step) to a generator of the batches of these steps,
# already on the devices; it is closed where a clock ends the phase before.
Batches = Callable[[Phase, int, int], Generator[Any, None, None]]


@dataclasses.dataclass
class LoopSettings:
  """When the loop does what; all in optimiser steps, 0 for never.

  Attributes:
    name: what the progress line starts with.
    course: of the run.
    log_every: steps between lines of metrics.
    evaluate_every: steps between evaluations; the last step always has one.
    checkpoint_every: steps between checkpoints; evaluations and the last
      step always have one.
    patience: evaluations without a new best after which training stops.
    max_rewinds: batches that a run that skips them may skip.
    profile: first and last step to trace, counted from 1, or None.
  """

  name: str
  course: Course
  log_every: int
  evaluate_every: int
  checkpoint_every: int
  patience: int = 0
  max_rewinds: int = 0
  profile: tuple[int, int] | None = None


def _means(sums: Sums) -> dict[str, float]:
  return {
    name: float(total) / max(float(weight), 1e-9)
    for name, (total, weight) in jax.device_get(sums).items()
  }


def _batches(
  batches: Batches, position: Position
) -> Generator[tuple[int, Phase, Any], None, None]:
  """Step, counted from 1, phase and batch, until the run is over.

  Args:
    batches: of a phase.
    position: moved by the reader after each step.
  """
  while not position.is_over:
    phase, last = position.phase, position.course.last_step(position.phase)
    with contextlib.closing(batches(phase, position.step, last)) as coming:
      for batch in coming:
        yield position.step + 1, phase, batch
        if position.is_over or position.phase is not phase:
          break


class _Trace:
  """Writes a profile of some steps, for xprof or TensorBoard's plugin."""

  def __init__(self, steps: tuple[int, int] | None, folder: pathlib.Path):
    # Processes on one host would write over each other's.
    self._first, self._last = (processes.is_first() and steps) or (0, 0)
    self._folder = folder
    self._open = False

  def before(self, step: int) -> None:
    """To be called before a step is started."""
    if step == self._first:
      jax.profiler.start_trace(self._folder)
      self._open = True

  def after(self, step: int, sums: Sums) -> None:
    """To be called once it is under way."""
    if self._open and step >= self._last:
      jax.block_until_ready(sums)
      self.close()

  def close(self) -> None:
    """Writes what was traced, also of a run that ends early."""
    if self._open:
      jax.profiler.stop_trace()
      self._open = False
      say(f'  profile of steps {self._first} to {self._last}: {self._folder}')


class _StopSignals:
  """Turns the first SIGTERM or SIGINT into a wish; the second acts at once."""

  def __init__(self):
    self.asked = None
    self._before = {}

  def _ask(self, number, frame):
    del frame
    self.asked = signal.Signals(number).name
    if stopping.is_one_wish():
      # There is no second one, also after this training.
      stopping.ask(self.asked)
    else:
      self._restore()

  def _restore(self):
    for number, handler in self._before.items():
      signal.signal(number, handler)
    self._before = {}

  def __enter__(self):
    for number in (signal.SIGTERM, signal.SIGINT):
      if signal.getsignal(number) is signal.SIG_IGN:
        continue  # as in the background of a script: it stays so
      try:
        self._before[number] = signal.signal(number, self._ask)
      except ValueError:  # not the main thread, as in a notebook's executor
        break
    # Asked before, where the exception for it was dropped.
    self.asked = self.asked or stopping.asked_to_stop()
    return self

  def __exit__(self, *_):
    self._restore()


def train(
  settings: LoopSettings,
  state: TrainState,
  train_step: Callable[[TrainState, Any, float, int], tuple[TrainState, Sums]],
  batches: Batches,
  *,
  position: Position,
  evaluate: Callable[[Any, Phase], Evaluation],
  evaluate_start: Callable[[Any, Phase], Evaluation] | None,
  attention_entropy: Callable[[Any], dict[str, float]],
  learning_rate: Callable[[float], float],
  flops_per_token: Callable[[int], float],
  peak_flops: float | None,
  derived: Callable[[dict[str, float]], dict[str, float]],
  checkpoints: Checkpoints,
  metadata: dict,
  files: dict[str, bytes],
  log: MetricLog,
  workdir: pathlib.Path,
  best_metric: str | None = None,
  seconds: float = 0.0,
) -> tuple[TrainState, dict[str, dict[str, float]], float]:
  """Trains until the budget is spent, saving as it goes.

  Args:
    settings: when to do what.
    state: to go on from; given away.
    train_step: from `make_train_step`.
    batches: of a phase.
    position: where the run stands; moved.
    evaluate: parameters and phase to metrics by split and pictures.
    evaluate_start: the same before the first step, or None.
    attention_entropy: parameters to what is seen of their attention, by name.
    learning_rate: of the share of the run that is done.
    flops_per_token: of a training step, by the length of its rows.
    peak_flops: FLOP/s of all devices together, or None if not known.
    derived: means of the training metrics to what else follows from them.
    checkpoints: where states are kept.
    metadata: kept with each checkpoint.
    files: kept with each checkpoint, by name.
    log: of the metrics.
    workdir: named in messages.
    best_metric: `split/name` that chooses the best checkpoint.
    seconds: spent on this state so far, all that was done counted.

  Returns:
    The last state, the metrics of the last evaluation by split, and the
    seconds in all.

  Raises:
    Diverged: if loss or gradient stop being finite.
    Preempted: after a signal, once the state is saved.
  """
  course, start = settings.course, position.step
  started = time.monotonic() - seconds
  meter = Meter(position.seconds, peak_flops)
  progress = Progress(settings.name, course.steps)
  trace = _Trace(settings.profile, workdir)
  evaluation: Evaluation | None = None

  def show(values: dict[str, float] | None = None) -> None:
    if values is None and not progress.is_due:
      return
    left = None
    if course.seconds is not None:
      left = max(0.0, course.seconds - position.seconds)
    elif speed := meter.steps_per_second:
      # Steps to come may be of longer rows, or of more of them.
      slots = position.phase.batch_size * position.phase.seq_len
      left = course.slots_after(position.step) / (speed * slots)
    progress.show(position.step, position.progress, left, values)

  skipped = int(state.get('skipped', 0))

  def check(step: int, values: dict[str, float]) -> None:
    """Refuses to go on with what is not finite; tells of skipped batches."""
    nonlocal skipped
    before, skipped = skipped, int(values.pop('skipped', 0))
    if skipped > before:
      progress.clear()
      say(
        f'  by step {step:,} the loss or its gradient was not finite: back to '
        f'the state before, batch skipped, {skipped} of at most '
        f'{settings.max_rewinds}'
      )
    bad = [name for name, value in values.items() if not math.isfinite(value)]
    if bad or skipped > settings.max_rewinds:
      progress.clear()
      checkpoints.wait()
      last = checkpoints.latest()
      kept = (
        f'the last good checkpoint is step {last:,} in {checkpoints.directory}'
        if last is not None
        else 'no checkpoint was saved before'
      )
      raise Diverged(
        f'the loss or its gradient is no longer finite by step {step:,} of '
        f'{workdir} ({", ".join(bad) or "skipped"}); {kept}. Lower '
        'train.learning_rate, lengthen the warm-up or set train.clip_norm, in '
        'another --workdir.'
      )

  def report(step: int, sums: Sums, rate: float) -> None:
    values = _means(sums)
    check(step, values)
    tokens = values.pop('tokens')
    values = derived(values) | {'learning_rate': rate} | meter.rates(tokens)
    log.write(step, 'train', values)
    show(values)

  def look_inside(step: int) -> None:
    if values := attention_entropy(state['params']):
      log.write(step, 'token_attention_entropy', values)
    log.write_layers(step, diagonals(state['params']))

  def tell(step: int, found: Evaluation) -> None:
    for split, values in found.metrics.items():
      log.write(step, split, values)
      shown = '  '.join(f'{k} {v:.4f}' for k, v in values.items())
      say(f'  step {step:,} {split}: {shown}')
    log.write_pictures(step, found.pictures)

  def save(step: int) -> None:
    metrics = {
      f'{split}/{name}': value
      for split, values in (evaluation.metrics if evaluation else {}).items()
      for name, value in values.items()
    }
    checkpoints.save(
      step,
      state,
      metadata
      | {'seconds': time.monotonic() - started, 'position': position.kept()},
      metrics=metrics,
      files=files,
    )

  def is_exhausted(step: int) -> bool:
    """Whether the last evaluations brought no new best."""
    if not settings.patience or not step:
      return False
    checkpoints.wait()
    best = checkpoints.best()
    waited = settings.patience * settings.evaluate_every
    return best is not None and step - best >= waited

  def is_due(step: int, every: int) -> bool:
    return position.is_over or (every > 0 and step % every == 0)

  # The step under way, and what of the one before is still to be logged.
  running: tuple[Sums, int, float] | None = None
  pending: tuple[int, Sums, float] | None = None

  def settle() -> None:
    """Waits for the step under way: the loop is at most one step ahead."""
    nonlocal running
    if running is not None:
      sums, examples, flops = running
      jax.block_until_ready(sums)
      meter.count(examples, flops)
      running = None

  phase: Phase | None = None
  ballot = processes.Ballot()
  coming = _batches(batches, position)
  if is_exhausted(start):
    coming.close()
  with (
    _StopSignals() as signals,
    contextlib.closing(trace),
    contextlib.closing(coming),
  ):
    if not position.is_over:
      say('compiling the first step, which can take a minute …')
    if start == 0:
      look_inside(0)
      if evaluate_start:
        tell(0, evaluate_start(state['params'], position.phase))
    for step, its_phase, batch in meter.waits(coming):
      trace.before(step)
      rate = learning_rate(position.progress)
      *leading, length = batch['input_ids'].shape
      flops = math.prod(leading) * length * flops_per_token(length)
      # Several seeds that train together each have a batch.
      examples = math.prod(leading[:-1]) * its_phase.batch_size
      is_new, phase = its_phase is not phase, its_phase
      if is_new:
        settle()
        meter.stop()  # compiling is not training
      with jax.profiler.StepTraceAnnotation('train', step_num=step):
        state, sums = train_step(state, batch, rate, phase.accumulation)
      trace.after(step, sums)
      settle()
      if is_new:
        jax.block_until_ready(sums)
        meter.start()
      else:
        running = sums, examples, flops
      position.move(
        step, meter.seconds if course.steps else processes.agreed(meter.seconds)
      )
      # The numbers of a step are fetched once the next is under way, so that
      # the device never waits for the log.
      if pending is not None:
        report(*pending)
        pending = None
      else:
        show()
      if is_due(step, settings.log_every):
        pending = step, sums, rate
      evaluating = is_due(step, settings.evaluate_every)
      saving = evaluating or is_due(step, settings.checkpoint_every)
      asked = ballot.agreed(signals.asked)
      if not (saving or asked):
        continue
      # Nothing is kept that has not been seen to be finite.
      settle()
      if pending is not None:
        report(*pending)
        pending = None
      else:
        check(step, _means(sums))
      with meter.paused():
        evaluation = None
        if evaluating:
          progress.clear()
          evaluation = evaluate(state['params'], phase)
          tell(step, evaluation)
          look_inside(step)
        save(step)
      if position.is_over:
        break
      if asked:
        progress.clear()
        checkpoints.wait()
        of = '' if course.steps is None else f' of {course.steps:,}'
        raise Preempted(
          f'stopped by {asked} after step {step:,}{of} '
          f'({duration(time.monotonic() - started)}), saved in '
          f'{checkpoints.directory}: the same command goes on from there.'
        )
      if evaluating and is_exhausted(step):
        progress.clear()
        say(
          f'  stopped early: {settings.patience} evaluations without a better '
          f'{best_metric}'
        )
        break
  progress.clear()
  checkpoints.wait()
  seconds = time.monotonic() - started
  if evaluation is None:  # resumed after the last step: its log is complete
    evaluation = evaluate(state['params'], position.phase)
  return state, evaluation.metrics, seconds
