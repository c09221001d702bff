"""The small parts: gradients are autodiff's, only faster; dropout is fair."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from shared_bert.model.layers import dropout, lookup, product


def case(rows, count=300):
  rng = np.random.default_rng(rows)
  table = jnp.asarray(rng.normal(size=(rows, 8)), jnp.float32)
  # Some rows often, some never.
  ids = jnp.asarray(rng.integers(0, rows, (3, count)) // 2, jnp.int32)
  weights = jnp.asarray(rng.normal(size=(3, count, 8)), jnp.float32)
  return table, ids, weights


@pytest.mark.parametrize('rows', [2, 512, 3000])  # small tables, and large
def test_a_lookup_and_its_gradient_are_those_of_autodiff(rows):
  table, ids, weights = case(rows)

  def loss(look):
    return lambda table: (look(table) * weights).sum()

  ours = loss(lambda table: lookup(table, ids, jnp.float32))
  plain = loss(lambda table: jnp.take(table, ids, axis=0))
  np.testing.assert_array_equal(ours(table), plain(table))
  np.testing.assert_allclose(
    jax.grad(ours)(table), jax.grad(plain)(table), rtol=0, atol=1e-4
  )


@pytest.mark.parametrize('rows', [2, 3000])
def test_the_gradient_of_a_bfloat16_lookup_is_summed_in_float32(rows):
  table, _, _ = case(rows)
  # A thousand times 2⁻⁹ and once 1: in bfloat16 the sum would stop growing.
  ids = jnp.zeros((1001,), jnp.int32)
  weights = jnp.full((1001, 8), 2.0**-9, jnp.bfloat16).at[0].set(1.0)

  def loss(table):
    return (lookup(table, ids, jnp.bfloat16) * weights).sum(dtype=jnp.float32)

  gradient = jax.grad(loss)(table)
  assert gradient.dtype == jnp.float32
  np.testing.assert_allclose(gradient[0], 1 + 1000 / 512, rtol=1e-6)
  assert not gradient[1:].any()


@pytest.mark.parametrize('shape', [(6, 4), (2, 3, 4), (2, 2, 3, 4)])
def test_a_product_and_its_gradients_are_those_of_autodiff(shape):
  rng = np.random.default_rng(0)
  x, kernel, weights = (
    jnp.asarray(rng.normal(size=size), jnp.float32)
    for size in (shape, (4, 5), (*shape[:-1], 5))
  )

  def gradients(multiply):
    loss = lambda x, kernel: (multiply(x, kernel) * weights).sum()  # noqa: E731
    return loss(x, kernel), *jax.grad(loss, (0, 1))(x, kernel)

  for ours, plain in zip(
    gradients(product), gradients(jnp.matmul), strict=True
  ):
    np.testing.assert_allclose(ours, plain, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize('last', [1, 3, 8, 30])
def test_dropout_keeps_the_mean_whatever_the_width(last):
  x = jnp.ones((3, 20_000, last), jnp.bfloat16)
  out = np.asarray(dropout(x, 0.1, jax.random.key(0)), np.float32)
  assert out.shape == x.shape
  dropped = (out == 0).mean(axis=(0, 1))
  np.testing.assert_allclose(dropped, 26 / 256, atol=5e-3)  # of each column
  np.testing.assert_allclose(out[out > 0], 256 / 230, rtol=2**-8)
  # Neighbours, whose bytes are of one word, fall apart.
  if last > 1:
    both = (out[..., 0] == 0) & (out[..., 1] == 0)
    np.testing.assert_allclose(both.mean(), (26 / 256) ** 2, atol=2e-3)
  assert dropout(x, 0.1, None) is x
