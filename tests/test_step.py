"""The step: accumulation, devices, decay and schedules."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from shared_bert.errors import UserError
from shared_bert.model import parameters
from shared_bert.training import mesh as mesh_lib
from shared_bert.training import optimizer as optimizer_lib
from shared_bert.training.step import init_state, make_train_step
from tests import tiny

NO_DROPOUT = {'hidden_dropout': 0.0, 'attention_dropout': 0.0}


def train(
  steps, *, optimizer, accumulation=1, devices=None, log_every=100, **model
):
  config = tiny.model_config(**model)
  mesh = mesh_lib.make_mesh(devices)
  state = init_state(
    lambda: parameters.initialise(tiny.maker(config), jax.random.key(0)),
    optimizer,
    ('loss',),
    mesh,
  )
  step = make_train_step(
    tiny.loss_function(config),
    optimizer,
    seed=0,
    accumulation=accumulation,
    log_every=log_every,
  )
  windows = []
  for number in range(steps):
    state, window = step(state, mesh_lib.place_batch(mesh, tiny.batch(number)))
    windows.append(jax.device_get(window))
  return jax.device_get(state), windows


def mean_losses(windows):
  """Loss of each step from sums that grow."""
  pairs = np.array([w['loss'] for w in windows], np.float64)
  pairs[1:] -= pairs[:-1].copy()
  return pairs[:, 0] / pairs[:, 1]


def test_accumulated_gradients_equal_those_of_the_large_batch():
  # Plain descent: Adam would divide rounding errors by themselves.
  sgd = optax.sgd(0.5)
  whole, _ = train(2, optimizer=sgd, devices=jax.devices()[:1], **NO_DROPOUT)
  parts, _ = train(
    2,
    optimizer=sgd,
    accumulation=4,
    devices=jax.devices()[:1],
    **NO_DROPOUT,
  )
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
    whole['params'],
    parts['params'],
  )


@pytest.mark.devices
def test_one_device_equals_all_of_them():
  adamw, _ = tiny.optimizer(20, 1e-3)
  _, alone = train(20, optimizer=adamw, devices=jax.devices()[:1])
  _, together = train(20, optimizer=adamw)
  # The dropout is part of the comparison: it does not know the devices.
  np.testing.assert_allclose(
    mean_losses(alone), mean_losses(together), rtol=1e-5
  )
  for name in ('gradient_norm', 'update_norm'):
    np.testing.assert_allclose(
      *([w[name][0] for w in windows] for windows in (alone, together)),
      rtol=1e-4,
    )


@pytest.mark.devices
def test_accumulation_on_all_devices_equals_one_device():
  sgd = optax.sgd(0.5)
  whole, _ = train(2, optimizer=sgd, devices=jax.devices()[:1], **NO_DROPOUT)
  parts, _ = train(2, optimizer=sgd, accumulation=2, **NO_DROPOUT)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
    whole['params'],
    parts['params'],
  )


def test_a_step_repeats_bit_for_bit():
  adamw, _ = tiny.optimizer(3)
  first, _ = train(3, optimizer=adamw)
  second, _ = train(3, optimizer=adamw)
  jax.tree.map(np.testing.assert_array_equal, first, second)


def test_the_norm_of_an_update_is_that_of_what_the_step_changes():
  sgd = optax.sgd(0.5)
  before, _ = train(0, optimizer=sgd)
  after, (window,) = train(1, optimizer=sgd)
  change = jax.tree.map(np.subtract, after['params'], before['params'])
  total, weight = window['update_norm']
  assert weight == 1
  np.testing.assert_allclose(total, optax.tree.norm(change), rtol=1e-5)
  np.testing.assert_allclose(total, 0.5 * window['gradient_norm'][0], rtol=1e-6)


def test_the_window_starts_anew_after_each_log():
  sgd = optax.sgd(0.0)
  _, windows = train(5, optimizer=sgd, log_every=2)
  counts = [float(w['gradient_norm'][1]) for w in windows]
  assert counts == [1, 2, 1, 2, 1]
  tokens = [(tiny.batch(i)['segment_ids'] > 0).sum() for i in range(5)]
  assert windows[3]['tokens'][0] == tokens[2] + tokens[3]


def test_decay_leaves_biases_scales_and_diagonals_alone():
  adamw = optimizer_lib.adamw(
    optax.constant_schedule(1.0),
    weight_decay=0.5,
    no_decay=r'(bias|scale|/d_[qkv])$',
    clip_norm=0.0,
    beta1=0.9,
    beta2=0.999,
    epsilon=1e-6,
  )
  params = parameters.initialise(
    tiny.maker(tiny.model_config()), jax.random.key(0)
  )
  params = jax.tree.map(jnp.ones_like, params)
  zero = jax.tree.map(jnp.zeros_like, params)
  updates, _ = adamw.update(zero, adamw.init(params), params)
  decayed = {
    name for name, u in parameters.named_leaves(updates) if (u != 0).any()
  }
  spared = {name for name, _ in parameters.named_leaves(params)} - decayed
  assert all(name.endswith(('kernel', 'embedding')) for name in decayed)
  assert all(
    name.endswith(('bias', 'scale', 'd_q', 'd_k', 'd_v')) for name in spared
  )
  assert 'encoder/layers/attention/projection/d_q' in spared


def test_diagonals_can_learn_at_a_rate_of_their_own():
  adamw = optimizer_lib.adamw(
    optax.constant_schedule(1.0),
    weight_decay=0.0,
    no_decay='bias',
    clip_norm=0.0,
    beta1=0.9,
    beta2=0.999,
    epsilon=1e-6,
    diagonal_learning_rate_scale=0.25,
  )
  params = {'p': {'d_q': jnp.ones(3), 'kernel': jnp.ones(3)}}
  grads = jax.tree.map(jnp.ones_like, params)
  updates, _ = adamw.update(grads, adamw.init(params), params)
  np.testing.assert_allclose(
    updates['p']['d_q'], 0.25 * updates['p']['kernel'], rtol=1e-6
  )


@pytest.mark.parametrize(
  ('name', 'values'),
  [
    ('linear', {0: 0.0, 5: 0.5, 10: 1.0, 55: 0.5, 100: 0.0}),
    ('cosine', {0: 0.0, 10: 1.0, 55: 0.5, 100: 0.0}),
    ('constant', {0: 0.0, 5: 0.5, 10: 1.0, 100: 1.0}),
  ],
)
def test_schedules_warm_up_and_end_where_they_should(name, values):
  schedule = optimizer_lib.learning_rate_schedule(name, 1.0, 10, 100)
  for step, value in values.items():
    np.testing.assert_allclose(schedule(step), value, atol=1e-6)


def test_a_warm_up_as_long_as_the_run_is_refused():
  with pytest.raises(UserError, match='warmup'):
    optimizer_lib.learning_rate_schedule('linear', 1.0, 100, 100)


def test_a_batch_that_devices_cannot_share_is_refused_with_what_fits():
  mesh = mesh_lib.make_mesh()
  if mesh.size == 1:
    pytest.skip('one device shares any batch')
  with pytest.raises(UserError, match='use 8 or 16'):
    mesh_lib.check_batch_size('train.batch_size', 12, mesh)
