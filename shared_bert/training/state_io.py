"""Pytrees of arrays to disk and back: all that we know of Orbax."""

import functools
import logging
import pathlib
import sys
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from absl import logging as absl_logging
from orbax.checkpoint import v1 as ocp

from shared_bert.errors import UserError

# How many of the leaves that do not fit a message names.
_NAMED = 3


def leaf_types(tree: Any) -> dict[str, str]:
  """Names the leaves of a pytree and their types.

  Args:
    tree: A pytree of arrays or `jax.ShapeDtypeStruct`s.

  Returns:
    Name to type, such as `{'params/w': 'float32[8, 4]'}`. Named tuples are
    named like dictionaries, tuples like lists, as Orbax does.

  Raises:
    TypeError: A leaf is not an array.
  """
  types = {}
  for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
    name = jax.tree_util.keystr(path, simple=True, separator='/')
    # Orbax takes Python and NumPy scalars too, but gives back other types.
    if not isinstance(leaf, jax.Array | np.ndarray | jax.ShapeDtypeStruct):
      raise TypeError(f'{name} is a {type(leaf).__name__}, not an array')
    types[name] = f'{leaf.dtype}{list(leaf.shape)}'
  return types


def check_types(
  path: pathlib.Path, saved: dict[str, str], wanted: dict[str, str]
) -> None:
  """Compares the leaves of a checkpoint with those wanted.

  Orbax casts another dtype without a word, and says of any other difference
  only that no handler is compatible.

  Args:
    path: The checkpoint, for the message.
    saved: Its `leaf_types`.
    wanted: Those of the tree to load into.

  Raises:
    UserError: They differ; names the first that do, and how.
  """
  faults = []
  for name in sorted({*saved, *wanted}):
    there, here = saved.get(name), wanted.get(name)
    if there is None:
      faults.append(f'{name} ({here}) is missing from it')
    elif here is None:
      faults.append(f'{name} ({there}) is extra in it')
    elif there != here:
      same_dtype = there.partition('[')[0] == here.partition('[')[0]
      what = 'shape' if same_dtype else 'dtype'
      faults.append(f'{name} has another {what}, {there} there and {here} here')
  if faults:
    more = len(faults) - _NAMED
    raise UserError(
      f'the checkpoint {path} does not fit this run: '
      f'{"; ".join(faults[:_NAMED])}{f"; and {more} more" * (more > 0)}. '
      'Use the configuration it was made with, or another workdir.'
    )


def start_save(path: pathlib.Path, tree: Any) -> Callable[[], None]:
  """Starts to write a pytree of arrays; every process calls it.

  Args:
    path: The folder to make; its parent must exist.
    tree: A pytree of `jax.Array`s and NumPy arrays. It has been copied off the
      devices when this returns, so its buffers may be given away.

  Returns:
    A function that waits until all is written and raises what went wrong.
  """
  absl_logging.get_absl_logger().addFilter(_is_worth_a_line)
  _hush_stragglers()
  with _context():
    return ocp.save_async(str(path), tree).result


def load(path: pathlib.Path, abstract: Any, *, partial: bool = False) -> Any:
  """Loads a pytree of arrays; every process calls it.

  Args:
    path: The folder that `start_save` made.
    abstract: A pytree of arrays or `jax.ShapeDtypeStruct`s that has passed
      `check_types`.
    partial: Whether it may be a part of what was saved.

  Returns:
    `jax.Array`s in the shardings of the abstract leaves, NumPy arrays where
    a leaf names no sharding.
  """

  def target(leaf: Any) -> Any:
    sharding = getattr(leaf, 'sharding', None)
    if sharding is None:
      return np.broadcast_to(np.zeros((), leaf.dtype), leaf.shape)
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

  with _context(partial):
    return ocp.load(str(path), jax.tree.map(target, abstract))


def saved_tree(path: pathlib.Path) -> Any:
  """The tree that was saved, of `jax.ShapeDtypeStruct`s.

  Args:
    path: The folder that `start_save` made.

  Returns:
    Dictionaries with keys of type str where there were dictionaries or named
    tuples, lists where there were lists or tuples.
  """
  with _context():
    return jax.tree.map(
      lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype),
      ocp.metadata(str(path)).metadata,
    )


def _context(partial: bool = False) -> ocp.Context:
  context = ocp.Context()
  # Compressing float32 weights saves 8 % and takes four times as long.
  context.array.saving.use_compression = False
  # A folder that cannot be made is then an error at once, not a time-out.
  context.asynchronous.create_directories_asynchronously = False
  context.pytree.loading.partial_load = partial
  return context


@functools.cache
def _hush_stragglers() -> None:
  """Drops what TensorStore's threads say after a write has failed.

  Orbax leaves at the first failure; the writes that are still in flight then
  tell a loop that is closed, and Python prints a traceback for each.
  """
  before = sys.unraisablehook

  def hook(unraisable) -> None:
    if str(unraisable.exc_value) != 'Event loop is closed':
      before(unraisable)

  sys.unraisablehook = hook


def _is_worth_a_line(record: logging.LogRecord) -> bool:
  """Drops Orbax's story of each save, and the errors that it raises as well.

  A full disk would otherwise be told in ten tracebacks before our sentence.
  """
  return (
    '/orbax/checkpoint/' not in record.pathname
    or record.levelno == logging.WARNING
  )
