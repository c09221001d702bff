"""Weights that several devices share, made whole where they are used.

Left to itself, XLA's partitioner multiplies with the part of a matrix that a
device holds and sends activations around, which are larger than the weights.
So a layer's weights are gathered just before it and dropped right after it
(Rajbhandari et al. 2020, ZeRO, arXiv 1910.02054, stage 3; Zhao et al. 2023,
PyTorch FSDP, arXiv 2304.11277).
"""

from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import PartitionSpec

# Of the mesh: rows are spread over both, weights over the second.
ROW_AXES = ('data', 'fsdp')


def is_sharded() -> bool:
  """Whether the mesh that is set (`jax.set_mesh`) spreads weights."""
  mesh = jax.sharding.get_abstract_mesh()
  return not mesh.empty and mesh.shape.get('fsdp', 1) > 1


def whole(weights: Any, dtype: jax.typing.DTypeLike | None = None) -> Any:
  """Gathers weights onto every device, if the mesh spreads them.

  Args:
    weights: tree of arrays; those of two axes or more are matrices, the others
      are on every device already.
    dtype: that the model casts matrices to before it uses them; cast before
      they are sent, they are half as much. None for as they are.

  Returns:
    The tree, of whole matrices. Their gradients are summed over all devices.
  """
  if not is_sharded():
    return weights

  def gather(w: jax.Array) -> jax.Array:
    if w.ndim < 2:
      return w
    if dtype is not None:
      w = w.astype(dtype)
    return jax.lax.with_sharding_constraint(w, PartitionSpec())

  return jax.tree.map(gather, weights)


def by_rows(x: jax.Array) -> jax.Array:
  """Keeps the rows of activations [B, ...] spread over all devices."""
  if not is_sharded():
    return x
  return jax.lax.with_sharding_constraint(x, PartitionSpec(ROW_AXES))


def on_each_device(
  function: Callable[..., jax.Array], *by_rows: bool
) -> Callable[..., jax.Array]:
  """Hands each device its own rows, where the mesh has several.

  For what XLA's partitioner cannot look into, such as our own kernels.

  Args:
    function: of arrays, to an array [B, ...].
    *by_rows: of each argument whether it is spread over the devices by its
      first axis; the others are on all of them.

  Returns:
    The same function of whole arrays, whose gradients are summed over devices.
  """
  mesh = jax.sharding.get_abstract_mesh()
  if mesh.empty or mesh.size == 1:
    return function
  rows, everywhere = PartitionSpec(ROW_AXES), PartitionSpec()
  return jax.shard_map(
    function,
    in_specs=tuple(rows if spread else everywhere for spread in by_rows),
    out_specs=rows,
    check_vma=False,
  )


def save_all_but_whole(primitive: Any, *_: Any, **__: Any) -> bool:
  """A policy of `jax.checkpoint`: whole weights are gathered once more.

  Kept for the backward pass, those of all layers would be on every device.
  """
  return primitive.name != 'sharding_constraint'
