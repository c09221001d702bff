"""What is put on the encoder: masked words, classes, scores, spans.

The encoder sits at `encoder` and the pooler at `pooler` in each of them, so
that pre-trained parameters find their place by name.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from shared_bert.model.config import BertConfig
from shared_bert.model.encoder import Encoder, Pooler
from shared_bert.model.layers import dense, dropout, layer_norm


def _key_for(key: jax.Array | None, number: int) -> jax.Array | None:
  return None if key is None else jax.random.fold_in(key, number)


class BertForMaskedLM(nnx.Module):
  """Predicts the words at chosen positions; the decoder is the embedding."""

  def __init__(self, config: BertConfig, *, rngs: nnx.Rngs):
    width = config.hidden_size
    self.encoder = Encoder(config, rngs=rngs)
    self.transform = dense(config, width, width, rngs=rngs)
    self.norm = layer_norm(config, rngs=rngs)
    self.decoder_bias = nnx.Param(jnp.zeros((config.vocab_size,)))

  def __call__(
    self,
    input_ids: jax.Array,
    token_type_ids: jax.Array | None = None,
    segment_ids: jax.Array | None = None,
    key: jax.Array | None = None,
    *,
    masked_positions: jax.Array | None = None,
  ) -> jax.Array:
    """As `Encoder`, then logits over the vocabulary.

    Args:
      input_ids: int32 [B, S].
      token_type_ids: int32 [B, S] or None.
      segment_ids: int32 [B, S] or None.
      key: random key of the dropout, or None in evaluation.
      masked_positions: int32 [B, P], where to predict; only these reach the
        vocabulary. None predicts everywhere (P = S).

    Returns:
      float32 [B, P, V].
    """
    x = self.encoder(input_ids, token_type_ids, segment_ids, key)
    if masked_positions is not None:
      x = jnp.take_along_axis(x, masked_positions[:, :, None], axis=1)
    x = self.norm(jax.nn.gelu(self.transform(x), approximate=False))
    logits = self.encoder.embeddings.word.attend(x)
    return logits.astype(jnp.float32) + self.decoder_bias[...]


class BertForSequenceClassification(nnx.Module):
  """Classes, or with one output a regression, from the pooled [CLS]."""

  def __init__(self, config: BertConfig, num_outputs: int, *, rngs: nnx.Rngs):
    self.encoder = Encoder(config, rngs=rngs)
    self.pooler = Pooler(config, rngs=rngs)
    self.classifier = dense(config, config.hidden_size, num_outputs, rngs=rngs)
    self.dropout_rate = config.hidden_dropout

  def __call__(
    self,
    input_ids: jax.Array,
    token_type_ids: jax.Array | None = None,
    segment_ids: jax.Array | None = None,
    key: jax.Array | None = None,
  ) -> jax.Array:
    """As `Encoder`; returns float32 [B, num_outputs]."""
    x = self.encoder(input_ids, token_type_ids, segment_ids, _key_for(key, 0))
    pooled = dropout(self.pooler(x), self.dropout_rate, _key_for(key, 1))
    return self.classifier(pooled).astype(jnp.float32)


class BertForQuestionAnswering(nnx.Module):
  """Start and end of an answer span in the row."""

  def __init__(self, config: BertConfig, *, rngs: nnx.Rngs):
    self.encoder = Encoder(config, rngs=rngs)
    self.span = dense(config, config.hidden_size, 2, rngs=rngs)

  def __call__(
    self,
    input_ids: jax.Array,
    token_type_ids: jax.Array | None = None,
    segment_ids: jax.Array | None = None,
    key: jax.Array | None = None,
  ) -> tuple[jax.Array, jax.Array]:
    """As `Encoder`; returns start and end logits, float32 [B, S] each."""
    x = self.encoder(input_ids, token_type_ids, segment_ids, key)
    logits = self.span(x).astype(jnp.float32)
    return logits[..., 0], logits[..., 1]
