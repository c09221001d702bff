import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from shared_bert.model import backends, parameters
from shared_bert.model.attention import PROJECTIONS, SelfAttention
from shared_bert.model.config import ATTENTIONS, BertConfig
from shared_bert.model.encoder import BertModel
from shared_bert.model.layers import dropout
from shared_bert.model.parameters import initialise
from tests.tiny_model import (
  forward,
  maker,
  random_params,
  tiny_config,
  token_rows,
)

attention = jax.jit(backends.xla_attention, static_argnames=('dropout_rate',))

MECHANISMS = [{'attention': name} for name in ATTENTIONS] + [
  {'attention': 'shared', 'role_bias': True}
]
NAMES = [*ATTENTIONS, 'shared with role_bias']


def standard_projection(config, projection):
  """The projection of standard attention that computes the same function."""
  matrices = {
    role: projection[role]['kernel']
    for role in ('query', 'key', 'value', 'shared')
    if role in projection
  }
  biases = {
    role: projection[role]['bias']
    for role in matrices
    if 'bias' in projection[role]
  }
  if config.attention == 'shared':
    for role, name in (('query', 'd_q'), ('key', 'd_k'), ('value', 'd_v')):
      d = projection[name]
      matrices[role] = matrices['shared'] * d[..., None, :]
      biases[role] = (
        projection[f'{role}_bias'] if config.role_bias else biases['shared'] * d
      )
  elif config.attention == 'symmetric':
    matrices['key'], biases['key'] = matrices['query'], biases['query']
  elif config.attention == 'pairwise':  # per head W_k = W_q·Uᵀ, b_k = U·b_q
    u = projection['pairwise']
    w, b = matrices['query'], biases['query']
    heads = (config.num_heads, config.head_size)
    matrices['key'] = jnp.einsum(
      '...DHJ,...HKJ->...DHK', w.reshape(*w.shape[:-1], *heads), u
    ).reshape(w.shape)
    biases['key'] = jnp.einsum(
      '...HJ,...HKJ->...HK', b.reshape(*b.shape[:-1], *heads), u
    ).reshape(b.shape)
  elif config.attention == 'tied':
    for role in ('query', 'key', 'value'):
      matrices[role], biases[role] = matrices['shared'], biases['shared']
  elif config.attention == 'tied_kv':
    matrices['value'], biases['value'] = matrices['key'], biases['key']
  return {
    role: {'kernel': matrices[role], 'bias': biases[role]}
    for role in ('query', 'key', 'value')
  }


@pytest.mark.parametrize('mechanism', MECHANISMS[1:], ids=NAMES[1:])
def test_every_mechanism_equals_a_standard_model(mechanism):
  config = tiny_config(**mechanism)
  params = random_params(maker(BertModel, config))
  ids, token_types, segments = token_rows()
  ours = forward(BertModel, config)(params, ids, token_types, segments)

  layer = params['encoder']['layers']['attention']
  layer['projection'] = standard_projection(config, layer['projection'])
  standard = forward(BertModel, tiny_config(attention='standard'))
  theirs = standard(params, ids, token_types, segments)

  real = np.asarray(segments) > 0
  np.testing.assert_allclose(ours[0][real], theirs[0][real], rtol=0, atol=1e-5)
  np.testing.assert_allclose(ours[1], theirs[1], rtol=0, atol=1e-5)


@pytest.mark.parametrize('mechanism', MECHANISMS[1:], ids=NAMES[1:])
def test_every_mechanism_has_the_scores_of_a_standard_one(mechanism):
  # Unlike a model's output, scores see the bias of the keys too.
  config = tiny_config(**mechanism)
  params = random_params(maker(PROJECTIONS[config.attention], config))
  q, k, v = project(config)
  standard_q, standard_k, standard_v = project(
    tiny_config(attention='standard'), **standard_projection(config, params)
  )
  np.testing.assert_allclose(
    backends.attention_scores(q, k),
    backends.attention_scores(standard_q, standard_k),
    rtol=0,
    atol=1e-5,
  )
  np.testing.assert_allclose(v, standard_v, rtol=0, atol=1e-5)


def test_every_configurable_mechanism_is_registered():
  assert tuple(PROJECTIONS) == ATTENTIONS


def project(config, seed=0, **replaced):
  """Queries, keys, values [B, S, H, K] of random parameters and inputs."""
  projection = PROJECTIONS[config.attention]
  params = random_params(maker(projection, config), seed) | replaced
  x = np.random.default_rng(seed).normal(size=(2, 6, config.hidden_size))
  projected = forward(projection, config)(params, jnp.asarray(x, jnp.float32))
  return [y.reshape(2, 6, config.num_heads, -1) for y in projected]


