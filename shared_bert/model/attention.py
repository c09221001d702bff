"""The method on one page: six ways to make queries, keys and values.

Kowsher et al., "Does Self-Attention Need Separate Weights in Transformers?"
(arXiv 2412.00359), make them from one projection and three vectors:

  S = X·W_s + b_s      Q = S∘d_q      K = S∘d_k      V = S∘d_v

so that a layer's query/key/value parameters fall to a third. Beside it stand
the mechanisms it is compared with; all of them feed the same attention and
the same output projection W_o. A seventh is one class and one line in
`PROJECTIONS`.

| name      | queries, keys, values            | parameters at D=768, H=12 |
|-----------|----------------------------------|---------------------------|
| standard  | X·W_q, X·W_k, X·W_v              | 1,771,776                 |
| shared    | S∘d_q, S∘d_k, S∘d_v              |   592,896                 |
| symmetric | Q, Q, X·W_v                      | 1,181,184                 |
| pairwise  | Q·U, Q, X·W_v; U is [H, K, K]    | 1,230,336                 |
| tied      | S, S, S                          |   590,592                 |
| tied_kv   | X·W_q, X·W_k, the keys           | 1,181,184                 |

What follows from the shared form, each kept by a test: its scores are
symmetric before the softmax; only the product d_q∘d_k matters to them; d_v
folds into W_o; and a shared layer is a standard one with
W_q = W_s·diag(d_q), W_k = W_s·diag(d_k), W_v = W_s·diag(d_v).
"""

import jax
import jax.numpy as jnp
from flax import nnx

from shared_bert.model import backends
from shared_bert.model.config import BertConfig
from shared_bert.model.layers import at, dense

# Each projection maps x [B, S, D] to queries, keys and values, each [B, S, D]
# with heads side by side in the last axis, in the dtype of x. Given positions
# `read` int32 [B, P], it makes queries of these alone, [B, P, D].
QueriesKeysValues = tuple[jax.Array, jax.Array, jax.Array]
# Where all three are one array S: S, and d_q∘d_k and d_v, float32 [D].
SharedForm = tuple[jax.Array, jax.Array, jax.Array]


class StandardProjection(nnx.Module):
  """Three matrices (Vaswani et al. 2017; BERT)."""

  def __init__(self, config: BertConfig, *, rngs: nnx.Rngs):
    width = config.hidden_size
    self.query = dense(config, width, width, rngs=rngs)
    self.key = dense(config, width, width, rngs=rngs)
    self.value = dense(config, width, width, rngs=rngs)
    if config.standard_init == 'symmetric':
      self.key.kernel = nnx.Param(self.query.kernel[...])

  def __call__(
    self, x: jax.Array, read: jax.Array | None = None
  ) -> QueriesKeysValues:
    """[B, S, D] to three of the same shape and dtype; queries at `read`."""
    return self.query(at(x, read)), self.key(x), self.value(x)


class LowRank(nnx.Module):
  """x·A·B, a matrix of rank r; nothing at first, since B starts as zeros."""

  def __init__(self, config: BertConfig, *, rngs: nnx.Rngs):
    width, rank = config.hidden_size, config.residual_rank
    normal = jax.random.normal(rngs.params(), (width, rank))
    self.down = nnx.Param(config.initializer_range * normal)
    self.up = nnx.Param(jnp.zeros((rank, width)))

  def __call__(self, x: jax.Array) -> jax.Array:
    """[B, S, D] to the same shape and dtype."""
    return x @ self.down[...].astype(x.dtype) @ self.up[...].astype(x.dtype)


def scaled(s: jax.Array, diagonal: nnx.Param) -> jax.Array:
  """S∘d, [B, S, D], of S's dtype; multiplied, and its gradient summed, in d's.

  In bfloat16 the gradient of d would be a sum of rounded products.
  """
  return (s * diagonal[...]).astype(s.dtype)


