"""Models that compile in a second, with random numbers in every parameter.

A fresh model has zeros for biases and ones for scales and diagonals, so that a
test of it would not see half of the parameters; these have none of them.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from shared_bert.model.config import BertConfig
from shared_bert.model.parameters import abstract, applier, named_leaves

VOCAB_SIZE = 50
SEQUENCE = 12


def tiny_config(**overrides):
  sizes = {
    'vocab_size': VOCAB_SIZE,
    'hidden_size': 16,
    'num_layers': 2,
    'num_heads': 4,
    'intermediate_size': 32,
    'max_positions': 16,
  }
  return BertConfig(**(sizes | overrides))


def random_value(name, shape, rng):
  """Values under which every parameter matters and activations stay near 1."""
  last = name.split('/')[-1]
  value = rng.normal(size=shape)
  if last in ('d_q', 'd_k', 'd_v'):
    return value  # of both signs
  if last == 'scale':
    return 1 + 0.2 * value
  return 0.3 * value


def random_params(make, seed=0):
  """Parameters float32 of the model `make(rngs)`."""
  rng = np.random.default_rng(seed)
  shapes = abstract(make)
  values = [
    jnp.asarray(random_value(name, leaf.shape, rng), leaf.dtype)
    for name, leaf in named_leaves(shapes)
  ]
  return jax.tree.unflatten(jax.tree.structure(shapes), values)


def maker(model, config, *args):
  """`make(rngs)` of a model class."""
  return lambda rngs: model(config, *args, rngs=rngs)


@functools.cache
def forward(model, config):
  """The model as a compiled function `apply(params, ...)`."""
  return jax.jit(applier(maker(model, config)))


def token_rows(lengths=(12, 7, 3), sequence=SEQUENCE, seed=0):
  """Ids, token types and segment ids, int32 [B, S], of rows padded with 0."""
  rng = np.random.default_rng(seed)
  lengths = np.array(lengths)[:, None]
  index = np.arange(sequence)[None, :]
  real = index < lengths
  ids = rng.integers(5, VOCAB_SIZE, size=real.shape) * real
  token_types = (index >= lengths // 2) * real
  return tuple(
    jnp.asarray(array, jnp.int32) for array in (ids, token_types, real)
  )


def assert_close(tree, expected, atol=1e-5):
  """Fails, naming the leaf, where two trees differ by more than `atol`."""
  assert jax.tree.structure(tree) == jax.tree.structure(expected)
  for (name, leaf), other in zip(
    named_leaves(tree), jax.tree.leaves(expected), strict=True
  ):
    np.testing.assert_allclose(leaf, other, rtol=0, atol=atol, err_msg=name)
