import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from shared_bert.model.encoder import (
  BertModel,
  Embeddings,
  Encoder,
  EncoderLayer,
)
from shared_bert.model.heads import (
  BertForMaskedLM,
  BertForPreTraining,
  BertForQuestionAnswering,
  BertForSequenceClassification,
)
from shared_bert.model.layers import layer_norm
from shared_bert.model.parameters import (
  abstract,
  applier,
  initialise,
  named_leaves,
)
from tests.tiny_model import (
  VOCAB_SIZE,
  assert_close,
  forward,
  maker,
  random_params,
  tiny_config,
  token_rows,
)

# Layers, scanned, unrolled, computed again.


def layers_by_hand(config):
  """The encoder as a loop over `EncoderLayer`, one key a layer."""
  embed = applier(maker(Embeddings, config))
  layer = applier(maker(EncoderLayer, config))

  def apply(params, ids, token_types, segments, key):
    keys = jax.random.split(key, config.num_layers + 1)
    x = embed(params['embeddings'], ids, token_types, segments, keys[0])
    for number in range(config.num_layers):
      one = jax.tree.map(lambda leaf, i=number: leaf[i], params['layers'])
      x = layer(one, x, segments, keys[1 + number])
    return x

  return apply


def loss_and_gradients(apply, config):
  """Of a weighted sum of the encoder's output at real positions."""
  params = random_params(maker(Encoder, config))
  ids, token_types, segments = token_rows()
  weights = np.random.default_rng(1).normal(size=(*ids.shape, 16))
  weights = jnp.asarray(weights * (segments > 0)[..., None] / 64, jnp.float32)

  def loss(params):
    x = apply(params, ids, token_types, segments, jax.random.key(0))
    return (weights * x).sum(), x * (segments > 0)[..., None]

  return jax.jit(jax.value_and_grad(loss, has_aux=True))(params)


@pytest.fixture(scope='module')
def scanned():
  config = tiny_config()
  return loss_and_gradients(applier(maker(Encoder, config)), config)


@pytest.mark.parametrize('way', ['by hand', 'unrolled', 'full', 'dots'])
def test_layers_scanned_unrolled_and_rematerialised_agree(way, scanned):
  # With dropout: the keys, too, must not depend on the way.
  config = tiny_config()
  if way == 'by hand':
    apply = layers_by_hand(config)
  elif way == 'unrolled':
    other = dataclasses.replace(config, scan_layers=False)
    apply = applier(maker(Encoder, other))
  else:
    apply = applier(maker(Encoder, dataclasses.replace(config, remat=way)))
  assert_close(loss_and_gradients(apply, config), scanned)


@pytest.mark.parametrize(
  ('remat', 'repeated'), [('none', 0), ('dots', 2), ('full', 6)]
)
def test_remat_repeats_what_it_says(remat, repeated):
  # A layer with shared attention has six matrix products: four projections
  # (W_s, W_o and two of the feed-forward) and two of activations.
  config = tiny_config(remat=remat)
  make = maker(Encoder, config)
  apply = applier(make)
  rows = token_rows()
  jaxpr = jax.make_jaxpr(jax.grad(lambda params: apply(params, *rows).sum()))
  products = str(jaxpr(abstract(make))).count('dot_general[')
  # Forward, two backward for each, and the gradients of three small tables.
  assert products == 6 + 2 * 6 + 3 + repeated


def test_dropout_follows_its_key_and_is_off_without_one():
  config = tiny_config()
  params = random_params(maker(BertModel, config))
  rows = token_rows()
  apply = forward(BertModel, config)

  def hidden(key):
    return np.asarray(apply(params, *rows, key)[0])

  np.testing.assert_array_equal(
    hidden(jax.random.key(0)), hidden(jax.random.key(0))
  )
  assert not np.array_equal(
    hidden(jax.random.key(0)), hidden(jax.random.key(1))
  )
  without = dataclasses.replace(
    config, hidden_dropout=0.0, attention_dropout=0.0
  )
  np.testing.assert_array_equal(
    hidden(None), forward(BertModel, without)(params, *rows)[0]
  )


def test_each_sub_layer_and_the_embeddings_drop_on_their_own():
  config = tiny_config(hidden_dropout=0.5, pre_norm=True)
  params = random_params(maker(EncoderLayer, config))
  # Sub-layers that give 1 and 10 everywhere, doubled where they are kept.
  for part, last, value in (
    ('attention', 'output', 1),
    ('feed_forward', 'down', 10),
  ):
    projection = params[part][last]
    projection['kernel'] = jnp.zeros_like(projection['kernel'])
    projection['bias'] = jnp.full_like(projection['bias'], value)
  x = jnp.zeros((8, 12, 16))
  segments = jnp.ones((8, 12), jnp.int32)
  layer = forward(EncoderLayer, config)
  y = np.asarray(layer(params, x, segments, jax.random.key(0)))
  for kept in (0, 2, 20, 22):
    assert 0.2 < np.isclose(y, kept).mean() < 0.3

  params = random_params(maker(Embeddings, config))
  params['norm'] = {'scale': jnp.zeros((16,)), 'bias': jnp.ones((16,))}
  rows = token_rows()
  embed = forward(Embeddings, config)
  y = np.asarray(embed(params, *rows, jax.random.key(0)))
  assert 0.4 < (y == 0).mean() < 0.6
  assert set(np.unique(y)) == {0.0, 2.0}


