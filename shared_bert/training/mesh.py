"""Where arrays live: one mesh, one table of rules."""

import math
import re
from collections.abc import Callable, Mapping, Sequence
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
from shared_bert.model import parameters
from shared_bert.model.config import BertConfig
from shared_bert.model.parameters import name_of
from shared_bert.model.sharding import ROW_AXES
from shared_bert.training import processes

# First match wins; names are those of `TrainState` leaves, such as
# `params/encoder/layers/feed_forward/up/kernel`, so that an optimiser's moments
# lie where their parameters do. Embeddings [V, D] are spread by D, matrices
# [D, F] by what goes in, those of layers after their leading L axis. The rest,
# vectors and heads' small things, is on every device.
PARTITION_RULES: tuple[tuple[str, PartitionSpec], ...] = (
  (r'/embedding$', PartitionSpec(None, 'fsdp')),
  (r'/layers/.*/kernel$', PartitionSpec(None, 'fsdp', None)),
  (r'/kernel$', PartitionSpec('fsdp', None)),
  (r'.*', PartitionSpec()),
)
AUTO = 'auto'
# What a parameter takes while it is trained: itself, its gradient and two
# moments, float32 each.
_BYTES_OF_A_PARAMETER = 16
# Of a device's memory, for these; the rest is for activations.
_SHARE_OF_STATE = 0.5


def find_devices() -> list[jax.Device]:
  """All devices of all processes.

  Raises:
    UserError: if JAX has none.
  """
  try:
    return jax.devices()
  except RuntimeError as error:
    raise UserError(
      f'JAX finds no device to run on: {str(error).splitlines()[0]}. Set '
      'JAX_PLATFORMS=cpu, or install the JAX of your accelerator.'
    ) from error


