"""Segments of a row, read from its tokens."""

import jax
import jax.numpy as jnp
import numpy as np

from shared_bert.data import segments

PAD, CLS, SEP = 0, 2, 3


@jax.jit
def _segments(ids):
  return (
    segments.segment_ids(ids, cls_id=CLS, pad_id=PAD),
    segments.token_type_ids(ids, cls_id=CLS, sep_id=SEP, pad_id=PAD),
  )


def test_packed_segments_are_numbered_and_padding_is_not():
  ids = jnp.asarray(
    [
      [2, 9, 9, 3, 2, 9, 3, 2, 3, 0, 0, 0],
      [2, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 3],
      [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
    ],
    jnp.int32,
  )
  numbers, types = _segments(ids)
  assert numbers.dtype == types.dtype == jnp.int32
  np.testing.assert_array_equal(
    numbers,
    [
      [1, 1, 1, 1, 2, 2, 2, 3, 3, 0, 0, 0],
      [1] * 12,
      [0] * 12,
    ],
  )
  assert not types.any(), 'one text a segment'


def test_the_second_text_of_a_pair_has_the_second_type():
  ids = jnp.asarray(
    [
      [2, 9, 9, 3, 9, 9, 9, 3, 0, 0, 0, 0],
      [2, 9, 3, 9, 9, 9, 9, 9, 9, 9, 9, 3],
      # Several pairs in a row, the second of one text only.
      [2, 9, 3, 9, 3, 2, 9, 3, 2, 3, 9, 3],
    ],
    jnp.int32,
  )
  numbers, types = _segments(ids)
  np.testing.assert_array_equal(
    types,
    [
      [0, 0, 0, 0, 1, 1, 1, 1, 0, 0, 0, 0],
      [0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 1],
      [0, 0, 0, 1, 1, 0, 0, 0, 0, 0, 1, 1],
    ],
  )
  np.testing.assert_array_equal(
    numbers[2], [1, 1, 1, 1, 1, 2, 2, 2, 3, 3, 3, 3]
  )
