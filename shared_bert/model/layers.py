"""The small parts that every block is made of."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

from shared_bert.model.config import BertConfig

# What `jax.checkpoint` calls the results of projections, whose products it does
# not see.
PRODUCT = 'product'
# Standard deviation of N(0, 1) cut off at ±2, as in jax.nn.initializers.
_TRUNCATED_STD = 0.87962566103423978


def _initializer(config: BertConfig) -> jax.nn.initializers.Initializer:
  """Normal, cut off at two σ, with standard deviation `initializer_range`.

  google-research/bert (modeling.py, `create_initializer`) cuts N(0, 0.02²) off
  at ±0.04, which leaves σ = 0.0176; Hugging Face's BERT draws N(0, 0.02²)
  uncut. Here it is cut off and scaled back, so that σ is 0.02 as stated.
  """
  return jax.nn.initializers.truncated_normal(
    config.initializer_range / _TRUNCATED_STD
  )


class LayerNorm(nnx.LayerNorm):
  """LayerNorm in float32 whatever the dtype of its input.

  `nnx.LayerNorm` takes its statistics in float32, but rounds scale and bias to
  the dtype that it returns.
  """

  def __call__(self, x: jax.Array) -> jax.Array:
    """[..., D] to [..., D], in the dtype of `x`."""
    return super().__call__(x).astype(x.dtype)


@jax.custom_vjp
def product(x: jax.Array, kernel: jax.Array) -> jax.Array:
  """x·W, with a gradient that every backend multiplies at its full speed.

  Autodiff asks for (dYᵀ·X)ᵀ as W's, for which XLA on CPUs copies dY and leaves
  its faster kernels: 98 ms instead of 68 of a feed-forward product of base.
  Xᵀ·dY is the same sum.

  Args:
    x: [..., D].
    kernel: [D, F], of the same dtype.

  Returns:
    [..., F].
  """
  return jax.lax.dot_general(x, kernel, (((x.ndim - 1,), (0,)), ((), ())))


def _product_forward(x, kernel):
  return product(x, kernel), (x, kernel)


def _product_backward(kept, gradient):
  x, kernel = kept
  last = x.ndim - 1
  rows = tuple(range(last))
  return (
    jax.lax.dot_general(gradient, kernel, (((last,), (1,)), ((), ()))),
    jax.lax.dot_general(x, gradient, ((rows, rows), ((), ()))),
  )


product.defvjp(_product_forward, _product_backward)


def _linear_product(
  x: jax.Array, kernel: jax.Array, dimensions: Any, **options: Any
) -> jax.Array:
  """`product` as `nnx.Linear` calls it, which asks for no other one."""
  del dimensions, options
  return checkpoint_name(product(x, kernel), PRODUCT)


def dense(
  config: BertConfig,
  in_features: int,
  out_features: int,
  *,
  use_bias: bool = True,
  rngs: nnx.Rngs,
) -> nnx.Linear:
  """A projection initialised as BERT's: σ 0.02, bias zero.

  Args:
    config: gives the compute dtype and the σ.
    in_features: size of the last axis of its input.
    out_features: size of the last axis of its output.
    use_bias: whether a bias is added.
    rngs: random streams.

  Returns:
    A module with `kernel` float32 [in_features, out_features] and `bias`
    float32 [out_features], computing in the compute dtype.
  """
  return nnx.Linear(
    in_features,
    out_features,
    use_bias=use_bias,
    dtype=config.compute_dtype,
    param_dtype=jnp.float32,
    kernel_init=_initializer(config),
    dot_general=_linear_product,
    rngs=rngs,
  )


def at(x: jax.Array, positions: jax.Array | None) -> jax.Array:
  """[B, S, D] at positions int32 [B, P], [B, P, D]; all of it with None."""
  if positions is None:
    return x
  return jnp.take_along_axis(x, positions[:, :, None], axis=1)


# Up to here the gradient of a table is a product with one-hot rows.
_SMALL_TABLE = 1024


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def lookup(
  table: jax.Array, ids: jax.Array, dtype: jax.typing.DTypeLike
) -> jax.Array:
  """Rows of a table, whose gradient is summed in float32 and without a crowd.

  What autodiff makes of a lookup in bfloat16 adds rows to a bfloat16 table one
  by one, and thousands of tokens wait for the row of their token type: two
  thirds of a step of base on an H200 (benchmarks/profile_step.py).

  Args:
    table: float32 [R, D].
    ids: int32 [...], below R.
    dtype: of the result.

  Returns:
    [..., D].
  """
  return jnp.take(table, ids, axis=0).astype(dtype)


def _lookup_forward(table, ids, dtype):
  return lookup(table, ids, dtype), (ids, table.shape[0])


def _lookup_backward(dtype, kept, gradient):
  ids, rows = kept
  ids, gradient = ids.reshape(-1), gradient.reshape(-1, gradient.shape[-1])
  if rows <= _SMALL_TABLE:
    one_hot = jax.nn.one_hot(ids, rows, dtype=dtype)
    total = jnp.einsum(
      'NR,ND->RD', one_hot, gradient, preferred_element_type=jnp.float32
    )
  else:
    zeros = jnp.zeros((rows, gradient.shape[-1]), jnp.float32)
    total = zeros.at[ids].add(gradient.astype(jnp.float32))
  return total, None


lookup.defvjp(_lookup_forward, _lookup_backward)


class Embedding(nnx.Embed):
  """A table whose rows are looked up by `lookup`."""

  def __call__(self, inputs: jax.Array) -> jax.Array:
    """int32 [...] to [..., D] in the compute dtype."""
    return lookup(self.embedding[...], inputs, self.dtype)


def embed(config: BertConfig, rows: int, *, rngs: nnx.Rngs) -> Embedding:
  """A table float32 [rows, D], initialised as BERT's projections are."""
  return Embedding(
    rows,
    config.hidden_size,
    dtype=config.compute_dtype,
    param_dtype=jnp.float32,
    embedding_init=_initializer(config),
    rngs=rngs,
  )


