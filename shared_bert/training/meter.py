"""How fast a run trains, and what it waits for."""

import contextlib
import time
from collections.abc import Iterable, Iterator
from typing import Any


class Meter:
  """Seconds of training, and what was done in them.

  Training is taking steps and waiting for rows. The clock stands still while
  a step is compiled, and for evaluations and saves, so that speeds, and a
  budget in hours, do not depend on how a run is watched.
  """

  def __init__(self, seconds: float = 0.0, peak_flops: float | None = None):
    """The clock stands.

    Args:
      seconds: of training, spent before.
      peak_flops: FLOP/s of all devices together, or None if not known.
    """
    self._before = seconds
    self._since: float | None = None
    self._peak = peak_flops
    self._steps = self._examples = 0
    self._flops = self._waited = 0.0
    self._window = seconds
    self._last: float | None = None

  @property
  def seconds(self) -> float:
    """Of training, spent so far."""
    if self._since is None:
      return self._before
    return self._before + time.monotonic() - self._since

  def start(self) -> None:
    """Lets the clock run."""
    if self._since is None:
      self._since = time.monotonic()

  def stop(self) -> None:
    """Stops the clock."""
    self._before, self._since = self.seconds, None

  @contextlib.contextmanager
  def paused(self) -> Iterator[None]:
    """Stops the clock for what is no training."""
    self.stop()
    yield
    self.start()

  def waits(self, batches: Iterable[Any]) -> Iterator[Any]:
    """The same batches; the time until each one is there counts as waited."""
    coming = iter(batches)
    while True:
      before = self.seconds
      try:
        batch = next(coming)
      except StopIteration:
        return
      self._waited += self.seconds - before
      yield batch
      # Not held while the next is awaited: it is memory on the device.
      del batch

  def count(self, examples: int, flops: float) -> None:
    """Adds a step that is done and was timed.

    Args:
      examples: it read; there may be several in a row.
      flops: it took, by formula.
    """
    self._steps += 1
    self._examples += examples
    self._flops += flops

  @property
  def steps_per_second(self) -> float | None:
    """Since the last `rates`; before a step since then, as it was there."""
    passed = self.seconds - self._window
    if self._steps and passed > 0:
      return self._steps / passed
    return self._last

  def rates(self, tokens_per_step: float) -> dict[str, float]:
    """Speeds since the last call.

    Args:
      tokens_per_step: mean tokens of a batch, padding left out.

    Returns:
      `steps_per_second`, `examples_per_second`, `tokens_per_second`;
      `teraflops_per_second`, by formula, and as `utilisation` its share of
      what the devices can do, if that is known; `stall`, the share of the time
      that the loop waited for rows, an upper bound of what the devices did.
    """
    passed = max(self.seconds - self._window, 1e-9)
    self._last = self._steps / passed
    rates = {
      'steps_per_second': self._last,
      'examples_per_second': self._examples / passed,
      'tokens_per_second': self._last * tokens_per_step,
      'teraflops_per_second': self._flops / passed / 1e12,
    }
    if self._peak:
      rates['utilisation'] = self._flops / passed / self._peak
    rates['stall'] = min(1.0, self._waited / passed)
    self._steps = self._examples = 0
    self._flops = self._waited = 0.0
    self._window = self.seconds
    return rates
