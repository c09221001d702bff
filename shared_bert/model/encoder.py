"""BERT's encoder: embeddings, L equal layers, and a pooler.

Devlin et al. 2019 and google-research/bert, modeling.py. The layers' parameters
are stacked along a leading L axis, whether the layers are scanned or unrolled,
so that a checkpoint does not know how it was computed.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from shared_bert.errors import UserError
from shared_bert.model import sharding
from shared_bert.model.attention import SelfAttention
from shared_bert.model.config import BertConfig
from shared_bert.model.layers import (
  PRODUCT,
  at,
  dense,
  dropout,
  embed,
  layer_norm,
)


def positions_in_segments(segment_ids: jax.Array) -> jax.Array:
  """Counts positions from 0 within each run of equal segment ids.

  Args:
    segment_ids: int32 [B, S].

  Returns:
    int32 [B, S].
  """
  index = jnp.arange(segment_ids.shape[1], dtype=jnp.int32)[None, :]
  before = jnp.pad(segment_ids[:, :-1], ((0, 0), (1, 0)), constant_values=-1)
  starts = jnp.where(segment_ids != before, index, 0)
  return index - jax.lax.cummax(starts, axis=1)


class Embeddings(nnx.Module):
  """Sum of word, position and token-type embeddings, normalised."""

  def __init__(self, config: BertConfig, *, rngs: nnx.Rngs):
    self.word = embed(config, config.vocab_size, rngs=rngs)
    self.position = embed(config, config.max_positions, rngs=rngs)
    self.token_type = embed(config, config.type_vocab_size, rngs=rngs)
    self.norm = layer_norm(config, rngs=rngs)
    self.dropout_rate = config.hidden_dropout

  def __call__(
    self,
    input_ids: jax.Array,
    token_type_ids: jax.Array,
    segment_ids: jax.Array,
    key: jax.Array | None = None,
  ) -> jax.Array:
    """int32 [B, S] each, and a key or None, to [B, S, D]."""
    x = (
      self.word(input_ids)
      + self.position(positions_in_segments(segment_ids))
      + self.token_type(token_type_ids)
    )
    return dropout(self.norm(x), self.dropout_rate, key)


class FeedForward(nnx.Module):
  """Two projections around the exact (erf) GELU."""

  def __init__(self, config: BertConfig, *, rngs: nnx.Rngs):
    self.up = dense(
      config, config.hidden_size, config.intermediate_size, rngs=rngs
    )
    self.down = dense(
      config, config.intermediate_size, config.hidden_size, rngs=rngs
    )

  def __call__(self, x: jax.Array) -> jax.Array:
    """[B, S, D] to [B, S, D]."""
    return self.down(jax.nn.gelu(self.up(x), approximate=False))


class EncoderLayer(nnx.Module):
  """Attention, then feed-forward, each with dropout, residual, LayerNorm."""

  def __init__(self, config: BertConfig, *, rngs: nnx.Rngs):
    self.attention = SelfAttention(config, rngs=rngs)
    self.attention_norm = layer_norm(config, rngs=rngs)
    self.feed_forward = FeedForward(config, rngs=rngs)
    self.feed_forward_norm = layer_norm(config, rngs=rngs)
    self.pre_norm = config.pre_norm
    self.dropout_rate = config.hidden_dropout

  def attention_input(self, x: jax.Array) -> jax.Array:
    """What the attention sees of the layer's input, [B, S, D]."""
    return self.attention_norm(x) if self.pre_norm else x

  def __call__(
    self,
    x: jax.Array,
    segment_ids: jax.Array,
    key: jax.Array | None = None,
    read: jax.Array | None = None,
  ) -> jax.Array:
    """A layer, of all positions or of those that anything reads.

    Args:
      x: [B, S, D].
      segment_ids: int32 [B, S].
      key: random key of the dropout, or None.
      read: int32 [B, P], or None for all.

    Returns:
      [B, S, D], or [B, P, D] of `read`.
    """
    keys: Sequence[jax.Array | None] = (None,) * 3
    if key is not None:
      keys = tuple(jax.random.split(key, 3))

    def attend(y: jax.Array) -> jax.Array:
      y = self.attention(y, segment_ids, keys[0], read)
      return dropout(y, self.dropout_rate, keys[1])

    def feed(y: jax.Array) -> jax.Array:
      return dropout(self.feed_forward(y), self.dropout_rate, keys[2])

    x = at(x, read) + attend(self.attention_input(x))
    if self.pre_norm:
      return x + feed(self.feed_forward_norm(x))
    x = self.attention_norm(x)
    return self.feed_forward_norm(x + feed(x))


