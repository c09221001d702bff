"""What is put on the encoder: words, next sentences, classes, scores, spans.

The encoder sits at `encoder` and the pooler at `pooler` in each of them, so
that pre-trained parameters find their place by name.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from shared_bert.model.config import BertConfig
from shared_bert.model.encoder import Encoder, Pooler
from shared_bert.model.layers import dense, dropout, layer_norm


def first_tokens(input_ids: jax.Array) -> jax.Array:
  """Where [CLS] is in rows int32 [B, S] of one text: zeros, int32 [B, 1]."""
  return jnp.zeros_like(input_ids[:, :1])


def _key_for(key: jax.Array | None, number: int) -> jax.Array | None:
  return None if key is None else jax.random.fold_in(key, number)


class _WordPrediction(nnx.Module):
  """An encoder and what predicts words; the decoder is the embedding."""

  def __init__(self, config: BertConfig, *, rngs: nnx.Rngs):
    width = config.hidden_size
    self.encoder = Encoder(config, rngs=rngs)
    self.transform = dense(config, width, width, rngs=rngs)
    self.norm = layer_norm(config, rngs=rngs)
    self.decoder_bias = nnx.Param(jnp.zeros((config.vocab_size,)))

  def words(self, x: jax.Array) -> jax.Array:
    """[B, P, D] to logits, float32 [B, P, V]."""
    x = self.norm(jax.nn.gelu(self.transform(x), approximate=False))
    logits = self.encoder.embeddings.word.attend(x)
    return logits.astype(jnp.float32) + self.decoder_bias[...]


class BertForMaskedLM(_WordPrediction):
  """Predicts the words at chosen positions."""

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
        last layer's feed-forward and the vocabulary. None predicts everywhere
        (P = S).

    Returns:
      float32 [B, P, V].
    """
    return self.words(
      self.encoder(
        input_ids, token_type_ids, segment_ids, key, masked_positions
      )
    )


class BertForPreTraining(_WordPrediction):
  """Predicts words, and whether the second text follows the first.

  As google-research/bert, run_pretraining.py, `get_next_sentence_output`: two
  classes from the pooled [CLS], without dropout between.
  """

  def __init__(self, config: BertConfig, *, rngs: nnx.Rngs):
    super().__init__(config, rngs=rngs)
    self.pooler = Pooler(config, rngs=rngs)
    self.next_sentence = dense(config, config.hidden_size, 2, rngs=rngs)

  def __call__(
    self,
    input_ids: jax.Array,
    token_type_ids: jax.Array | None = None,
    segment_ids: jax.Array | None = None,
    key: jax.Array | None = None,
    *,
    masked_positions: jax.Array | None = None,
  ) -> tuple[jax.Array, jax.Array]:
    """As `BertForMaskedLM`, of rows with one segment each.

    Args:
      input_ids: int32 [B, S].
      token_type_ids: int32 [B, S] or None.
      segment_ids: int32 [B, S] or None.
      key: random key of the dropout, or None in evaluation.
      masked_positions: int32 [B, P] or None.

    Returns:
      Logits over the vocabulary, float32 [B, P, V], and over whether the
      second text follows (0) or is a random one (1), float32 [B, 2].
    """
    read = masked_positions
    if read is not None:
      read = jnp.concatenate([first_tokens(input_ids), read], axis=1)
    x = self.encoder(input_ids, token_type_ids, segment_ids, key, read)
    next_sentence = self.next_sentence(self.pooler(x[:, 0]))
    # What was read for the pooler is no word.
    words = self.words(x if read is None else x[:, 1:])
    return words, next_sentence.astype(jnp.float32)


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
    *,
    first_positions: jax.Array | None = None,
  ) -> jax.Array:
    """As `Encoder`, then outputs for each row, or each segment of packed rows.

    Args:
      input_ids: int32 [B, S].
      token_type_ids: int32 [B, S] or None.
      segment_ids: int32 [B, S] or None.
      key: random key of the dropout, or None in evaluation.
      first_positions: int32 [B, M], where the segments of packed rows begin.
        None for one in each row, at its beginning.

    Returns:
      float32 [B, num_outputs], or of packed rows [B, M, num_outputs].
    """
    is_packed = first_positions is not None
    firsts = first_positions if is_packed else first_tokens(input_ids)
    x = self.encoder(
      input_ids, token_type_ids, segment_ids, _key_for(key, 0), firsts
    )
    pooled = self.pooler(x if is_packed else x[:, 0])
    pooled = dropout(pooled, self.dropout_rate, _key_for(key, 1))
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
