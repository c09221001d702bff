"""Ways to compute softmax(Q·Kᵀ/√K)·V within segments.

One so far: XLA's, which every device runs and which is the reference that
others are tested against.
"""

import jax
import jax.numpy as jnp

from shared_bert.model.layers import dropout

# Finite, so that a row of nothing but padding gives a uniform softmax rather
# than NaN; low enough that exp() of it is exactly 0 beside any real score.
MASKED_SCORE = -1e9


def attention_scores(q: jax.Array, k: jax.Array) -> jax.Array:
  """Scaled scores before the mask, accumulated in float32.

  Args:
    q: [B, S, H, K], or [B, P, H, K] of some tokens.
    k: [B, S, H, K].

  Returns:
    float32 [B, H, S, S] or [B, H, P, S], query axis first.
  """
  scores = jnp.einsum(
    'BSHK,BTHK->BHST', q, k, preferred_element_type=jnp.float32
  )
  return scores * q.shape[-1] ** -0.5


def attention_probabilities(
  q: jax.Array,
  k: jax.Array,
  segment_ids: jax.Array,
  read: jax.Array | None = None,
) -> jax.Array:
  """What each token gives to each token of its segment.

  Args:
    q: [B, S, H, K], or [B, P, H, K] of the tokens at `read`.
    k: [B, S, H, K].
    segment_ids: int32 [B, S]; 0 is padding, equal numbers see each other.
    read: int32 [B, P] or None.

  Returns:
    float32 [B, H, S, S] or [B, H, P, S], query axis first; sums to 1 over the
    last axis, and is 0 outside the segment of a query that is not padding.
  """
  of_queries = segment_ids
  if read is not None:
    of_queries = jnp.take_along_axis(segment_ids, read, axis=1)
  visible = (of_queries[:, None, :, None] == segment_ids[:, None, None, :]) & (
    segment_ids[:, None, None, :] > 0
  )
  scores = jnp.where(visible, attention_scores(q, k), MASKED_SCORE)
  return jax.nn.softmax(scores, axis=-1)


def xla_attention(
  q: jax.Array,
  k: jax.Array,
  v: jax.Array,
  segment_ids: jax.Array,
  *,
  dropout_rate: float = 0.0,
  key: jax.Array | None = None,
  read: jax.Array | None = None,
) -> jax.Array:
  """Attention as BERT has it, with dropout on the probabilities.

  Args:
    q: [B, S, H, K], or [B, P, H, K] of the tokens at `read`.
    k: [B, S, H, K].
    v: [B, S, H, K].
    segment_ids: int32 [B, S]; 0 is padding, equal numbers see each other.
    dropout_rate: on the probabilities, used where `key` is given.
    key: a random key, or None.
    read: int32 [B, P] or None.

  Returns:
    Of the shape of `q`, in the dtype of `v`.
  """
  probabilities = attention_probabilities(q, k, segment_ids, read)
  probabilities = probabilities.astype(v.dtype)
  probabilities = dropout(probabilities, dropout_rate, key)
  return jnp.einsum('BHST,BTHK->BSHK', probabilities, v)