# Heads.


def test_gathered_positions_equal_the_full_logits_there():
  config = tiny_config()
  params = random_params(maker(BertForMaskedLM, config))
  rows = token_rows()
  apply = forward(BertForMaskedLM, config)
  everywhere = apply(params, *rows)
  positions = jnp.array([[1, 5, 11], [0, 6, 6], [2, 0, 0]])
  gathered = apply(params, *rows, masked_positions=positions)
  assert gathered.dtype == jnp.float32
  assert gathered.shape == (3, 3, VOCAB_SIZE)
  assert_close(
    gathered, jnp.take_along_axis(everywhere, positions[..., None], axis=1)
  )


def test_the_decoder_is_the_embedding():
  # A word that no row contains gets its gradient through the decoder alone.
  config = tiny_config()
  make = maker(BertForMaskedLM, config)
  params = random_params(make)
  ids = jnp.full((1, 4), 7)
  apply = applier(make)

  def loss(params):
    return apply(params, ids)[0, :, 9].sum()

  gradient = jax.jit(jax.grad(loss))(params)
  table = gradient['encoder']['embeddings']['word']['embedding']
  assert np.abs(table[7]).max() > 1e-3  # read
  assert np.abs(table[9]).max() > 1e-3  # predicted
  others = np.delete(np.asarray(table), [7, 9], axis=0)
  np.testing.assert_array_equal(others, 0)
  np.testing.assert_array_equal(
    gradient['decoder_bias'], np.where(np.arange(VOCAB_SIZE) == 9, 4, 0)
  )


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
def test_heads_return_float32_of_the_documented_shapes(dtype):
  config = tiny_config(dtype=dtype)
  rows = token_rows()

  def shapes(model, *args):
    make = maker(model, config, *args)
    return jax.tree.map(
      lambda leaf: (leaf.shape, leaf.dtype.name),
      jax.eval_shape(applier(make), abstract(make), *rows),
    )

  assert shapes(BertForMaskedLM) == ((3, 12, VOCAB_SIZE), 'float32')
  assert shapes(BertForPreTraining) == (
    ((3, 12, VOCAB_SIZE), 'float32'),
    ((3, 2), 'float32'),
  )
  assert shapes(BertForSequenceClassification, 5) == ((3, 5), 'float32')
  assert shapes(BertForQuestionAnswering) == (
    ((3, 12), 'float32'),
    ((3, 12), 'float32'),
  )
  assert shapes(BertModel) == (((3, 12, 16), dtype), ((3, 16), dtype))


def test_classes_come_from_the_pooled_first_token():
  config = tiny_config()
  make = maker(BertForSequenceClassification, config, 3)
  params = random_params(make)
  rows = token_rows()
  logits = jax.jit(applier(make))(params, *rows)
  shared = {name: params[name] for name in ('encoder', 'pooler')}
  _, pooled = forward(BertModel, config)(shared, *rows)
  head = params['classifier']
  assert_close(logits, pooled @ head['kernel'] + head['bias'])


def test_spans_come_from_every_token():
  config = tiny_config()
  make = maker(BertForQuestionAnswering, config)
  params = random_params(make)
  rows = token_rows()
  start, end = jax.jit(applier(make))(params, *rows)
  bert = random_params(maker(BertModel, config)) | {
    'encoder': params['encoder']
  }
  x, _ = forward(BertModel, config)(bert, *rows)
  expected = x @ params['span']['kernel'] + params['span']['bias']
  assert_close((start, end), (expected[..., 0], expected[..., 1]))


# Arithmetic.


def test_bfloat16_stays_close_to_float32_and_leaves_parameters_alone():
  config = tiny_config(dtype='bfloat16')
  make = maker(BertModel, config)
  params = random_params(make)
  assert {leaf.dtype.name for leaf in jax.tree.leaves(params)} == {'float32'}
  rows = token_rows()
  apply = applier(make)

  def loss(params):
    x, _ = apply(params, *rows)
    return x.astype(jnp.float32).sum(), x

  gradients, x = jax.jit(jax.grad(loss, has_aux=True))(params)
  assert x.dtype == jnp.bfloat16
  assert {g.dtype.name for g in jax.tree.leaves(gradients)} == {'float32'}
  exact, _ = forward(BertModel, tiny_config())(params, *rows)
  error = np.abs(np.asarray(x, np.float32) - np.asarray(exact))
  assert error.mean() < 0.02
  assert error.max() < 0.2


