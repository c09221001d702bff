"""Learning rates over a run, and the names of optimisers; without JAX.

So that what a config asks for is refused at once. Schedules are functions of
the share of the run that is done, whatever it is counted in.
"""

import math
from collections.abc import Callable
from typing import Any

from shared_bert.errors import UserError

OPTIMIZERS = ('adamw', 'lamb', 'lion', 'muon')
SCHEDULES = ('linear', 'cosine', 'constant', 'rsqrt', 'wsd')


def check_optimizer(name: str) -> None:
  """Refuses an optimiser that is not one of `OPTIMIZERS`.

  Raises:
    UserError: naming them.
  """
  if name not in OPTIMIZERS:
    raise UserError(
      f'train.optimizer={name!r} is not known: use one of '
      f'{", ".join(OPTIMIZERS)}.'
    )


def learning_rate_schedule(
  schedule: str,
  learning_rate: float,
  warmup: float,
  *,
  warmup_from: float = 0.0,
  decay: float = 0.2,
) -> Callable[[float], float]:
  """A linear warm-up, then what `schedule` says.

  - `linear` falls to 0 at the end as in BERT (google-research/bert,
    optimization.py), `cosine` falls to 0 along half a cosine.
  - `constant` stays.
  - `rsqrt` falls with one over the root of what is done (Vaswani et al. 2017,
    section 5.3): √(w / p) after a warm-up of w.
  - `wsd`, warm-up, stable, decay (Hu et al. 2024, arXiv 2404.06395), stays and
    falls to 0 over the last share d as 1 − √x, x the share of it that is done,
    which ended lower than a straight line in Hägele et al. 2024 (arXiv
    2405.18392).

  Args:
    schedule: one of `SCHEDULES`.
    learning_rate: the peak, reached after the warm-up.
    warmup: share of the run, below 1.
    warmup_from: share of the peak that the warm-up starts at.
    decay: d of `wsd`, share of the run.

  Returns:
    A function of the share of the run that is done, from 0 to 1, to the
    learning rate.

  Raises:
    UserError: if the schedule is unknown, `rsqrt` has no warm-up, or that of
      `wsd` leaves no room for its decay.
  """
  if schedule not in SCHEDULES:
    raise UserError(
      f'train.schedule={schedule!r} is not known: use one of '
      f'{", ".join(SCHEDULES)}.'
    )
  if schedule == 'rsqrt' and not warmup:
    raise UserError(
      'train.schedule=rsqrt falls from the end of the warm-up on, and there is '
      'none: set train.warmup_steps or train.warmup_ratio.'
    )
  if schedule == 'wsd' and warmup + decay > 1 + 1e-9:
    raise UserError(
      f'the warm-up takes {warmup:.0%} of the run and train.decay_ratio='
      f'{decay:g} the rest and more: lower the one or the other.'
    )

  def share_of_peak(done: float) -> float:
    if done < warmup:
      return warmup_from + (1 - warmup_from) * done / warmup
    if schedule == 'rsqrt':
      return math.sqrt(warmup / done)
    if schedule == 'wsd':
      return 1 - math.sqrt(max(0.0, done - (1 - decay)) / decay)
    rest = (done - warmup) / (1 - warmup)
    if schedule == 'linear':
      return 1 - rest
    return (1 + math.cos(math.pi * rest)) / 2 if schedule == 'cosine' else 1.0

  return lambda done: learning_rate * share_of_peak(min(max(done, 0.0), 1.0))


def schedule_of_config(train: Any, warmup: float) -> Callable[[float], float]:
  """`learning_rate_schedule` with the keys of a run's `train` section."""
  return learning_rate_schedule(
    train.schedule,
    train.learning_rate,
    warmup,
    warmup_from=train.warmup_from,
    decay=train.decay_ratio,
  )
