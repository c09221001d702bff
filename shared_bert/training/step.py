"""The training step: one compiled, donated function of state and batch."""

from collections.abc import Callable
from typing import Any, NotRequired, TypedDict

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
# (params, batch, key, *frozen) to sums; see `make_train_step`.
LossFunction = Callable[..., Sums]


class TrainState(TypedDict):
  """All that a run carries from step to step, and that a checkpoint keeps.

  Attributes:
    step: int32 scalar, optimiser steps done.
    params: nested dict of float32 arrays.
    opt_state: of optax.
    skipped: int32 scalar, steps whose batch was skipped; only of a run that
      skips batches.
    window: `Sums` since the last logged step. Kept here, on the device, so
      that logging never waits for a step and a resumed run logs the same
      numbers as an undisturbed one.

  Of N seeds that are trained together, all arrays but `step` have a leading N
  axis.
  """

  step: jax.Array
  params: Any
  opt_state: Any
  skipped: NotRequired[jax.Array]
  window: Sums


def of_seed(seed: int, name: str) -> str:
  """What a number of one seed is called, where several train together."""
  return f'seed-{seed}/{name}'


def _state_maker(
  make_params: Callable[[], Any],
  optimizer: optax.GradientTransformation,
  metric_names: tuple[str, ...],
  skip_nonfinite: bool,
  seeds: int | None,
) -> Callable[[], TrainState]:
  def make() -> TrainState:
    zero = jnp.zeros(() if seeds is None else (seeds,), jnp.float32)
    params = make_params()
    init = optimizer.init if seeds is None else jax.vmap(optimizer.init)
    names = (*metric_names, 'gradient_norm', 'update_norm', 'tokens')
    state: TrainState = {
      'step': jnp.zeros((), jnp.int32),
      'params': params,
      'opt_state': init(params),
      'window': dict.fromkeys(names, (zero, zero)),
    }
    if skip_nonfinite:
      state['skipped'] = jnp.zeros((), jnp.int32)
    return state

  return make


def abstract_state(
  make_params: Callable[[], Any],
  optimizer: optax.GradientTransformation,
  metric_names: tuple[str, ...],
  mesh: Mesh | AbstractMesh,
  skip_nonfinite: bool = False,
  seeds: int | None = None,
) -> Any:
  """What a state looks like: to restore checkpoints into.

  Args:
    make_params: returns the initial parameters, of several seeds stacked;
      traced.
    optimizer: of optax.
    metric_names: those the loss function returns.
    mesh: the mesh.
    skip_nonfinite: as for `make_train_step`.
    seeds: N, if several are trained together.

  Returns:
    The tree of a `TrainState`, of `jax.ShapeDtypeStruct` with shardings.
  """
  shapes = jax.eval_shape(
    _state_maker(make_params, optimizer, metric_names, skip_nonfinite, seeds)
  )
  return mesh_lib.placed(mesh, shapes)


def init_state(
  make_params: Callable[[], Any],
  optimizer: optax.GradientTransformation,
  metric_names: tuple[str, ...],
  mesh: Mesh,
  skip_nonfinite: bool = False,
  seeds: int | None = None,
) -> TrainState:
  """Makes the first state, each leaf where it is to live.

  Args:
    make_params: as for `abstract_state`.
    optimizer: of optax.
    metric_names: those the loss function returns.
    mesh: the mesh.
    skip_nonfinite: as for `make_train_step`.
    seeds: N, if several are trained together.

  Returns:
    The state.
  """
  parts = (make_params, optimizer, metric_names)
  abstract = abstract_state(*parts, mesh, skip_nonfinite, seeds)
  return jax.jit(
    _state_maker(*parts, skip_nonfinite, seeds),
    out_shardings=jax.tree.map(lambda x: x.sharding, abstract),
  )()


def _add(a, b):
  return jax.tree.map(jnp.add, a, b)


