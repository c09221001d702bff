"""The last layer computes what is read, and that is what it always was."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from shared_bert.interop import folding
from shared_bert.model.config import ATTENTIONS
from shared_bert.model.encoder import Encoder
from shared_bert.model.parameters import abstract, applier
from tests.tiny_model import (
  assert_close,
  maker,
  random_params,
  tiny_config,
  token_rows,
)

# Of rows of 12, 7 and 3 tokens: out of order, twice, and on padding.
READ = jnp.asarray([[11, 0, 4, 4], [6, 2, 0, 11], [0, 1, 2, 9]], jnp.int32)
PACKED = jnp.asarray(
  [[1] * 5 + [2] * 4 + [3] * 3, [1] * 7 + [2] * 5, [1] * 3 + [0] * 9],
  jnp.int32,
)


def loss_and_gradients(config, params, rows, reads, weights):
  """Of an encoder that is told what is read, or of which it is taken after."""
  apply = applier(maker(Encoder, config))

  @jax.jit
  @jax.value_and_grad
  def loss(params):
    if reads:
      x = apply(params, *rows, None, READ)
    else:
      x = jnp.take_along_axis(apply(params, *rows), READ[:, :, None], axis=1)
    assert x.shape == weights.shape
    return (x * weights).sum()

  return loss(params)


CASES = [
  *((attention, {}) for attention in ATTENTIONS),
  ('shared', {'pre_norm': True}),
  ('shared', {'role_bias': True, 'residual_rank': 2}),
  ('shared', {'scan_layers': False}),
  ('shared', {'num_layers': 1}),
  ('shared', {'remat': 'full'}),
  ('standard', {'remat': 'dots'}),
]


@pytest.mark.parametrize('packed', [False, True])
@pytest.mark.parametrize(('attention', 'changes'), CASES)
def test_what_is_read_and_its_gradients_are_those_of_all(
  attention, changes, packed
):
  config = tiny_config(attention=attention, **changes)
  ids, types, segments = token_rows()
  rows = ids, types, PACKED if packed else segments
  params = random_params(maker(Encoder, config))
  # Of the width, so that gradients, sums over it, are about 1: float32 has
  # digits for a tolerance of 1e-5 then, whatever the order of the sums. In
  # float64 they agree to 3e-14 without it.
  weights = np.random.default_rng(0).normal(size=(*READ.shape, 16)) / 16
  found, expected = (
    loss_and_gradients(config, params, rows, reads, weights)
    for reads in (True, False)
  )
  np.testing.assert_allclose(found[0], expected[0], rtol=1e-5, atol=1e-5)
  assert_close(found[1], expected[1])


@pytest.mark.parametrize('reads', [True, False])
@pytest.mark.parametrize('layers', [1, 3])
def test_a_last_layer_that_is_kept_apart_computes_the_same(layers, reads):
  config = tiny_config(num_layers=layers)
  params = {'encoder': random_params(maker(Encoder, config))}
  parted, apart = folding.with_last_apart(params, config)
  assert apart == dataclasses.replace(config, last_apart=True)
  make = maker(Encoder, apart)
  assert jax.tree.map(np.shape, parted['encoder']) == jax.tree.map(
    np.shape, abstract(make)
  )
  read = READ if reads else None
  found, expected = (
    applier(maker(Encoder, its))(of['encoder'], *token_rows(), None, read)
    for its, of in ((apart, parted), (config, params))
  )
  np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
