"""Rows of tokens: padding, packing, positions, lengths."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from shared_bert.errors import UserError
from shared_bert.model.encoder import (
  BertModel,
  Encoder,
  positions_in_segments,
)
from shared_bert.model.heads import BertForMaskedLM
from shared_bert.model.parameters import abstract, applier, named_leaves
from tests.tiny_model import (
  VOCAB_SIZE,
  assert_close,
  forward,
  maker,
  random_params,
  tiny_config,
  token_rows,
)


def test_padding_does_not_change_real_positions():
  config = tiny_config()
  params = random_params(maker(BertModel, config))
  apply = forward(BertModel, config)
  lengths = (8, 5, 2)
  rows = token_rows(lengths, sequence=8)
  x, pooled = apply(params, *rows)
  padded = [jnp.pad(array, ((0, 0), (0, 8))) for array in rows]
  # What stands in the padding must not matter either.
  padded[0] = jnp.where(padded[2] == 0, 7, padded[0])
  padded[1] = jnp.where(padded[2] == 0, 1, padded[1])
  longer, pooled_longer = apply(params, *padded)
  for row, length in enumerate(lengths):
    assert_close(longer[row, :length], x[row, :length])
  assert_close(pooled_longer, pooled)


def packed_and_separate(lengths=(5, 4, 3)):
  """Segments in one row with two padding positions, and each in its own."""
  ids, token_types, segments = token_rows(lengths, sequence=8)

  def pack(array):
    parts = [array[row, :length] for row, length in enumerate(lengths)]
    return jnp.pad(jnp.concatenate(parts), (0, 2))[None]

  numbered = segments * jnp.arange(1, len(lengths) + 1)[:, None]
  packed = pack(ids), pack(token_types), pack(numbered)
  return lengths, packed, (ids, token_types, segments)


def test_packed_rows_equal_separate_rows():
  lengths, packed, separate = packed_and_separate()
  config = tiny_config()
  params = random_params(maker(BertModel, config))
  apply = forward(BertModel, config)
  x, _ = apply(params, *packed)
  alone, _ = apply(params, *separate)
  start = 0
  for row, length in enumerate(lengths):
    assert_close(x[0, start : start + length], alone[row, :length])
    start += length


@pytest.mark.parametrize('attention', ['standard', 'shared'])
def test_a_packed_segment_never_leaks_into_its_neighbour(attention):
  # Bit for bit, in the output and in the gradient of every parameter, however
  # the neighbours' tokens and token types change.
  _, packed, _ = packed_and_separate()
  ids, token_types, segments = packed
  config = tiny_config(attention=attention)
  make = maker(Encoder, config)
  apply = applier(make)
  params = random_params(make)
  own = (segments == 2)[..., None]

  @jax.jit
  def loss_and_gradients(params, ids, token_types):
    def loss(params):
      x = apply(params, ids, token_types, segments)
      return jnp.where(own, x * x * x, 0).sum(), jnp.where(own, x, 0)

    return jax.value_and_grad(loss, has_aux=True)(params)

  before = loss_and_gradients(params, ids, token_types)
  others = segments != 2
  after = loss_and_gradients(
    params,
    jnp.where(others, (ids + 7) % VOCAB_SIZE, ids),
    jnp.where(others, 1 - token_types, token_types),
  )
  for (name, leaf), other in zip(
    named_leaves(before), jax.tree.leaves(after), strict=True
  ):
    np.testing.assert_array_equal(leaf, other, err_msg=name)
  assert np.abs(before[1]['layers']['attention_norm']['scale']).max() > 0.1


def test_positions_restart_in_every_segment():
  segments = jnp.array([[1, 1, 1, 2, 2, 3, 0, 0], [1, 1, 1, 1, 1, 1, 1, 1]])
  expected = [[0, 1, 2, 0, 1, 0, 0, 1], [0, 1, 2, 3, 4, 5, 6, 7]]
  positions = jax.jit(positions_in_segments)(segments)
  np.testing.assert_array_equal(positions, expected)
  assert positions.dtype == jnp.int32


def test_missing_token_types_and_segments_mean_one_full_sentence():
  config = tiny_config()
  params = random_params(maker(BertModel, config))
  ids, _, _ = token_rows((12, 12, 12))
  apply = forward(BertModel, config)
  assert_close(
    apply(params, ids),
    apply(params, ids, jnp.zeros_like(ids), jnp.ones_like(ids)),
  )


def test_rows_longer_than_the_positions_are_refused():
  make = maker(BertForMaskedLM, tiny_config(max_positions=8))
  with pytest.raises(UserError, match=r'12 tokens .* model\.max_positions=8'):
    jax.eval_shape(applier(make), abstract(make), token_rows()[0])
