"""The small parts that every block is made of."""

import functools

import jax
import jax.numpy as jnp
from flax import nnx

from shared_bert.model.config import BertConfig

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
    rngs=rngs,
  )


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

  One byte is drawn per element instead of a float32 uniform: a quarter of the
  random bits, at the price of a rate rounded to a multiple of 1/256 (0.1
  becomes 0.1016; below 1/512 nothing is dropped). The rescaling uses the
  rounded rate, so the expectation is that of `x`.

  Args:
    x: any shape, any floating dtype.
    rate: probability, in [0, 1).
    key: a random key, or None to leave `x` as it is (evaluation).

  Returns:
    The same shape and dtype as `x`.
  """
  dropped = min(round(rate * 256), 255)
  if key is None or dropped == 0:
    return x
  keep = jax.random.bits(key, x.shape, jnp.uint8) >= dropped
  # In float32: a factor rounded to bfloat16 would shift the mean by 0.3 %.
  scaled = x.astype(jnp.float32) * (256 / (256 - dropped))
  return jnp.where(keep, scaled, 0).astype(x.dtype)