class SharedProjection(nnx.Module):
  """One matrix and three diagonals (Kowsher et al., arXiv 2412.00359).

  Not of the paper: a bias a role, and a residual of low rank a role, which
  takes it step by step to three matrices.
  """

  def __init__(self, config: BertConfig, *, rngs: nnx.Rngs):
    width = config.hidden_size
    self.shared = dense(
      config, width, width, use_bias=not config.role_bias, rngs=rngs
    )

    def diagonal() -> nnx.Param:
      ones = jnp.ones((width,))
      if config.diagonal_init == 'normal':
        noise = jax.random.normal(rngs.params(), (width,))
        return nnx.Param(ones + config.initializer_range * noise)
      if config.diagonal_init == 'signs':
        return nnx.Param(
          jax.random.rademacher(rngs.params(), (width,), jnp.float32)
        )
      return nnx.Param(ones)

    self.d_q, self.d_k, self.d_v = diagonal(), diagonal(), diagonal()
    self.role_bias = config.role_bias
    if config.role_bias:
      self.query_bias = nnx.Param(jnp.zeros((width,)))
      self.key_bias = nnx.Param(jnp.zeros((width,)))
      self.value_bias = nnx.Param(jnp.zeros((width,)))
    self.residual_rank = config.residual_rank
    if config.residual_rank:
      self.query_residual = LowRank(config, rngs=rngs)
      self.key_residual = LowRank(config, rngs=rngs)
      self.value_residual = LowRank(config, rngs=rngs)

  def __call__(
    self, x: jax.Array, read: jax.Array | None = None
  ) -> QueriesKeysValues:
    """[B, S, D] to three of the same shape and dtype; queries at `read`."""
    s = self.shared(x)
    q = scaled(at(s, read), self.d_q)
    k = scaled(s, self.d_k)
    v = scaled(s, self.d_v)
    if self.role_bias:
      q = q + self.query_bias[...].astype(s.dtype)
      k = k + self.key_bias[...].astype(s.dtype)
      v = v + self.value_bias[...].astype(s.dtype)
    if self.residual_rank:
      q = q + self.query_residual(at(x, read))
      k = k + self.key_residual(x)
      v = v + self.value_residual(x)
    return q, k, v

  def shared_form(self, x: jax.Array) -> SharedForm:
    """[B, S, D] to S, of the same shape and dtype, d_q∘d_k and d_v."""
    return self.shared(x), self.d_q[...] * self.d_k[...], self.d_v[...]


class FoldedProjection(nnx.Module):
  """`shared` for inference: S∘d, S, S with d = d_q∘d_k and d_v in W_o.

  Exact: only d_q∘d_k matters to the scores, and the rows of W_o take d_v.
  """

  def __init__(self, config: BertConfig, *, rngs: nnx.Rngs):
    width = config.hidden_size
    self.shared = dense(config, width, width, rngs=rngs)
    self.d_qk = nnx.Param(jnp.ones((width,)))

  def __call__(
    self, x: jax.Array, read: jax.Array | None = None
  ) -> QueriesKeysValues:
    """[B, S, D] to three of the same shape and dtype; queries at `read`."""
    s = self.shared(x)
    return scaled(at(s, read), self.d_qk), s, s

  def shared_form(self, x: jax.Array) -> SharedForm:
    """[B, S, D] to S, of the same shape and dtype, d_q∘d_k and ones."""
    d_qk = self.d_qk[...]
    return self.shared(x), d_qk, jnp.ones_like(d_qk)


class SymmetricProjection(nnx.Module):
  """Keys are the queries (Courtois et al., arXiv 2406.06366)."""

  def __init__(self, config: BertConfig, *, rngs: nnx.Rngs):
    width = config.hidden_size
    self.query = dense(config, width, width, rngs=rngs)
    self.value = dense(config, width, width, rngs=rngs)

  def __call__(
    self, x: jax.Array, read: jax.Array | None = None
  ) -> QueriesKeysValues:
    """[B, S, D] to three of the same shape and dtype; queries at `read`."""
    q = self.query(x)
    return at(q, read), q, self.value(x)


class PairwiseProjection(nnx.Module):
  """Scores Q·U·Kᵀ with K = Q and one U per head (Courtois et al.)."""

  def __init__(self, config: BertConfig, *, rngs: nnx.Rngs):
    width, heads, size = (
      config.hidden_size,
      config.num_heads,
      config.head_size,
    )
    self.query = dense(config, width, width, rngs=rngs)
    self.value = dense(config, width, width, rngs=rngs)
    if config.pairwise_init == 'identity':
      pairwise = jnp.tile(jnp.eye(size), (heads, 1, 1))
    else:  # N(0, 1), as torch.randn in the authors' modeling_bert.py
      pairwise = jax.random.normal(rngs.params(), (heads, size, size))
    self.pairwise = nnx.Param(pairwise)

  def __call__(
    self, x: jax.Array, read: jax.Array | None = None
  ) -> QueriesKeysValues:
    """[B, S, D] to three of the same shape and dtype; queries at `read`."""
    keys = self.query(x)
    pairwise = self.pairwise[...].astype(keys.dtype)
    q = at(keys, read)
    heads = q.reshape(*q.shape[:-1], pairwise.shape[0], -1)
    queries = jnp.einsum('BSHK,HKJ->BSHJ', heads, pairwise)
    return queries.reshape(q.shape), keys, self.value(x)