@pytest.mark.parametrize('mechanism', MECHANISMS, ids=NAMES)
def test_scores_are_symmetric_exactly_where_the_method_says(mechanism):
  q, k, _ = project(tiny_config(**mechanism))
  scores = np.asarray(backends.attention_scores(q, k))
  asymmetry = np.abs(scores - scores.swapaxes(-1, -2)).max()
  symmetric = mechanism in (
    {'attention': 'shared'},
    {'attention': 'symmetric'},
    {'attention': 'tied'},
  )
  if symmetric:
    assert asymmetry <= 1e-6 * np.abs(scores).max()
  else:
    assert asymmetry > 0.1


def test_only_the_product_of_query_and_key_diagonals_matters_to_scores():
  config = tiny_config(attention='shared')
  params = random_params(maker(PROJECTIONS['shared'], config))
  d_q, d_k = params['d_q'], params['d_k']
  q, k, _ = project(config)
  merged_q, merged_k, _ = project(config, d_q=d_q * d_k, d_k=jnp.ones_like(d_k))
  np.testing.assert_allclose(
    backends.attention_scores(q, k),
    backends.attention_scores(merged_q, merged_k),
    rtol=0,
    atol=1e-5,
  )


def attend(config, params):
  """SelfAttention with `params` on random inputs, [B, S, D]."""
  x = np.random.default_rng(1).normal(size=(3, 12, config.hidden_size))
  _, _, segments = token_rows()
  return forward(SelfAttention, config)(
    params, jnp.asarray(x, jnp.float32), segments
  )


def test_the_value_diagonal_folds_into_the_output_projection():
  config = tiny_config(attention='shared')
  params = random_params(maker(SelfAttention, config))
  before = attend(config, params)
  d_v = params['projection']['d_v']
  params['projection']['d_v'] = jnp.ones_like(d_v)
  params['output']['kernel'] = d_v[:, None] * params['output']['kernel']
  np.testing.assert_allclose(attend(config, params), before, rtol=0, atol=1e-5)


def test_the_value_bias_folds_into_the_output_bias():
  # The probabilities of a token sum to 1, so its bias passes through whole.
  config = tiny_config(attention='shared', role_bias=True)
  params = random_params(maker(SelfAttention, config))
  before = attend(config, params)
  bias = params['projection']['value_bias']
  params['projection']['value_bias'] = jnp.zeros_like(bias)
  params['output']['bias'] += bias @ params['output']['kernel']
  np.testing.assert_allclose(attend(config, params), before, rtol=0, atol=1e-5)


def test_gradients_of_the_diagonals_in_bfloat16_are_summed_in_float32():
  config = tiny_config(attention='shared', dtype='bfloat16')
  make = PROJECTIONS['shared']
  graph, params = nnx.split(make(config, rngs=nnx.Rngs(0)))
  width, keys = config.hidden_size, jax.random.split(jax.random.key(0), 4)
  x, *weights = (
    jax.random.normal(key, (8, 64, width), jnp.bfloat16) for key in keys
  )

  def total(params):
    roles = nnx.merge(graph, params)(x)
    products = [
      r.astype(jnp.float32) * w for r, w in zip(roles, weights, strict=True)
    ]
    return sum(p.sum() for p in products)

  s = np.asarray(nnx.merge(graph, params).shared(x), np.float64)
  gradients = jax.grad(total)(params)
  for name, weight in zip(('d_q', 'd_k', 'd_v'), weights, strict=True):
    exact = (s * np.asarray(weight, np.float64)).sum((0, 1))
    np.testing.assert_allclose(
      gradients[name][...], exact, rtol=0, atol=1e-5 * abs(exact).max()
    )


def test_pairwise_scores_are_q_u_k_per_head():
  config = tiny_config(attention='pairwise')
  make = maker(PROJECTIONS['pairwise'], config)
  u = np.asarray(random_params(make)['pairwise'], np.float64)
  queries, keys, _ = project(config)
  plain = np.asarray(keys, np.float64)
  expected = np.einsum('BSHI,HIJ,BTHJ->BHST', plain, u, plain)
  expected /= config.head_size**0.5
  np.testing.assert_allclose(
    backends.attention_scores(queries, keys), expected, rtol=0, atol=1e-5
  )


