"""What a run begins with that another one has learnt."""

from typing import Any

import jax
import numpy as np

from shared_bert.errors import UserError
from shared_bert.model.parameters import name_of, named_leaves
from shared_bert.training import state_io
from shared_bert.training.logging import say
from shared_bert.training.step_folders import Checkpoint


def check_fit(
  params: Any, checkpoint: Checkpoint, required: str = 'encoder'
) -> None:
  """Refuses a checkpoint of another model, before anything is compiled.

  Args:
    params: nested dict of arrays, or of their shapes and dtypes.
    checkpoint: to start from.
    required: the first part of the names that must be there.

  Raises:
    UserError: if the required part is missing or of another shape.
  """
  for name, ours in state_io.leaf_types({'params': params}).items():
    theirs = checkpoint.leaves.get(name)
    if name.split('/')[1] == required and theirs != ours:
      what = f'is {theirs}' if theirs else 'is missing'
      raise UserError(
        f'init_from={checkpoint.path} does not fit this model: '
        f'{name.removeprefix("params/")} {what} there and {ours} here. Set '
        'model.size, model.attention and the other model keys as they were in '
        'that run.'
      )


def take_over(params: Any, checkpoint: Checkpoint) -> Any:
  """Replaces fresh parameters by those of a checkpoint, by name.

  What `check_fit` requires must be there whole; what else fits in name and
  shape is taken too, and what stays fresh is said.

  Args:
    params: nested dict of arrays on their devices.
    checkpoint: to start from.

  Returns:
    A dict like `params`.

  Raises:
    UserError: as `check_fit`.
  """
  check_fit(params, checkpoint)
  found = dict(named_leaves(checkpoint.load_params()))
  fresh = []

  def choose(key_path, ours):
    name = name_of(key_path)
    theirs = found.get(name)
    if theirs is not None and theirs.shape == ours.shape:
      return jax.device_put(np.asarray(theirs, dtype=ours.dtype), ours.sharding)
    fresh.append(name)
    return ours

  chosen = jax.tree_util.tree_map_with_path(choose, params)
  names = ', '.join(fresh) or 'nothing'
  say(f'fresh       {names}; the rest is from {checkpoint.path}')
  return chosen
