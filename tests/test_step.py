"""The step: accumulation, devices, decay and schedules."""

import jax
import numpy as np
import optax
import pytest

from shared_bert.errors import UserError
from shared_bert.model import parameters
from shared_bert.training import mesh as mesh_lib
from shared_bert.training.optimizer import make_optimizer
from shared_bert.training.step import init_state, make_train_step
from tests import tiny

NO_DROPOUT = {'hidden_dropout': 0.0, 'attention_dropout': 0.0}


def state_of(mesh, optimizer, **model):
  config = tiny.model_config(**model)
  return init_state(
    lambda: parameters.initialise(tiny.maker(config), jax.random.key(0)),
    optimizer,
    ('loss',),
    mesh,
  )


def step_of(mesh, optimizer, log_every=100, **model):
  loss = tiny.loss_function(tiny.model_config(**model))
  return make_train_step(loss, optimizer, mesh, seed=0, log_every=log_every)


def train(
  steps,
  *,
  optimizer,
  learning_rate=0.5,
  accumulation=1,
  devices=None,
  fsdp=1,
  log_every=100,
  **model,
):
  mesh = mesh_lib.make_mesh(fsdp, devices)
  state = state_of(mesh, optimizer, **model)
  step = step_of(mesh, optimizer, log_every, **model)
  windows = []
  for number in range(steps):
    batch = mesh_lib.place_batch(mesh, tiny.batch(number))
    state, window = step(state, batch, learning_rate, accumulation)
    windows.append(jax.device_get(window))
  return jax.device_get(state), windows


def mean_losses(windows):
  """Loss of each step from sums that grow."""
  pairs = np.array([w['loss'] for w in windows], np.float64)
  pairs[1:] -= pairs[:-1].copy()
  return pairs[:, 0] / pairs[:, 1]


def test_accumulated_gradients_equal_those_of_the_large_batch():
  # Plain descent: Adam would divide rounding errors by themselves.
  sgd = optax.sgd(1.0)
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


def test_micro_batches_count_by_their_targets_not_alike(monkeypatch):
  # Micro-batch i takes rows i, i+4, …: one has a single target, others many.
  def unequal(step):
    batch = plain(step)
    few = np.arange(tiny.B) % 4 == 0
    batch['weights'] = batch['segment_ids'].astype(np.float32)
    batch['weights'][few] = 0
    batch['weights'][0, 1] = 1
    return batch

  plain = tiny.batch
  monkeypatch.setattr(tiny, 'batch', unequal)
  counts = unequal(0)['weights'].reshape(4, 4, -1).sum((0, 2))
  assert counts[0] == 1 and counts[1:].min() > 10
  sgd = optax.sgd(1.0)
  one = {'optimizer': sgd, 'devices': jax.devices()[:1], **NO_DROPOUT}
  whole, (window,) = train(1, **one)
  parts, (cut,) = train(1, accumulation=4, **one)
  assert window['loss'][1] == cut['loss'][1] == counts.sum()
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
    whole['params'],
    parts['params'],
  )


def test_another_learning_rate_is_no_other_compilation(caplog):
  with jax.log_compiles():
    mesh = mesh_lib.make_mesh(devices=jax.devices()[:1])
    state = state_of(mesh, optax.sgd(1.0))
    step = step_of(mesh, optax.sgd(1.0))
    for rate in (0.5, 0.25, 0.0):
      batch = mesh_lib.place_batch(mesh, tiny.batch(0))
      state, _ = step(state, batch, rate)
  compiled = [m for m in caplog.messages if 'Compiling jit(train_step)' in m]
  assert len(compiled) == 1, compiled


@pytest.mark.devices
def test_one_device_equals_all_of_them():
  adamw = tiny.optimizer()
  _, alone = train(
    20, optimizer=adamw, learning_rate=1e-3, devices=jax.devices()[:1]
  )
  _, together = train(20, optimizer=adamw, learning_rate=1e-3)
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
  sgd = optax.sgd(1.0)
  whole, _ = train(2, optimizer=sgd, devices=jax.devices()[:1], **NO_DROPOUT)
  parts, _ = train(2, optimizer=sgd, accumulation=2, **NO_DROPOUT)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
    whole['params'],
    parts['params'],
  )


def test_a_step_repeats_bit_for_bit():
  adamw = tiny.optimizer()
  first, _ = train(3, optimizer=adamw, learning_rate=1e-2)
  second, _ = train(3, optimizer=adamw, learning_rate=1e-2)
  jax.tree.map(np.testing.assert_array_equal, first, second)


def test_the_norm_of_an_update_is_that_of_what_the_step_changes():
  sgd = optax.sgd(1.0)
  before, _ = train(0, optimizer=sgd)
  after, (window,) = train(1, optimizer=sgd)
  change = jax.tree.map(np.subtract, after['params'], before['params'])
  total, weight = window['update_norm']
  assert weight == 1
  np.testing.assert_allclose(total, optax.tree.norm(change), rtol=1e-5)
  np.testing.assert_allclose(total, 0.5 * window['gradient_norm'][0], rtol=1e-6)


def test_a_step_clips_as_optax_does_by_the_norm_that_it_logs():
  rule = {'weight_decay': 0.01, 'no_decay': 'bias', 'epsilon': 1e-3}
  ours, (window,) = train(
    1, optimizer=make_optimizer('adamw', clip_norm=0.25, **rule)
  )
  theirs, _ = train(
    1,
    optimizer=optax.chain(
      optax.clip_by_global_norm(0.25),
      make_optimizer('adamw', clip_norm=0.0, **rule),
    ),
  )
  assert window['gradient_norm'][0] > 0.5
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
    ours['params'],
    theirs['params'],
  )


def test_the_window_starts_anew_after_each_log():
  sgd = optax.sgd(1.0)
  _, windows = train(5, optimizer=sgd, learning_rate=0, log_every=2)
  counts = [float(w['gradient_norm'][1]) for w in windows]
  assert counts == [1, 2, 1, 2, 1]
  tokens = [(tiny.batch(i)['segment_ids'] > 0).sum() for i in range(5)]
  assert windows[3]['tokens'][0] == tokens[2] + tokens[3]


def test_a_batch_that_devices_cannot_share_is_refused_with_what_fits():
  with pytest.raises(UserError, match='use 8 or 16'):
    mesh_lib.check_batch_size('train.batch_size', 12, 8)
