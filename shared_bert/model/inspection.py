"""What can be seen of a model's inside: attention entropy, diagonals."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from shared_bert.model import backends
from shared_bert.model.config import BertConfig
from shared_bert.model.encoder import Encoder, EncoderLayer
from shared_bert.model.parameters import Params, applier


def _mean_over_tokens(values: jax.Array, segment_ids: jax.Array) -> jax.Array:
  """Mean of [B, S] where there is no padding; 0 where there is nothing else."""
  real = (segment_ids > 0).astype(values.dtype)
  return (values * real).sum() / jnp.maximum(real.sum(), 1)


def attention_entropy(config: BertConfig) -> Callable[..., jax.Array]:
  """How widely each layer of a model looks.

  The entropy of a token's attention, -Σ p·ln p, is 0 where it looks at one
  token and ln n where it looks at the n tokens of its segment alike
  (`uniform_entropy`). The layers are the model's own, without dropout.

  Args:
    config: of the model.

  Returns:
    A function of (params with `encoder` among them, input_ids, token_type_ids
    or None, segment_ids), int32 [B, S] each, to float32 [L]: the mean over
    heads and over all tokens but padding, in nats.
  """
  observe = applier(lambda rngs: Encoder(config, rngs=rngs), 'observe')

  def look(
    layer: EncoderLayer, x: jax.Array, segment_ids: jax.Array
  ) -> jax.Array:
    q, k, _ = layer.attention.heads(layer.attention_input(x))
    probabilities = backends.attention_probabilities(q, k, segment_ids)
    entropy = jax.scipy.special.entr(probabilities).sum(-1)  # [B, H, S]
    return _mean_over_tokens(entropy.mean(axis=1), segment_ids)

  def apply(
    params: Params,
    input_ids: jax.Array,
    token_type_ids: jax.Array | None,
    segment_ids: jax.Array,
  ) -> jax.Array:
    _, entropies = observe(
      params['encoder'], look, input_ids, token_type_ids, segment_ids
    )
    return entropies

  return apply


def uniform_entropy(segment_ids: jax.Array) -> jax.Array:
  """What `attention_entropy` is at most: that of looking everywhere alike.

  Args:
    segment_ids: int32 [B, S]; 0 is padding.

  Returns:
    float32 scalar, the mean of ln n over all tokens but padding, n being how
    many tokens their segment has.
  """
  same = segment_ids[:, :, None] == segment_ids[:, None, :]
  lengths = same.sum(axis=-1).astype(jnp.float32)
  return _mean_over_tokens(jnp.log(lengths), segment_ids)


def diagonals(params: Params) -> dict[str, jax.Array]:
  """The diagonals of shared attention, as far as they matter to the output.

  Scores see nothing of d_q and d_k but their product.

  Args:
    params: of a model, with `encoder` among them.

  Returns:
    `d_q_times_d_k` and `d_v`, each [L, D]; nothing for mechanisms that have no
    diagonals.
  """
  projection = params['encoder']['layers']['attention']['projection']
  if 'd_q' not in projection:
    return {}
  return {
    'd_q_times_d_k': projection['d_q'] * projection['d_k'],
    'd_v': projection['d_v'],
  }
