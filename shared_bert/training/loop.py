"""The one loop: batches in, steps out, logged, evaluated and kept."""

import contextlib
import dataclasses
import math
import pathlib
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax

from shared_bert.errors import Preempted, UserError
from shared_bert.model.inspection import diagonals
from shared_bert.training import stopping
from shared_bert.training.checkpoint import Checkpoints
from shared_bert.training.evaluation import Evaluation
from shared_bert.training.logging import MetricLog, Progress, duration, say
from shared_bert.training.step import Sums, TrainState


@dataclasses.dataclass
class LoopSettings:
  """When the loop does what; all in optimiser steps, 0 for never.

  Attributes:
    name: what the progress line starts with.
    total_steps: of the run.
    batch_size: rows of a step, for the speed.
    log_every: steps between lines of metrics.
    evaluate_every: steps between evaluations; the last step always has one.
    checkpoint_every: steps between checkpoints; evaluations and the last
      step always have one.
    patience: evaluations without a new best after which training stops.
    profile: first and last step to trace, counted from 1, or None.
  """

  name: str
  total_steps: int
  batch_size: int
  log_every: int
  evaluate_every: int
  checkpoint_every: int
  patience: int = 0
  profile: tuple[int, int] | None = None


def _is_due(step: int, every: int, total: int) -> bool:
  return step == total or (every > 0 and step % every == 0)


def _means(sums: Sums) -> dict[str, float]:
  return {
    name: float(total) / max(float(weight), 1e-9)
    for name, (total, weight) in jax.device_get(sums).items()
  }


class _Trace:
  """Writes a profile of some steps, for xprof or TensorBoard's plugin."""

  def __init__(self, steps: tuple[int, int] | None, folder: pathlib.Path):
    self._first, self._last = steps or (0, 0)
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
    self._restore()

  def _restore(self):
    for number, handler in self._before.items():
      signal.signal(number, handler)
    self._before = {}

  def __enter__(self):
    for number in (signal.SIGTERM, signal.SIGINT):
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
  train_step: Callable[[TrainState, Any], tuple[TrainState, Sums]],
  batches: Callable[[int, int], Iterator[Any]],
  *,
  evaluate: Callable[[Any], Evaluation],
  attention_entropy: Callable[[Any], dict[str, float]],
  learning_rate: Callable[[int], Any],
  checkpoints: Checkpoints,
  metadata: dict,
  files: dict[str, bytes],
  log: MetricLog,
  workdir: pathlib.Path,
  best_metric: str | None = None,
  seconds: float = 0.0,
) -> tuple[TrainState, dict[str, dict[str, float]], float]:
  """Trains to the last step, saving as it goes.

  Args:
    settings: when to do what.
    state: to go on from; given away.
    train_step: from `make_train_step`.
    batches: (start, stop) to an iterator over the batches of these steps,
      already on the devices.
    evaluate: parameters to metrics by split and pictures.
    attention_entropy: parameters to what is seen of their attention, by name.
    learning_rate: of a step, for the log.
    checkpoints: where states are kept.
    metadata: kept with each checkpoint.
    files: kept with each checkpoint, by name.
    log: of the metrics.
    workdir: named in messages.
    best_metric: `split/name` that chooses the best checkpoint.
    seconds: spent on this state so far.

  Returns:
    The last state, the metrics of the last evaluation by split, and the
    seconds of training in all.

  Raises:
    UserError: if loss or gradient stop being finite.
    Preempted: after a signal, once the state is saved.
  """
  total = settings.total_steps
  start = int(state['step'])
  started = time.monotonic() - seconds
  progress = Progress(settings.name, start, total, settings.batch_size)
  trace = _Trace(settings.profile, workdir)
  evaluation: Evaluation | None = None

  def report(step: int, sums: Sums) -> None:
    values = _means(sums)
    if not all(map(math.isfinite, values.values())):
      progress.clear()
      checkpoints.wait()
      last = checkpoints.latest()
      kept = (
        f'the last good checkpoint is step {last:,} in {checkpoints.directory}'
        if last is not None
        else 'no checkpoint was saved before'
      )
      raise UserError(
        f'the loss or its gradient is no longer finite by step {step:,} of '
        f'{workdir}; {kept}. Lower train.learning_rate, lengthen the warm-up '
        'or set train.clip_norm, in another --workdir.'
      )
    tokens = values.pop('tokens')
    values['learning_rate'] = float(learning_rate(step - 1))
    values |= progress.rates(step, tokens)
    log.write(step, 'train', values)
    progress.show(step, values)

  def look_inside(step: int) -> None:
    if values := attention_entropy(state['params']):
      log.write(step, 'token_attention_entropy', values)
    log.write_layers(step, lambda: diagonals(state['params']))

  def save(step: int) -> None:
    metrics = {
      f'{split}/{name}': value
      for split, values in (evaluation.metrics if evaluation else {}).items()
      for name, value in values.items()
    }
    checkpoints.save(
      step,
      state,
      metadata | {'seconds': time.monotonic() - started},
      metrics=metrics if best_metric in metrics else None,
      files=files,
    )

  def is_exhausted(step: int) -> bool:
    """Whether the last evaluations brought no new best."""
    if not settings.patience or not step:
      return False
    checkpoints.wait()
    best = checkpoints.best()
    waited = settings.patience * settings.evaluate_every
    return best is not None and step < total and step - best >= waited

  pending: tuple[int, Sums] | None = None
  stop = start if is_exhausted(start) else total
  with _StopSignals() as signals, contextlib.closing(trace):
    if start < stop:
      say('compiling the first step, which can take a minute …')
    if start == 0:
      look_inside(0)
    for step, batch in enumerate(batches(start, stop), start + 1):
      trace.before(step)
      with jax.profiler.StepTraceAnnotation('train', step_num=step):
        state, sums = train_step(state, batch)
      trace.after(step, sums)
      if step == start + 1:
        # Compilation is not speed: the clock of the rates starts here.
        jax.block_until_ready(sums)
        progress.restart(step)
      # The numbers of a step are fetched once the next is under way, so that
      # the device never waits for the log.
      if pending is not None:
        report(*pending)
        pending = None
      if _is_due(step, settings.log_every, total):
        pending = (step, sums)
      evaluating = _is_due(step, settings.evaluate_every, total)
      saving = evaluating or _is_due(step, settings.checkpoint_every, total)
      if not (saving or signals.asked):
        continue
      # Nothing is kept that has not been seen to be finite.
      if pending is not None:
        report(*pending)
        pending = None
      elif not all(map(math.isfinite, _means(sums).values())):
        report(step, sums)
      paused = time.monotonic()
      evaluation = None
      if evaluating:
        progress.clear()
        evaluation = evaluate(state['params'])
        for split, values in evaluation.metrics.items():
          log.write(step, split, values)
          shown = '  '.join(f'{k} {v:.4f}' for k, v in values.items())
          say(f'  step {step:,} {split}: {shown}')
        log.write_pictures(step, evaluation.pictures)
        look_inside(step)
      save(step)
      progress.resume(time.monotonic() - paused)
      if signals.asked and step < total:
        progress.clear()
        checkpoints.wait()
        raise Preempted(
          f'stopped by {signals.asked} after step {step:,} of {total:,} '
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
    evaluation = evaluate(state['params'])
  return state, evaluation.metrics, seconds