def _placed(mesh: Mesh, tree: Any) -> Any:
  """Keeps parameters, or what is shaped like them, where they live."""
  shardings = mesh_lib.state_shardings(mesh, tree)
  return jax.lax.with_sharding_constraint(tree, shardings)


def _unless_finite(
  old: TrainState, new: TrainState, sums: Sums, fresh: jax.Array
) -> TrainState:
  """The new state, or if the step was not finite the old one, counted."""
  seen = [sums[name][0] for name in ('loss', 'gradient_norm', 'update_norm')]
  good = jnp.isfinite(jnp.stack(seen)).all()
  before = TrainState(
    step=new['step'],
    params=old['params'],
    opt_state=old['opt_state'],
    window=jax.tree.map(lambda x: jnp.where(fresh, 0.0, x), old['window']),
  )
  kept = jax.tree.map(lambda n, b: jnp.where(good, n, b), new, before)
  kept['skipped'] = old['skipped'] + jnp.where(good, 0, 1)
  return kept


def _of_each(
  train_step: Callable[..., tuple[TrainState, Sums]],
  mesh: Mesh,
  seeds: tuple[int, ...],
) -> Callable[..., tuple[TrainState, Sums]]:
  """The step of several seeds at once, each as it would be alone."""

  def step(state, batch, learning_rate, keys, frozen, accumulation):
    def one(state, batch, key):
      return train_step(state, batch, learning_rate, key, frozen, accumulation)

    axes = dict.fromkeys(state, 0) | {'step': None}
    new, sums = jax.vmap(one, in_axes=(axes, 0, 0), out_axes=(axes, 0))(
      state, batch, keys
    )
    tokens, weights = sums.pop('tokens')
    named = {
      of_seed(seed, name): (totals[n], weights[n])
      for n, seed in enumerate(seeds)
      for name, (totals, weights) in sums.items()
    }
    # Speeds are those of all seeds.
    return _placed(mesh, new), named | {'tokens': (tokens.sum(), weights[0])}

  return step


class TrainStep:
  """A training step, compiled once for each shape of batch."""

  def __init__(
    self,
    compiled: Any,
    dropout_key: jax.Array,
    mesh: Mesh,
    frozen: tuple[Any, ...],
  ):
    self._compiled, self._key, self._mesh = compiled, dropout_key, mesh
    self._frozen = frozen

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
        state, batch, np.float32(rate), self._key, self._frozen, accumulation
      )

  def lower(
    self, state: Any, batch: dict, accumulation: int = 1
  ) -> jax.stages.Lowered:
    """What would be compiled for these shapes."""
    with jax.set_mesh(self._mesh):
      return self._compiled.lower(
        state, batch, np.float32(0), self._key, self._frozen, accumulation
      )