def make_mesh(
  fsdp: int = 1, devices: Sequence[jax.Device] | None = None
) -> Mesh:
  """All devices, as `data` times `fsdp`.

  The axes are Auto: JAX's default, Explicit, refuses a look-up in an
  embedding by a sharded batch.

  Args:
    fsdp: devices that share each parameter, from `fsdp_of`.
    devices: all of JAX's unless given.
  """
  devices = find_devices() if devices is None else devices
  return jax.make_mesh(
    (len(devices) // fsdp, fsdp),
    ('data', 'fsdp'),
    axis_types=(AxisType.Auto, AxisType.Auto),
    devices=devices,
  )


def mesh_for(
  setting: str, model: BertConfig, devices: Sequence[jax.Device]
) -> Mesh:
  """The mesh of a run.

  Args:
    setting: `mesh.fsdp`, as for `fsdp_of`.
    model: what it trains.
    devices: of all processes.

  Raises:
    UserError: as `fsdp_of`.
  """
  memory = None
  if setting == AUTO:
    told = jax.local_devices()[0].memory_stats() or {}  # nothing on CPUs
    memory = processes.agreed(told.get('bytes_limit', 0)) or None
  return make_mesh(fsdp_of(setting, model, len(devices), memory), devices)


def planned_mesh(data: int, fsdp: int = 1) -> AbstractMesh:
  """A mesh of devices that are not here, for plans.

  Args:
    data: devices along `data`, at least 1.
    fsdp: devices along `fsdp`.
  """
  return AbstractMesh(
    (data, fsdp),
    ('data', 'fsdp'),
    axis_types=(AxisType.Auto, AxisType.Auto),
  )


def fsdp_of(
  setting: str,
  model: BertConfig,
  num_devices: int,
  memory: float | None = None,
) -> int:
  """How many devices share each parameter.

  Args:
    setting: `mesh.fsdp`: a number, or `auto` for the smallest with which
      parameters, gradients and AdamW's state take up at most half of a device.
    model: what is trained.
    num_devices: in all.
    memory: bytes of a device; None if not known, where `auto` shares nothing.

  Raises:
    UserError: if the devices or the model's widths cannot be divided so.
  """
  widths = math.gcd(model.hidden_size, model.intermediate_size)
  fitting = [
    n for n in range(1, num_devices + 1) if not (num_devices % n or widths % n)
  ]
  if setting == AUTO:
    if memory is None:
      return 1
    state = parameters.count_by_block(model)['total'] * _BYTES_OF_A_PARAMETER
    enough = [n for n in fitting if state / n <= _SHARE_OF_STATE * memory]
    return (enough or fitting[-1:])[0]
  fsdp = int(setting)
  if fsdp not in fitting:
    why = (
      f'does not divide the {num_devices} devices'
      if num_devices % fsdp
      else f'does not divide model.hidden_size={model.hidden_size} and '
      f'model.intermediate_size={model.intermediate_size}'
    )
    raise UserError(
      f'mesh.fsdp={fsdp} {why}: use {", ".join(map(str, fitting))} or auto.'
    )
  return fsdp


def on_mesh(
  mesh: Mesh | AbstractMesh, function: Callable[..., Any]
) -> Callable[..., Any]:
  """Compiles a function whose results every process can read.

  Args:
    mesh: of the devices, set where the function is traced: `model.sharding`
      asks for it.
    function: of arrays.

  Raises:
    TypeError: if the devices are not here.
  """
  if isinstance(mesh, AbstractMesh):
    raise TypeError('a mesh of devices that are not here computes nothing')
  compiled = jax.jit(function, out_shardings=replicated(mesh))

  def call(*args: Any) -> Any:
    with jax.set_mesh(mesh):
      return compiled(*args)

  return call


def check_batch_size(
  name: str, batch_size: int, num_devices: int, parts: int = 1
) -> None:
  """Refuses a batch that the devices cannot share equally.

  Args:
    name: of the config key, for the message.
    batch_size: global, in rows.
    num_devices: that share it.
    parts: micro-batches a batch is cut into.

  Raises:
    UserError: with the nearest sizes that work.
  """
  share = num_devices * parts
  if batch_size % share:
    lower, upper = batch_size // share * share, -(-batch_size // share) * share
    fitting = f'{lower} or {upper}' if lower else f'{upper}'
    cut = f' in {parts} micro-batches' if parts > 1 else ''
    raise UserError(
      f'{name}={batch_size} cannot be shared equally by {num_devices} '
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


def placed(mesh: Mesh | AbstractMesh, abstract_state: Any) -> Any:
  """Shapes and dtypes with the sharding of each leaf.

  Args:
    mesh: the mesh.
    abstract_state: tree of `jax.ShapeDtypeStruct`, as for `state_shardings`.
  """
  return jax.tree.map(
    lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
    abstract_state,
    state_shardings(mesh, abstract_state),
  )


def place(mesh: Mesh, params: Any) -> Any:
  """Puts parameters that every process has on the devices.

  Args:
    mesh: of the devices.
    params: tree of NumPy arrays, with names as for `PARTITION_RULES`.

  Returns:
    The same tree of `jax.Array`s; each device got its part of them alone.
  """
  return jax.tree.map(
    lambda x, s: jax.make_array_from_callback(x.shape, s, lambda part: x[part]),
    params,
    state_shardings(mesh, params),
  )


def row_sharding(
  mesh: Mesh | AbstractMesh, stacked: bool = False
) -> NamedSharding:
  """Of arrays [B, ...]: rows are spread over all devices; or [N, B, ...]."""
  axes = (None, ROW_AXES) if stacked else (ROW_AXES,)
  return NamedSharding(mesh, PartitionSpec(*axes))


def replicated(mesh: Mesh | AbstractMesh) -> NamedSharding:
  """Of arrays that every device holds, and so every process can read."""
  return NamedSharding(mesh, PartitionSpec())


def part_of(
  mesh: Mesh | AbstractMesh,
) -> Callable[[int], np.ndarray] | None:
  """Which rows of a batch this process's devices take.

  Args:
    mesh: of the devices.

  Returns:
    From B, a multiple of the number of devices, to the numbers of the rows,
    int [B'], rising; None where one process takes them all.
  """
  if processes.count() == 1:
    return None

  def part(batch_size: int) -> np.ndarray:
    places = row_sharding(mesh).addressable_devices_indices_map((batch_size,))
    starts = {index[0].start or 0 for index in places.values() if index}
    share = batch_size // mesh.size
    return np.concatenate([np.arange(s, s + share) for s in sorted(starts)])

  return part


def place_batch(
  mesh: Mesh | AbstractMesh,
  batch: Mapping[str, np.ndarray],
  stacked: bool = False,
) -> dict:
  """Puts the rows of this process on its devices.

  Args:
    mesh: of the devices.
    batch: arrays [B', ...], the rows of `part_of` in their order.
    stacked: whether they are those of several seeds, [N, B', ...].

  Returns:
    Arrays [B, ...] of all processes' rows, or [N, B, ...].
  """
  sharding = row_sharding(mesh, stacked)
  if processes.count() == 1:
    return jax.device_put(dict(batch), sharding)
  return {
    name: jax.make_array_from_process_local_data(sharding, rows)
    for name, rows in batch.items()
  }