def test_initial_diagonals_and_pairwise_matrices_are_as_configured():
  def fresh(names, **overrides):
    config = tiny_config(hidden_size=64, num_heads=2, **overrides)
    make = maker(PROJECTIONS[config.attention], config)

    def values(key):
      params = initialise(make, key)
      return [params[name] for name in names]

    return jax.jit(values)(jax.random.key(0))

  diagonals = ('d_q', 'd_k', 'd_v')
  assert all((d == 1).all() for d in fresh(diagonals, attention='shared'))
  noisy = fresh(diagonals, attention='shared', diagonal_init='normal')
  assert all(0.01 < np.std(d) < 0.03 for d in noisy)
  assert all(abs(np.mean(d) - 1) < 0.01 for d in noisy)
  assert not np.array_equal(noisy[0], noisy[1])
  signs = fresh(diagonals, attention='shared', diagonal_init='signs')
  assert all(set(np.asarray(d)) == {-1.0, 1.0} for d in signs)
  assert not np.array_equal(signs[0], signs[1])
  (normal,) = fresh(['pairwise'], attention='pairwise')
  assert 0.9 < np.std(normal) < 1.1
  (identity,) = fresh(
    ['pairwise'], attention='pairwise', pairwise_init='identity'
  )
  np.testing.assert_array_equal(identity, np.tile(np.eye(32), (2, 1, 1)))


def test_a_symmetric_start_is_a_start_alone():
  config = tiny_config(attention='standard', standard_init='symmetric')
  apart = dataclasses.replace(config, standard_init='apart')
  ours, theirs = (
    initialise(maker(SelfAttention, each), jax.random.key(0))['projection']
    for each in (config, apart)
  )
  kernels = {role: each['kernel'] for role, each in ours.items()}
  np.testing.assert_array_equal(kernels['query'], kernels['key'])
  for role in ('query', 'value'):  # the other draws are as they were
    np.testing.assert_array_equal(kernels[role], theirs[role]['kernel'])
  assert not np.array_equal(kernels['key'], theirs['key']['kernel'])
  # Two arrays: each has a gradient of its own.
  params = initialise(maker(SelfAttention, config), jax.random.key(0))
  x = np.random.default_rng(0).normal(size=(2, 5, 16)).astype(np.float32)
  weights = np.random.default_rng(1).normal(size=(2, 5, 16))
  segments = np.ones((2, 5), np.int32)
  apply = parameters.applier(maker(SelfAttention, config))

  @jax.grad
  def gradients(params):
    return (apply(params, x, segments) * weights).sum()

  found = gradients(params)['projection']
  assert not np.allclose(
    found['query']['kernel'], found['key']['kernel'], atol=1e-6
  )


@pytest.mark.parametrize(
  ('attention', 'diagonal_init', 'expected', 'within'),
  [
    ('standard', 'ones', 0.0, 0.05),
    ('shared', 'ones', 2.46, 0.05),
    # A head's K signs sum to ±√K, not 0: ±0.307 a head, ±0.09 over 12 heads.
    ('shared', 'signs', 0.0, 3 * 0.09),
    ('symmetric', 'ones', 2.46, 0.05),
    ('tied', 'ones', 2.46, 0.05),
  ],
)
def test_initial_self_scores_at_base_width(
  attention, diagonal_init, expected, within
):
  # Tied queries and keys see themselves first: K·(D·0.02²)/√K = 2.46.
  config = BertConfig.of_size(
    'base', attention=attention, diagonal_init=diagonal_init
  )
  projection = PROJECTIONS[attention](config, rngs=nnx.Rngs(0))
  x = np.random.default_rng(0).normal(size=(1, 64, config.hidden_size))
  q, k, _ = (
    y.reshape(1, 64, config.num_heads, -1)
    for y in projection(jnp.asarray(x, jnp.float32))
  )
  scores = np.asarray(backends.attention_scores(q, k))
  itself = np.eye(64, dtype=bool)
  assert abs(scores[..., itself].mean() - expected) < within
  assert abs(scores[..., ~itself].mean()) < 0.05
  assert abs(scores[..., ~itself].std() - 0.307) < 0.02


def attention_by_hand(q, k, v, segment_ids):
  """float64, one query at a time over the keys that it may see."""
  q, k, v = (np.asarray(y, np.float64) for y in (q, k, v))
  context = np.zeros_like(v)
  for b, s, h in np.ndindex(q.shape[:3]):
    seen = segment_ids[b] == segment_ids[b, s]
    scores = k[b, seen, h] @ q[b, s, h] / np.sqrt(q.shape[-1])
    weights = np.exp(scores - scores.max())
    context[b, s, h] = weights @ v[b, seen, h] / weights.sum()
  return context


def random_heads(shape=(2, 9, 2, 4), seed=0):
  rng = np.random.default_rng(seed)
  return [jnp.asarray(rng.normal(size=shape), jnp.float32) for _ in range(3)]


def test_attention_agrees_with_one_by_hand():
  segments = np.array(
    [[1, 1, 1, 1, 2, 2, 3, 0, 0], [1, 1, 1, 1, 1, 1, 1, 1, 1]]
  )
  q, k, v = random_heads()
  context = attention(q, k, v, jnp.asarray(segments))
  expected = attention_by_hand(q, k, v, segments)
  real = segments > 0
  np.testing.assert_allclose(
    np.asarray(context)[real], expected[real], rtol=0, atol=1e-6
  )