def make_train_step(
  loss_function: LossFunction,
  optimizer: optax.GradientTransformation,
  mesh: Mesh,
  *,
  seed: int | tuple[int, ...],
  log_every: int,
  prepare: Callable[[Batch], Batch] = lambda batch: batch,
  skip_nonfinite: bool = False,
  frozen: tuple[Any, ...] = (),
) -> 'TrainStep':
  """Compiles the step, once for each shape of batch and accumulation.

  Args:
    loss_function: (params, batch, key, *frozen) to `Sums` with `loss` among
      them; its sum is what is differentiated, divided by its weight over the
      whole batch.
    optimizer: of optax; its updates are those of a learning rate of 1. It is
      told `gradient_norm`, a scalar, if it takes further arguments.
    mesh: of the devices.
    seed: of the dropout, which is drawn from (seed, step, micro-batch). Of
      several, N, each takes the step that it would take alone: state and batch
      have a leading N axis, and the sums of each are named by `of_seed`.
    log_every: steps after which the window of metrics starts anew.
    prepare: makes of a batch what the loss function takes, the whole batch at
      once, before it is cut: arrays [B, ...], with `segment_ids` int32 [B, S]
      among them, 0 on padding, by which tokens are counted.
    skip_nonfinite: whether a step whose loss, gradient or update is not finite
      leaves everything as it was but the step's number and a count of them.
    frozen: trees of arrays on the devices that the loss reads besides and that
      are not trained.

  Returns:
    The step, to be called.
  """
  optimizer = optax.with_extra_args_support(optimizer)

  def gradients(params, batch, key, frozen):
    def objective(params):
      sums = loss_function(params, batch, key, *frozen)
      return sums['loss'][0], sums

    (_, sums), grads = jax.value_and_grad(objective, has_aux=True)(params)
    return _placed(mesh, grads), sums

  def accumulated(params, batch, key, frozen, accumulation):
    if accumulation == 1:
      return gradients(params, batch, jax.random.fold_in(key, 0), frozen)

    # Micro-batch i takes rows i, i+A, i+2A, …: each device cuts its own rows.
    def cut(x):
      return x.reshape(-1, accumulation, *x.shape[1:]).swapaxes(0, 1)

    def add(carry, part):
      number, micro_batch = part
      micro_key = jax.random.fold_in(key, number)
      new = gradients(params, micro_batch, micro_key, frozen)
      return _add(carry, new), None

    parts = (jnp.arange(accumulation), jax.tree.map(cut, batch))
    start = jax.tree.map(
      lambda x: jnp.zeros(x.shape, x.dtype),
      jax.eval_shape(
        gradients, params, jax.tree.map(lambda x: x[0], parts[1]), key, frozen
      ),
    )
    return jax.lax.scan(add, start, parts)[0]

  def train_step(
    state: TrainState, batch, learning_rate, dropout_key, frozen, accumulation
  ) -> tuple[TrainState, Sums]:
    batch = prepare(batch)
    key = jax.random.fold_in(dropout_key, state['step'])
    grads, sums = accumulated(state['params'], batch, key, frozen, accumulation)
    # A batch without a single target has no gradient, rather than 0/0.
    share = 1.0 / jnp.maximum(sums['loss'][1], 1e-9)
    # Norms of what is there before a factor: had they an array of products to
    # read, XLA would write it, where it else multiplies as it goes.
    gradient_norm = share * optax.tree.norm(grads)
    grads = jax.tree.map(lambda g: share * g, grads)
    updates, opt_state = optimizer.update(
      grads, state['opt_state'], state['params'], gradient_norm=gradient_norm
    )
    update_norm = learning_rate * optax.tree.norm(updates)
    updates = jax.tree.map(lambda u: learning_rate * u, updates)
    one = jnp.ones((), jnp.float32)
    sums = sums | {
      'gradient_norm': (gradient_norm, one),
      'update_norm': (update_norm, one),
      'tokens': ((batch['segment_ids'] > 0).sum().astype(jnp.float32), one),
    }
    fresh = state['step'] % log_every == 0
    window = jax.tree.map(
      lambda old, new: jnp.where(fresh, 0.0, old) + new, state['window'], sums
    )
    new = TrainState(
      step=state['step'] + 1,
      params=optax.apply_updates(state['params'], updates),
      opt_state=opt_state,
      window=window,
    )
    if skip_nonfinite:
      new = _unless_finite(state, new, sums, fresh)
    window = jax.lax.with_sharding_constraint(
      new['window'], mesh_lib.replicated(mesh)
    )
    if skip_nonfinite:
      window = window | {'skipped': (new['skipped'].astype(jnp.float32), one)}
    return _placed(mesh, new), window

  # A stream of its own, apart from initialisation and masks. An argument, not
  # a constant: runs of other seeds then share one kept program.
  def dropout_key(seed: int) -> jax.Array:
    return jax.random.fold_in(jax.random.key(seed), 1)

  if isinstance(seed, int):
    step, key = train_step, dropout_key(seed)
  else:
    step = _of_each(train_step, mesh, seed)
    key = jnp.stack([dropout_key(one) for one in seed])
  return TrainStep(
    jax.jit(step, donate_argnums=0, static_argnums=5),
    key,
    mesh,
    frozen,
  )
