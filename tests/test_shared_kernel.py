"""The kernel of shared attention: the numbers of the method, and no others'."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.experimental.pallas import tpu as pltpu

from shared_bert.model import parameters
from shared_bert.model.attention import SelfAttention
from shared_bert.model.shared_kernel import shared_attention
from shared_bert.training import mesh as mesh_lib
from shared_bert.training.step import init_state, make_train_step
from tests import tiny
from tests.tiny_model import (
  assert_close,
  forward,
  maker,
  random_params,
  tiny_config,
  token_rows,
)

B, S, H, K = 3, 70, 2, 8  # three tiles of 32 rows, the last with 6
KERNEL = {'attention_backend': 'pallas_shared', 'attention_dropout': 0.0}
XLA = KERNEL | {'attention_backend': 'xla'}


def rows():
  """A packed row, a padded one, and one of padding alone: int32 [B, S]."""
  segments = np.zeros((B, S), np.int32)
  for number, (start, end) in enumerate([(0, 20), (20, 21), (21, 66)], 1):
    segments[0, start:end] = number
  segments[1, :40] = 1
  return segments


def case(dtype=np.float64):
  """S, d_q, d_k, d_v, and the weights of what comes out, in a loss."""
  rng = np.random.default_rng(0)
  diagonals = [rng.normal(size=(H, K)) for _ in range(3)]
  s, weights = (rng.normal(size=(B, S, H, K)) for _ in range(2))
  return [x.astype(dtype) for x in (s, *diagonals, weights)]


def by_the_book(s, d_q, d_k, d_v, segments):
  """Attention of three arrays in their dtype; 0 for padding."""
  q, k, v = s * d_q, s * d_k, s * d_v
  scores = jnp.einsum('BSHK,BTHK->BHST', q, k) / K**0.5
  visible = segments[:, None, :, None] == segments[:, None, None, :]
  weights = jax.nn.softmax(jnp.where(visible, scores, -jnp.inf))
  context = jnp.einsum('BHST,BTHK->BSHK', weights, v)
  return jnp.where((segments > 0)[:, :, None, None], context, 0)


def by_the_kernel(s, d_q, d_k, d_v, segments, platform='cpu'):
  return shared_attention(s, d_q * d_k, d_v, segments, platform)


def results(attend, s, d_q, d_k, d_v, weights, segments):
  """The context, and the gradients of S and the diagonals."""

  def loss(*args):
    context = attend(*args, segments)
    return (context.astype(weights.dtype) * weights).sum(), context

  gradients, context = jax.grad(loss, argnums=(0, 1, 2, 3), has_aux=True)(
    s, d_q, d_k, d_v
  )
  return {
    'context': context,
    **dict(zip(('S', 'd_q', 'd_k', 'd_v'), gradients, strict=True)),
  }


kernel_results = jax.jit(functools.partial(results, by_the_kernel))


def exact(*args):
  with jax.enable_x64(True):
    computed = results(by_the_book, *map(jnp.asarray, args), rows())
    return jax.device_get(computed)


@pytest.mark.parametrize('platform', ['cpu', 'tpu'])
def test_values_and_gradients_are_those_of_three_arrays_in_float64(platform):
  expected = exact(*case())
  if platform == 'tpu':  # its layout and tiles, on a simulated one
    attend = functools.partial(by_the_kernel, platform='tpu')
    with pltpu.force_tpu_interpret_mode():
      ours = jax.device_get(
        jax.jit(functools.partial(results, attend))(*case(np.float32), rows())
      )
  else:
    ours = kernel_results(*case(np.float32), rows())
  for name, value in expected.items():
    assert value.dtype == np.float64
    np.testing.assert_allclose(
      ours[name], value, rtol=0, atol=2e-6 * np.abs(value).max(), err_msg=name
    )
  assert not ours['context'][2].any()  # nothing but padding
  assert not ours['S'][2].any()


def test_bfloat16_loses_what_its_rounding_loses():
  s, *diagonals, weights = case(np.float32)
  s = jnp.asarray(s, jnp.bfloat16)
  ours = kernel_results(s, *diagonals, weights, rows())
  expected = exact(
    *(np.asarray(x, np.float64) for x in (s, *diagonals)), weights
  )
  assert ours['context'].dtype == ours['S'].dtype == jnp.bfloat16
  assert ours['d_q'].dtype == jnp.float32
  for name, value in expected.items():
    error = np.abs(np.asarray(ours[name], np.float64) - value)
    # 8 significant bits, in a few places one after the other.
    assert error.max() < 2.0**-6 * np.abs(value).max(), name
    assert error.mean() < 2.0**-8 * np.abs(value).max(), name


def test_a_segment_sees_nothing_of_its_neighbours_not_a_bit():
  s, *diagonals, weights = case(np.float32)
  before = kernel_results(s, *diagonals, weights, rows())
  other = rows() == 3
  s, weights = s.copy(), weights.copy()
  s[other] *= -3
  weights[other] += 5
  after = kernel_results(s, *diagonals, weights, rows())
  same = (rows() > 0) & ~other
  for name in ('context', 'S'):
    ours, theirs = np.asarray(before[name]), np.asarray(after[name])
    assert ours[same].tobytes() == theirs[same].tobytes()
    assert not np.array_equal(ours[other], theirs[other])


@pytest.mark.parametrize('folded', [False, True])
def test_a_layer_computes_the_same_with_the_kernel(folded):
  def layer(backend):
    return forward(SelfAttention, tiny_config(folded=folded, **backend))

  params = random_params(maker(SelfAttention, tiny_config(folded=folded)))
  x = np.random.default_rng(1).normal(size=(3, 12, 16)).astype(np.float32)
  _, _, segments = token_rows()
  real = np.asarray(segments) > 0
  ours, theirs = (layer(b)(params, x, segments) for b in (KERNEL, XLA))
  np.testing.assert_allclose(ours[real], theirs[real], rtol=0, atol=1e-5)


def test_the_few_queries_of_a_last_layer_are_those_of_the_kernel():
  config = tiny_config(**KERNEL)
  params = random_params(maker(SelfAttention, config))
  x = np.random.default_rng(1).normal(size=(3, 12, 16)).astype(np.float32)
  _, _, segments = token_rows()
  read = jnp.array([[0, 11, 5], [6, 0, 1], [2, 1, 0]])
  layer = forward(SelfAttention, config)
  np.testing.assert_allclose(
    layer(params, x, segments, None, read),
    jnp.take_along_axis(layer(params, x, segments), read[:, :, None], axis=1),
    rtol=0,
    atol=1e-5,
  )


@functools.cache
def trained(devices, fsdp=1, **model):
  """The metrics and the parameters after a step of plain descent."""
  config = tiny.model_config(hidden_dropout=0.0, **model)
  mesh = mesh_lib.make_mesh(fsdp, jax.devices()[:devices])
  optimizer = optax.sgd(1.0)
  state = init_state(
    lambda: parameters.initialise(tiny.maker(config), jax.random.key(0)),
    optimizer,
    ('loss',),
    mesh,
  )
  step = make_train_step(
    tiny.loss_function(config), optimizer, mesh, seed=0, log_every=100
  )
  batch = mesh_lib.place_batch(mesh, tiny.batch(0))
  state, window = step(state, batch, 0.5, 1)
  # Of a sum of 117, 1e-5 would be less than two units in the last place.
  means = {name: total / weight for name, (total, weight) in window.items()}
  return jax.device_get((state['params'], means))


@pytest.mark.parametrize(
  ('how', 'devices'),
  [({}, 4), ({'scan_layers': False, 'remat': 'full'}, 1)],
  ids=['scanned, on four devices', 'unrolled, computed twice'],
)
def test_a_training_step_is_the_same_with_the_kernel(how, devices):
  devices = min(devices, jax.device_count())
  ours = trained(devices, fsdp=max(1, devices // 2), **KERNEL, **how)
  assert_close(ours, trained(1, **XLA))


@pytest.mark.parametrize('length', [128, 100, 32])
@pytest.mark.parametrize(
  ('platform', 'lowered_for', 'call'),
  [('gpu', 'cuda', 'triton'), ('tpu', 'tpu', 'tpu_custom_call')],
)
def test_the_kernel_lowers_for_accelerators(
  platform, lowered_for, call, length
):
  # As far as it goes without a device: nothing runs.
  def loss(s, a, d_v, segments):
    context = shared_attention(s, a, d_v, segments, platform)
    return context.astype(jnp.float32).sum()

  text = (
    jax.jit(jax.grad(loss, argnums=(0, 1, 2)))
    .trace(
      jax.ShapeDtypeStruct((2, length, 4, 64), jnp.bfloat16),
      jax.ShapeDtypeStruct((4, 64), jnp.float32),
      jax.ShapeDtypeStruct((4, 64), jnp.float32),
      jax.ShapeDtypeStruct((2, length), jnp.int32),
    )
    .lower(lowering_platforms=(lowered_for,))
    .as_text()
  )
  assert text.count(call) >= 2
  for name in ('shared_attention_forward', 'shared_attention_backward'):
    assert name in text
