"""AdamW with BERT's decay mask, clipping and warm-up schedules."""

import re
from typing import Any

import jax
import optax

from shared_bert.errors import UserError
from shared_bert.model.parameters import name_of

SCHEDULES = ('linear', 'cosine', 'constant')
DIAGONALS = r'/d_[qkv]$'


def learning_rate_schedule(
  schedule: str, learning_rate: float, warmup_steps: int, total_steps: int
) -> optax.Schedule:
  """Linear warm-up from 0, then what `schedule` says.

  `linear` falls to 0 at `total_steps` as in BERT (google-research/bert,
  optimization.py), `cosine` falls to 0 along half a cosine, `constant` stays.

  Args:
    schedule: one of `SCHEDULES`.
    learning_rate: the peak, reached after `warmup_steps`.
    warmup_steps: in optimiser steps; may be 0.
    total_steps: in optimiser steps, warm-up included.

  Returns:
    A function of the step, from 0, to the learning rate.

  Raises:
    UserError: if the schedule is unknown or the warm-up fills the run.
  """
  if schedule not in SCHEDULES:
    raise UserError(
      f'train.schedule={schedule!r} is not known: use one of '
      f'{", ".join(SCHEDULES)}.'
    )
  if warmup_steps >= total_steps and warmup_steps > 0:
    raise UserError(
      f'the warm-up of {warmup_steps} steps leaves nothing of the '
      f'{total_steps} steps of training: lower train.warmup_steps (or '
      'train.warmup_ratio) or train longer.'
    )
  rest = total_steps - warmup_steps
  after = {
    'linear': optax.linear_schedule(learning_rate, 0.0, rest),
    'cosine': optax.cosine_decay_schedule(learning_rate, rest),
    'constant': optax.constant_schedule(learning_rate),
  }[schedule]
  if warmup_steps == 0:
    return after
  warmup = optax.linear_schedule(0.0, learning_rate, warmup_steps)
  return optax.join_schedules((warmup, after), (warmup_steps,))


def matching(pattern: str, tree: Any) -> Any:
  """A tree of bools: which leaves' names the regular expression finds.

  Args:
    pattern: searched in names such as `encoder/layers/attention_norm/scale`.
    tree: nested dicts.
  """
  return jax.tree_util.tree_map_with_path(
    lambda path, _: re.search(pattern, name_of(path)) is not None,
    tree,
  )


def adamw(
  schedule: optax.Schedule,
  *,
  weight_decay: float,
  no_decay: str,
  clip_norm: float,
  beta1: float,
  beta2: float,
  epsilon: float,
  diagonal_learning_rate_scale: float = 1.0,
) -> optax.GradientTransformation:
  """AdamW (Loshchilov and Hutter 2019) as BERT is trained today.

  With bias correction, which the original BERT leaves out and short
  fine-tuning runs need (Mosbach et al. 2021, section 4).

  Args:
    schedule: the learning rate by step.
    weight_decay: decoupled, times the learning rate.
    no_decay: regular expression of the names that are not decayed.
    clip_norm: global norm the gradient is clipped to; 0 turns it off.
    beta1: decay of the first moment.
    beta2: decay of the second moment.
    epsilon: added to the root of the second moment.
    diagonal_learning_rate_scale: factor on the learning rate of d_q, d_k and
      d_v.
  """
  parts = []
  if clip_norm:
    parts.append(optax.clip_by_global_norm(clip_norm))
  parts.append(optax.scale_by_adam(b1=beta1, b2=beta2, eps=epsilon))
  if weight_decay:
    parts.append(
      optax.add_decayed_weights(
        weight_decay,
        mask=lambda tree: jax.tree.map(
          lambda found: not found, matching(no_decay, tree)
        ),
      )
    )
  if diagonal_learning_rate_scale != 1.0:
    parts.append(
      optax.masked(
        optax.scale(diagonal_learning_rate_scale),
        lambda tree: matching(DIAGONALS, tree),
      )
    )
  parts.append(optax.scale_by_learning_rate(schedule))
  return optax.chain(*parts)


def of_config(train: Any, schedule: optax.Schedule):
  """`adamw` with the keys of a run's `train` section."""
  return adamw(
    schedule,
    weight_decay=train.weight_decay,
    no_decay=train.no_decay,
    clip_norm=train.clip_norm,
    beta1=train.beta1,
    beta2=train.beta2,
    epsilon=train.epsilon,
    diagonal_learning_rate_scale=train.diagonal_learning_rate_scale,
  )