def split_last(layers: Any) -> tuple[Any, Any]:
  """A tree of arrays [L, ...] as all but the last, and the last."""
  return (
    jax.tree.map(lambda x: x[:-1], layers),
    jax.tree.map(lambda x: x[-1], layers),
  )


_REMAT_POLICIES = {
  'full': None,
  'dots': jax.checkpoint_policies.save_from_both_policies(
    jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    jax.checkpoint_policies.save_only_these_names(PRODUCT),
  ),
}


class Encoder(nnx.Module):
  """Embeddings and L layers: token ids in, one vector a token out."""

  def __init__(self, config: BertConfig, *, rngs: nnx.Rngs):
    self.config = config
    self.embeddings = Embeddings(config, rngs=rngs)
    # One stack of parameters with a leading L axis, each layer from its key.
    keys = jax.random.split(rngs.params(), config.num_layers)
    if config.last_apart:
      keys, last_key = keys[:-1], keys[-1]
      self.last = EncoderLayer(config, rngs=nnx.Rngs(last_key))
    self.layers = nnx.vmap(
      lambda key: EncoderLayer(config, rngs=nnx.Rngs(key))
    )(keys)
    if config.pre_norm:
      self.final_norm = layer_norm(config, rngs=rngs)

  def __call__(
    self,
    input_ids: jax.Array,
    token_type_ids: jax.Array | None = None,
    segment_ids: jax.Array | None = None,
    key: jax.Array | None = None,
    read: jax.Array | None = None,
  ) -> jax.Array:
    """Encodes rows of tokens.

    Args:
      input_ids: int32 [B, S], S at most `max_positions`.
      token_type_ids: int32 [B, S], sentence A (0) or B (1); default all 0.
      segment_ids: int32 [B, S]; 0 is padding, and tokens see those with their
        own number. An attention mask of 0 and 1 is one such; a packed row has
        1, 2, 3, … and positions restart in each. Default all 1.
      key: random key of the dropout, or None in evaluation.
      read: int32 [B, P], the positions that a head reads; None for all. The
        last layer then computes no others: keys and values of all tokens, but
        queries and all that follows of P. That is exact, and saves 6 % of the
        products of base with 15 % of 128 tokens masked.

    Returns:
      [B, S, D], or [B, P, D] of `read`, in the compute dtype.

    Raises:
      UserError: if the rows are longer than the model has positions.
    """
    return self._encode(
      lambda layer, x, segment_ids: None,
      input_ids,
      token_type_ids,
      segment_ids,
      key,
      read,
    )[0]

  def observe(
    self,
    look: Callable[[EncoderLayer, jax.Array, jax.Array], Any],
    input_ids: jax.Array,
    token_type_ids: jax.Array | None = None,
    segment_ids: jax.Array | None = None,
    key: jax.Array | None = None,
  ) -> tuple[jax.Array, Any]:
    """Encodes rows of tokens and looks into every layer on the way.

    Args:
      look: (layer, its input [B, S, D], segment_ids int32 [B, S]) to a pytree
        of arrays.
      input_ids: and the rest: as for a call.
      token_type_ids: int32 [B, S] or None.
      segment_ids: int32 [B, S] or None.
      key: a random key or None.

    Returns:
      [B, S, D] as of a call, and what `look` returned, stacked along a leading
      L axis.

    Raises:
      UserError: if the rows are longer than the model has positions.
    """
    return self._encode(look, input_ids, token_type_ids, segment_ids, key, None)

  def _encode(
    self,
    look: Callable[[EncoderLayer, jax.Array, jax.Array], Any],
    input_ids: jax.Array,
    token_type_ids: jax.Array | None,
    segment_ids: jax.Array | None,
    key: jax.Array | None,
    read: jax.Array | None,
  ) -> tuple[jax.Array, Any]:
    if input_ids.shape[1] > self.config.max_positions:
      raise UserError(
        f'Rows of {input_ids.shape[1]} tokens are longer than '
        f'model.max_positions={self.config.max_positions}: shorten the rows '
        'or raise it.'
      )
    if token_type_ids is None:
      token_type_ids = jnp.zeros_like(input_ids)
    if segment_ids is None:
      segment_ids = jnp.ones_like(input_ids)
    num_layers = self.config.num_layers
    embedding_key, layer_keys = None, None
    if key is not None:
      keys = jax.random.split(key, num_layers + 1)
      embedding_key, layer_keys = keys[0], keys[1:]
    x = self.embeddings(input_ids, token_type_ids, segment_ids, embedding_key)
    x = sharding.by_rows(x)

    graph, parameters = nnx.split(self.layers)
    layers, last = (parameters, layer_keys), None
    if self.config.last_apart:
      keys, last_key = split_last(layer_keys)
      layers, last = (parameters, keys), (nnx.split(self.last)[1], last_key)
    elif read is not None:
      layers, last = split_last(layers)

    def apply_layer(
      x: jax.Array,
      layer: tuple[Any, jax.Array | None],
      read: jax.Array | None = None,
    ) -> tuple[jax.Array, Any]:
      layer_parameters, layer_key = layer
      layer_parameters = sharding.whole(
        layer_parameters, self.config.compute_dtype
      )
      block = nnx.merge(graph, layer_parameters)
      seen = look(block, x, segment_ids)
      return sharding.by_rows(block(x, segment_ids, layer_key, read)), seen

    policies = _REMAT_POLICIES
    if sharding.is_sharded():
      policies = policies | {'none': sharding.save_all_but_whole}

    def spared(is_scanned: bool) -> Callable[..., tuple[jax.Array, Any]]:
      """`apply_layer`, keeping what `remat` says for the backward pass."""
      if self.config.remat not in policies:
        return apply_layer
      return jax.checkpoint(
        apply_layer,
        policy=policies[self.config.remat],
        # A scan keeps XLA from merging both computations; unrolled layers
        # need the barriers, which cost fusions.
        prevent_cse=not is_scanned,
      )

    x, seen = jax.lax.scan(
      spared(self.config.scan_layers),
      x,
      layers,
      unroll=1 if self.config.scan_layers else num_layers,
    )
    if last is not None:
      x, seen_last = spared(is_scanned=False)(x, last, read)
      seen = jax.tree.map(
        lambda stack, one: jnp.concatenate([stack, one[None]]), seen, seen_last
      )
    return (self.final_norm(x) if self.config.pre_norm else x), seen


class Pooler(nnx.Module):
  """tanh of a projection of the first token of a text, [CLS]."""

  def __init__(self, config: BertConfig, *, rngs: nnx.Rngs):
    self.dense = dense(
      config, config.hidden_size, config.hidden_size, rngs=rngs
    )

  def __call__(self, firsts: jax.Array) -> jax.Array:
    """Vectors of first tokens, [..., D], to [..., D]."""
    return jnp.tanh(self.dense(firsts))


class BertModel(nnx.Module):
  """Encoder and pooler: the model whose parameters papers count."""

  def __init__(self, config: BertConfig, *, rngs: nnx.Rngs):
    self.encoder = Encoder(config, rngs=rngs)
    self.pooler = Pooler(config, rngs=rngs)

  def __call__(
    self,
    input_ids: jax.Array,
    token_type_ids: jax.Array | None = None,
    segment_ids: jax.Array | None = None,
    key: jax.Array | None = None,
  ) -> tuple[jax.Array, jax.Array]:
    """As `Encoder`; returns ([B, S, D], pooled [B, D])."""
    x = self.encoder(input_ids, token_type_ids, segment_ids, key)
    return x, self.pooler(x[:, 0])
