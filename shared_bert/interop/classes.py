"""The classes of a model and those of a task: the same names, in one order."""

import dataclasses
import re
from collections.abc import Sequence

from shared_bert.errors import UserError
from shared_bert.interop.saved import SavedModel
from shared_bert.training.logging import say

# What transformers calls classes that nobody named: `id2label` in its
# configuration_utils.py.
_NAMELESS = re.compile(r'LABEL_\d+')


def check_named(saved: SavedModel, wanted: str) -> None:
  """Refuses a folder that does not say what its classes mean.

  Args:
    saved: a classifier.
    wanted: what the classes should be, for the message.

  Raises:
    UserError: their names are `LABEL_0`, `LABEL_1` and so on.
  """
  names = saved.label_names
  if saved.run is None and names and all(map(_NAMELESS.fullmatch, names)):
    raise UserError(
      f'init_from={saved.path} calls its classes {", ".join(names)}, which '
      'does not say what they mean: write their names, in the order of its '
      f'outputs, as id2label into the configuration in {saved.path}. {wanted}.'
    )


def in_order_of(
  saved: SavedModel, task: str, label_names: Sequence[str]
) -> SavedModel:
  """A classifier with its outputs in the order of a task's classes.

  Names are compared as they are, and where that fails, whatever their case.

  Args:
    saved: a classifier or a regression.
    task: its name, for what is said.
    label_names: of its classes; none for scores.

  Returns:
    The model, whose C outputs are those of `label_names`; says so if it had
    them in another order.

  Raises:
    UserError: it has other classes, or does not say which.
  """
  theirs = saved.label_names
  if not label_names and not theirs and saved.num_outputs == 1:
    return saved
  order = _places(label_names, theirs) if label_names else None
  if order is None:
    ours = ', '.join(label_names)
    if len(label_names) == len(theirs):
      check_named(saved, f'{task} has {ours}')
    raise UserError(
      f'{task} has the labels {ours or "of a regression"}, and '
      f'init_from={saved.path} was trained on '
      f'{", ".join(theirs) or "scores"}: evaluate it on data with the same.'
    )
  if order != sorted(order):
    say(
      f'classes     of the model are {", ".join(theirs)}: its outputs are put '
      f'in the order of {task}, {", ".join(label_names)}'
    )
  classifier = {
    name: value[..., order]
    for name, value in saved.params['classifier'].items()
  }
  return dataclasses.replace(
    saved,
    params=saved.params | {'classifier': classifier},
    label_names=tuple(label_names),
  )


def _places(ours: Sequence[str], theirs: Sequence[str]) -> list[int] | None:
  """Where each of our names is in theirs; None where they are not the same."""
  for key in (str, str.casefold):
    wanted, there = [*map(key, ours)], [*map(key, theirs)]
    if len(set(wanted)) == len(wanted) and sorted(wanted) == sorted(there):
      return [there.index(name) for name in wanted]
  return None
