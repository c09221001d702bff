"""The training step: one compiled, donated function of state and batch."""

from collections.abc import Callable
from typing import Any, TypedDict

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import AbstractMesh, Mesh

from shared_bert.training import mesh as mesh_lib

# A (sum, weight) pair of float32 scalars a name: added up over micro-batches,
# devices and steps, and divided once.
Sums = dict[str, tuple[jax.Array, jax.Array]]
Batch = dict[str, jax.Array]
LossFunction = Callable[[Any, Batch, jax.Array | None], Sums]


class TrainState(TypedDict):
  """All that a run carries from step to step, and that a checkpoint keeps.

  Attributes:
    step: int32 scalar, optimiser steps done.
    params: nested dict of float32 arrays.
    opt_state: of optax.
    window: `Sums` since the last logged step. Kept here, on the device, so
      that logging never waits for a step and a resumed run logs the same
      numbers as an undisturbed one.
  """

  step: jax.Array
  params: Any
  opt_state: Any
  window: Sums


def _state_maker(
  make_params: Callable[[], Any],
  optimizer: optax.GradientTransformation,
  metric_names: tuple[str, ...],
) -> Callable[[], TrainState]:
  def make() -> TrainState:
    zero = jnp.zeros((), jnp.float32)
    params = make_params()
    names = (*metric_names, 'gradient_norm', 'update_norm', 'tokens')
    return {
      'step': jnp.zeros((), jnp.int32),
      'params': params,
      'opt_state': optimizer.init(params),
      'window': dict.fromkeys(names, (zero, zero)),
    }

  return make


def abstract_state(
  make_params: Callable[[], Any],
  optimizer: optax.GradientTransformation,
  metric_names: tuple[str, ...],
  mesh: Mesh | AbstractMesh,
) -> Any:
  """What a state looks like: to restore checkpoints into.

  Args:
    make_params: returns the initial parameters; traced.
    optimizer: of optax.
    metric_names: those the loss function returns.
    mesh: the mesh.

  Returns:
    The tree of a `TrainState`, of `jax.ShapeDtypeStruct` with shardings.
  """
  shapes = jax.eval_shape(_state_maker(make_params, optimizer, metric_names))
  return mesh_lib.placed(mesh, shapes)


def init_state(
  make_params: Callable[[], Any],
  optimizer: optax.GradientTransformation,
  metric_names: tuple[str, ...],
  mesh: Mesh,
) -> TrainState:
  """Makes the first state, each leaf where it is to live.

  Args:
    make_params: as for `abstract_state`.
    optimizer: of optax.
    metric_names: those the loss function returns.
    mesh: the mesh.

  Returns:
    The state.
  """
  abstract = abstract_state(make_params, optimizer, metric_names, mesh)
  return jax.jit(
    _state_maker(make_params, optimizer, metric_names),
    out_shardings=jax.tree.map(lambda x: x.sharding, abstract),
  )()


def _add(a, b):
  return jax.tree.map(jnp.add, a, b)


def _placed(mesh: Mesh, tree: Any) -> Any:
  """Keeps parameters, or what is shaped like them, where they live."""
  shardings = mesh_lib.state_shardings(mesh, tree)
  return jax.lax.with_sharding_constraint(tree, shardings)


class TrainStep:
  """A training step, compiled once for each shape of batch."""

  def __init__(self, compiled: Any, dropout_key: jax.Array, mesh: Mesh):
    self._compiled, self._key, self._mesh = compiled, dropout_key, mesh

  def __call__(
    self, state: TrainState, batch: dict, rate: float, accumulation: int = 1
  ) -> tuple[TrainState, Sums]:
    """Takes a step.

    Args:
      state: given away.
      batch: on the devices.
      rate: the learning rate.
      accumulation: micro-batches the batch is cut into; their gradients are
        summed and divided once, so that they equal the large batch's.

    Returns:
      The next state, and the window's sums so far.
    """
    with jax.set_mesh(self._mesh):
      # An array, so that another rate is no other function.
      return self._compiled(
        state, batch, np.float32(rate), self._key, accumulation
      )

  def lower(
    self, state: Any, batch: dict, accumulation: int = 1
  ) -> jax.stages.Lowered:
    """What would be compiled for these shapes."""
    with jax.set_mesh(self._mesh):
      return self._compiled.lower(
        state, batch, np.float32(0), self._key, accumulation
      )


