"""Where arrays live: one mesh, one table of rules."""

import re
from typing import Any

import jax
import numpy as np
from jax.sharding import (
  AbstractMesh,
  AxisType,
  Mesh,
  NamedSharding,
  PartitionSpec,
)

from shared_bert.errors import UserError
from shared_bert.model.parameters import name_of

# First match wins; names are those of `TrainState` leaves, such as
# `params/encoder/layers/feed_forward/up/kernel`. Data parallel: every device
# holds every parameter.
PARTITION_RULES: tuple[tuple[str, PartitionSpec], ...] = (
  (r'.*', PartitionSpec()),
)


def make_mesh(devices: list[jax.Device] | None = None) -> Mesh:
  """All devices along `data`, with an `fsdp` axis of one.

  The axes are Auto: JAX's default, Explicit, refuses a look-up in an
  embedding by a sharded batch.

  Args:
    devices: all of JAX's unless given.

  Raises:
    UserError: if JAX has no device.
  """
  if devices is None:
    try:
      devices = jax.devices()
    except RuntimeError as error:
      raise UserError(
        f'JAX finds no device to run on: {str(error).splitlines()[0]}. Set '
        'JAX_PLATFORMS=cpu, or install the JAX of your accelerator.'
      ) from error
  return jax.make_mesh(
    (len(devices), 1),
    ('data', 'fsdp'),
    axis_types=(AxisType.Auto, AxisType.Auto),
    devices=devices,
  )


def planned_mesh(data: int, fsdp: int = 1) -> AbstractMesh:
  """A mesh of devices that are not here, for plans.

  Args:
    data: devices along `data`, at least 1.
    fsdp: devices along `fsdp`.

  Raises:
    UserError: if `fsdp` is not 1: no rule uses that axis.
  """
  if fsdp != 1:
    raise UserError(
      f'fsdp={fsdp}: parameters are copied to each device as yet, so that an '
      f'axis fsdp would save no memory: use data={data * fsdp}.'
    )
  return AbstractMesh(
    (data, fsdp),
    ('data', 'fsdp'),
    axis_types=(AxisType.Auto, AxisType.Auto),
  )


def check_batch_size(
  name: str, batch_size: int, mesh: Mesh | AbstractMesh, parts: int = 1
) -> None:
  """Refuses a batch that the devices cannot share equally.

  Args:
    name: of the config key, for the message.
    batch_size: global, in rows.
    mesh: the mesh.
    parts: micro-batches a batch is cut into.

  Raises:
    UserError: with the nearest sizes that work.
  """
  share = mesh.size * parts
  if batch_size % share:
    lower, upper = batch_size // share * share, -(-batch_size // share) * share
    fitting = f'{lower} or {upper}' if lower else f'{upper}'
    cut = f' in {parts} micro-batches' if parts > 1 else ''
    raise UserError(
      f'{name}={batch_size} cannot be shared equally by {mesh.size} '
      f'devices{cut}: use {fitting}.'
    )


def state_shardings(mesh: Mesh | AbstractMesh, abstract_state: Any) -> Any:
  """The sharding of every leaf by `PARTITION_RULES`.

  Args:
    mesh: the mesh.
    abstract_state: tree of anything with names.

  Returns:
    The same tree of `NamedSharding`.
  """

  def sharding(path, _):
    name = name_of(path)
    spec = next(s for rule, s in PARTITION_RULES if re.search(rule, name))
    return NamedSharding(mesh, spec)

  return jax.tree_util.tree_map_with_path(sharding, abstract_state)


def place_batch(
  mesh: Mesh | AbstractMesh, batch: dict[str, np.ndarray]
) -> dict:
  """Puts a batch on the devices, rows shared along `data`.

  Args:
    mesh: the mesh.
    batch: arrays [B, ...], B a multiple of the number of devices.
  """
  return jax.device_put(
    batch, NamedSharding(mesh, PartitionSpec(('data', 'fsdp')))
  )