def layer_norm(config: BertConfig, *, rngs: nnx.Rngs) -> LayerNorm:
  """LayerNorm over D, in float32.

  The two-pass variance is used: the one-pass E[x²] − E[x]² loses the digits
  that agreement with other implementations needs.
  """
  return LayerNorm(
    config.hidden_size,
    epsilon=config.layer_norm_epsilon,
    dtype=jnp.float32,
    param_dtype=jnp.float32,
    use_fast_variance=False,
    rngs=rngs,
  )


def dropout(x: jax.Array, rate: float, key: jax.Array | None) -> jax.Array:
  """Zeroes elements with probability `rate` and rescales the others.

  A byte decides on an element, and four are drawn at once: a quarter of the
  random numbers (`jax.random.bits` of bytes draws one of 32 bits for each), at
  the price of a rate rounded to a multiple of 1/256 (0.1 becomes 0.1016; below
  1/512 nothing is dropped). The rescaling uses the rounded rate, so the
  expectation is that of `x`.

  Args:
    x: any shape but a scalar's, any floating dtype.
    rate: probability, in [0, 1).
    key: a random key, or None to leave `x` as it is (evaluation).

  Returns:
    The same shape and dtype as `x`.
  """
  dropped = min(round(rate * 256), 255)
  if key is None or dropped == 0:
    return x
  *leading, last = x.shape
  words = jax.random.bits(key, (*leading, -(-last // 4)), jnp.uint32)
  drawn = jax.lax.bitcast_convert_type(words, jnp.uint8)
  keep = drawn.reshape(*leading, -1)[..., :last] >= dropped
  # In float32: a factor rounded to bfloat16 would shift the mean by 0.3 %.
  scaled = x.astype(jnp.float32) * (256 / (256 - dropped))
  return jnp.where(keep, scaled, 0).astype(x.dtype)