def make_train_step(
  loss_function: LossFunction,
  optimizer: optax.GradientTransformation,
  mesh: Mesh,
  *,
  seed: int,
  log_every: int,
  prepare: Callable[[Batch], Batch] = lambda batch: batch,
) -> 'TrainStep':
  """Compiles the step, once for each shape of batch and accumulation.

  Args:
    loss_function: (params, batch, key) to `Sums` with `loss` among them; its
      sum is what is differentiated, divided by its weight over the whole
      batch.
    optimizer: of optax; its updates are those of a learning rate of 1.
    mesh: of the devices.
    seed: of the dropout, which is drawn from (seed, step, micro-batch).
    log_every: steps after which the window of metrics starts anew.
    prepare: makes of a batch what the loss function takes, the whole batch at
      once, before it is cut: arrays [B, ...], with `segment_ids` int32 [B, S]
      among them, 0 on padding, by which tokens are counted.

  Returns:
    The step, to be called.
  """

  def gradients(params, batch, key):
    def objective(params):
      sums = loss_function(params, batch, key)
      return sums['loss'][0], sums

    (_, sums), grads = jax.value_and_grad(objective, has_aux=True)(params)
    return _placed(mesh, grads), sums

  def accumulated(params, batch, key, accumulation):
    if accumulation == 1:
      return gradients(params, batch, jax.random.fold_in(key, 0))

    # Micro-batch i takes rows i, i+A, i+2A, …: each device cuts its own rows.
    def cut(x):
      return x.reshape(-1, accumulation, *x.shape[1:]).swapaxes(0, 1)

    def add(carry, part):
      number, micro_batch = part
      new = gradients(params, micro_batch, jax.random.fold_in(key, number))
      return _add(carry, new), None

    parts = (jnp.arange(accumulation), jax.tree.map(cut, batch))
    start = jax.tree.map(
      lambda x: jnp.zeros(x.shape, x.dtype),
      jax.eval_shape(
        gradients, params, jax.tree.map(lambda x: x[0], parts[1]), key
      ),
    )
    return jax.lax.scan(add, start, parts)[0]

  def train_step(
    state: TrainState, batch, learning_rate, dropout_key, accumulation
  ) -> tuple[TrainState, Sums]:
    batch = prepare(batch)
    key = jax.random.fold_in(dropout_key, state['step'])
    grads, sums = accumulated(state['params'], batch, key, accumulation)
    # A batch without a single target has no gradient, rather than 0/0.
    weight = jnp.maximum(sums['loss'][1], 1e-9)
    grads = jax.tree.map(lambda g: g / weight, grads)
    updates, opt_state = optimizer.update(
      grads, state['opt_state'], state['params']
    )
    updates = jax.tree.map(lambda u: learning_rate * u, updates)
    one = jnp.ones((), jnp.float32)
    sums = sums | {
      'gradient_norm': (optax.tree.norm(grads), one),
      'update_norm': (optax.tree.norm(updates), one),
      'tokens': ((batch['segment_ids'] > 0).sum().astype(jnp.float32), one),
    }
    fresh = state['step'] % log_every == 0
    window = jax.tree.map(
      lambda old, new: jnp.where(fresh, 0.0, old) + new, state['window'], sums
    )
    state = TrainState(
      step=state['step'] + 1,
      params=optax.apply_updates(state['params'], updates),
      opt_state=opt_state,
      window=window,
    )
    return _placed(mesh, state), jax.lax.with_sharding_constraint(
      window, mesh_lib.replicated(mesh)
    )

  # A stream of its own, apart from initialisation and masks. An argument, not
  # a constant: runs of other seeds then share one compilation (with
  # JAX_COMPILATION_CACHE_DIR).
  dropout_key = jax.random.fold_in(jax.random.key(seed), 1)
  return TrainStep(
    jax.jit(train_step, donate_argnums=0, static_argnums=4), dropout_key, mesh
  )