def probabilities(q, k, segments, **kwargs):
  """What attention does to an identity matrix, [B, S, H, S]."""
  batch, length, heads, _ = q.shape
  v = jnp.broadcast_to(
    jnp.eye(length, dtype=q.dtype)[:, None, :], (batch, length, heads, length)
  )
  return np.asarray(attention(q, k, v, segments, **kwargs))


def test_no_weight_at_all_falls_outside_the_segment():
  segments = jnp.array([[1, 1, 2, 2, 2, 0]])
  q, k, _ = random_heads((1, 6, 2, 4))
  weights = probabilities(30 * q, 30 * k, segments)
  own = np.asarray(segments[0][:, None] == segments[0][None, :])
  real = np.asarray(segments[0]) > 0
  assert (weights[0].swapaxes(0, 1)[:, real][:, ~own[real]] == 0).all()
  np.testing.assert_allclose(weights.sum(-1), 1, atol=1e-6)


def test_a_row_of_padding_gives_finite_values_and_gradients():
  segments = jnp.zeros((2, 9), jnp.int32)

  def loss(q, k, v):
    return backends.xla_attention(q, k, v, segments).sum()

  value, gradients = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2)))(
    *random_heads()
  )
  assert np.isfinite(value)
  assert all(np.isfinite(gradient).all() for gradient in gradients)


def test_bfloat16_attention_keeps_scores_and_softmax_in_float32():
  q, k, v = (3 * y.astype(jnp.bfloat16) for y in random_heads((1, 64, 1, 8)))
  assert backends.attention_scores(q, k).dtype == jnp.float32
  segments = jnp.ones((1, 64), jnp.int32)
  assert attention(q, k, v, segments).dtype == jnp.bfloat16
  weights = probabilities(q, k, segments).astype(np.float64)[0, :, 0]
  scores = np.asarray(q, np.float64)[0, :, 0] @ np.asarray(k, float)[0, :, 0].T
  exact = np.exp(scores / 8**0.5)
  exact /= exact.sum(-1, keepdims=True)
  # Nothing but the last rounding, to 8 significant bits, is lost.
  normal = exact > 1e-30
  error = np.abs(weights - exact)[normal] / exact[normal]
  assert error.max() < 2.0**-8


def test_attention_dropout_keeps_its_rate_and_the_expectation():
  q, k, _ = random_heads((8, 64, 2, 4))
  segments = jnp.ones((8, 64), jnp.int32)
  plain = probabilities(q, k, segments)
  key = jax.random.key(0)
  dropped = probabilities(q, k, segments, dropout_rate=0.1, key=key)
  rate = 26 / 256  # 0.1 in units of 1/256
  # Within four standard deviations of 65,536 draws.
  assert (
    abs((dropped == 0).mean() - rate) < 4 * (rate * (1 - rate) / 2**16) ** 0.5
  )
  kept = dropped != 0
  np.testing.assert_allclose(dropped[kept], plain[kept] / (1 - rate), rtol=1e-5)
  assert abs(dropped.sum(-1).mean() - 1) < 0.01


def test_attention_dropout_follows_its_key_alone():
  q, k, v = random_heads()
  segments = jnp.ones((2, 9), jnp.int32)

  def context(rate, key):
    return attention(q, k, v, segments, dropout_rate=rate, key=key)

  first, second = jax.random.key(1), jax.random.key(2)
  np.testing.assert_array_equal(context(0.5, first), context(0.5, first))
  assert not np.array_equal(context(0.5, first), context(0.5, second))
  np.testing.assert_array_equal(context(0.5, None), context(0.0, None))
  np.testing.assert_array_equal(context(0.0, first), context(0.0, None))


@pytest.mark.parametrize('dtype', [jnp.float32, jnp.bfloat16])
def test_dropout_keeps_the_mean_of_what_it_keeps(dtype):
  x = jnp.asarray(np.random.default_rng(0).uniform(1, 2, 4096), dtype)
  y = dropout(x, 0.1, jax.random.key(0))
  assert y.dtype == dtype
  kept = np.asarray(y != 0)
  ratio = np.asarray(y, float)[kept].mean() / np.asarray(x, float)[kept].mean()
  assert abs(ratio - 256 / 230) < 5e-4


def test_dropout_of_almost_everything_stays_finite():
  x = jnp.ones((4096,))
  y = np.asarray(dropout(x, 0.999, jax.random.key(0)))
  assert np.isfinite(y).all()
  assert 0 < (y != 0).sum() < 64


def test_gradients_pass_only_where_dropout_lets_values_pass():
  x = jnp.ones((4096,))

  def drop(x):
    return dropout(x, 0.1, jax.random.key(0))

  y, pullback = jax.vjp(drop, x)
  np.testing.assert_array_equal(pullback(x)[0], y)