class TiedProjection(nnx.Module):
  """Q = K = V: the shared method without its diagonals, as a control."""

  def __init__(self, config: BertConfig, *, rngs: nnx.Rngs):
    self.shared = dense(
      config, config.hidden_size, config.hidden_size, rngs=rngs
    )

  def __call__(
    self, x: jax.Array, read: jax.Array | None = None
  ) -> QueriesKeysValues:
    """[B, S, D] to three of the same shape and dtype; queries at `read`."""
    s = self.shared(x)
    return at(s, read), s, s


class TiedKeyValueProjection(nnx.Module):
  """Values are the keys, queries stand alone, as a control."""

  def __init__(self, config: BertConfig, *, rngs: nnx.Rngs):
    width = config.hidden_size
    self.query = dense(config, width, width, rngs=rngs)
    self.key = dense(config, width, width, rngs=rngs)

  def __call__(
    self, x: jax.Array, read: jax.Array | None = None
  ) -> QueriesKeysValues:
    """[B, S, D] to three of the same shape and dtype; queries at `read`."""
    k = self.key(x)
    return self.query(at(x, read)), k, k


PROJECTIONS = {
  'standard': StandardProjection,
  'shared': SharedProjection,
  'symmetric': SymmetricProjection,
  'pairwise': PairwiseProjection,
  'tied': TiedProjection,
  'tied_kv': TiedKeyValueProjection,
}


class SelfAttention(nnx.Module):
  """Multi-head self-attention over any of the `PROJECTIONS`."""

  def __init__(self, config: BertConfig, *, rngs: nnx.Rngs):
    width = config.hidden_size
    self.num_heads = config.num_heads
    self.dropout_rate = config.attention_dropout
    self.backend = config.attention_backend
    projection = PROJECTIONS[config.attention]
    if config.folded:
      projection = FoldedProjection
    self.projection = projection(config, rngs=rngs)
    self.output = dense(config, width, width, rngs=rngs)

  def _split(self, y: jax.Array) -> jax.Array:
    """[..., D] to [..., H, K]."""
    return y.reshape(*y.shape[:-1], self.num_heads, -1)

  def heads(
    self, x: jax.Array, read: jax.Array | None = None
  ) -> QueriesKeysValues:
    """[B, S, D] to queries, keys and values, each [B, S, H, K].

    With positions int32 [B, P], queries are [B, P, H, K].
    """
    q, k, v = self.projection(x, read)
    return self._split(q), self._split(k), self._split(v)

  def shared_heads(self, x: jax.Array) -> SharedForm:
    """[B, S, D] to S, [B, S, H, K], and d_q∘d_k and d_v, float32 [H, K]."""
    # As the configuration sees to.
    assert isinstance(self.projection, SharedProjection | FoldedProjection)
    s, d_qk, d_v = self.projection.shared_form(x)
    return self._split(s), self._split(d_qk), self._split(d_v)

  def __call__(
    self,
    x: jax.Array,
    segment_ids: jax.Array,
    key: jax.Array | None = None,
    read: jax.Array | None = None,
  ) -> jax.Array:
    """Lets every token look at the tokens of its own segment.

    Args:
      x: [B, S, D].
      segment_ids: int32 [B, S]; 0 is padding, equal numbers see each other.
      key: random key of the dropout, or None in evaluation.
      read: int32 [B, P], the positions that anything reads; None for all.

    Returns:
      [B, S, D], or [B, P, D] of `read`, after the output projection, in the
      dtype of `x`.
    """
    if self.backend == 'xla' or read is not None:
      # Few queries of many keys make few scores, with nothing to fuse.
      q, k, v = self.heads(x, read)
      context = backends.xla_attention(
        q, k, v, segment_ids, dropout_rate=self.dropout_rate, key=key, read=read
      )
    else:
      backend = backends.BACKENDS[self.backend]
      heads = self.shared_heads if backend.takes_shared_form else self.heads
      context = backend.attend(*heads(x), segment_ids)
    return self.output(context.reshape(*context.shape[:2], -1))