def test_layer_norm_of_bfloat16_is_computed_in_float32():
  norm = layer_norm(tiny_config(dtype='bfloat16'), rngs=nnx.Rngs(0))
  rng = np.random.default_rng(0)
  # Neither is a bfloat16; the input's mean is far from 0.
  norm.scale[...] = jnp.asarray(rng.uniform(1, 2, 16), jnp.float32)
  norm.bias[...] = jnp.asarray(rng.uniform(1, 2, 16), jnp.float32)
  x = jnp.asarray(100 + rng.normal(size=(64, 16)), jnp.bfloat16)
  y = norm(x)
  assert y.dtype == jnp.bfloat16
  x = np.asarray(x, np.float64)
  expected = (x - x.mean(-1, keepdims=True)) / x.std(-1, keepdims=True)
  expected = expected * norm.scale[...] + norm.bias[...]
  np.testing.assert_allclose(
    np.asarray(y, np.float64), expected, rtol=2.0**-8, atol=1e-5
  )


def test_layer_norm_keeps_its_digits_far_from_zero():
  norm = layer_norm(tiny_config(), rngs=nnx.Rngs(0))
  x = 1000 + np.random.default_rng(0).normal(size=(64, 16)).astype(np.float32)
  exact = x.astype(np.float64)
  exact -= exact.mean(-1, keepdims=True)
  exact /= exact.std(-1, keepdims=True)
  np.testing.assert_allclose(norm(jnp.asarray(x)), exact, rtol=0, atol=1e-3)


def test_pre_norm_leaves_the_residual_path_free_and_ends_in_a_norm():
  config = tiny_config(pre_norm=True)
  params = random_params(maker(Encoder, config))
  assert 'final_norm' in params
  assert 'final_norm' not in abstract(maker(Encoder, tiny_config()))
  # Sub-layers that give nothing leave the embeddings as they are.
  for part, last in (('attention', 'output'), ('feed_forward', 'down')):
    projection = params['layers'][part][last]
    params['layers'][part][last] = jax.tree.map(jnp.zeros_like, projection)
  rows = token_rows()
  x = forward(Encoder, config)(params, *rows)
  embedded = forward(Embeddings, config)(params['embeddings'], *rows)
  embedded -= embedded.mean(-1, keepdims=True)
  embedded /= embedded.std(-1, keepdims=True)
  norm = params['final_norm']
  assert_close(x, embedded * norm['scale'] + norm['bias'])


def test_post_norm_ends_in_the_norm_of_the_last_layer():
  config = tiny_config()
  params = random_params(maker(Encoder, config))
  x = forward(Encoder, config)(params, *token_rows())
  norm = params['layers']['feed_forward_norm']
  normal = (x - norm['bias'][-1]) / norm['scale'][-1]
  assert_close(normal.mean(-1), jnp.zeros(x.shape[:2]))
  assert_close(normal.std(-1), jnp.ones(x.shape[:2]))


# Initial values.


@pytest.fixture(scope='module')
def fresh():
  """Initial parameters: a shape apart from `abstract`'s would be an error."""
  config = tiny_config(hidden_size=64, intermediate_size=128, vocab_size=500)
  make = maker(BertForMaskedLM, config)
  params = jax.jit(lambda key: initialise(make, key))(jax.random.key(0))
  shapes = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), params
  )
  assert shapes == abstract(make)
  return params


def test_initial_values_are_those_of_bert(fresh):
  cut = 0.02 * 2 / 0.8796  # two standard deviations of the uncut normal
  for name, leaf in named_leaves(fresh):
    last = name.split('/')[-1]
    if last in ('kernel', 'embedding'):
      error = 4 / (2 * leaf.size) ** 0.5  # four of the estimate's own
      assert abs(np.std(leaf) / 0.02 - 1) < error, name
      assert np.abs(leaf).max() < cut + 1e-6, name
    elif last in ('bias', 'decoder_bias'):
      assert (leaf == 0).all(), name
    else:
      assert last in ('scale', 'd_q', 'd_k', 'd_v')
      assert (leaf == 1).all(), name


def test_every_matrix_starts_from_numbers_of_its_own(fresh):
  matrices = []
  for name, leaf in named_leaves(fresh):
    if name.split('/')[-1] in ('kernel', 'embedding'):
      stacked = name.startswith('encoder/layers')
      matrices += list(np.asarray(leaf)) if stacked else [np.asarray(leaf)]
  firsts = [float(matrix.flat[0]) for matrix in matrices]
  assert len(firsts) == 3 + 2 * 4 + 1
  assert len(set(firsts)) == len(firsts)


def test_graph_mode_and_tree_mode_give_the_same_program():
  # From key to parameters to output, and so the same numbers bit for bit.
  rows = token_rows()

  def program(graph):
    with nnx.set_graph_mode(graph):
      make = maker(Encoder, tiny_config())

      def initialise_and_apply(key):
        params = initialise(make, key)
        return params, applier(make)(params, *rows, key)

      lowered = jax.jit(initialise_and_apply).lower(jax.random.key(0))
      return lowered.out_tree, lowered.as_text()

  assert program(False) == program(True)
