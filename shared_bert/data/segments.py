"""Where the segments of a row are, from its tokens alone, on the device.

A row holds one segment or several, each beginning with `[CLS]`, and padding at
its end. Nothing else stores the boundaries: text cannot produce `[CLS]` or
`[SEP]`, and masking leaves them where they are.
"""

import jax
import jax.numpy as jnp


def segment_ids(input_ids: jax.Array, *, cls_id: int, pad_id: int) -> jax.Array:
  """Numbers the segments of each row.

  Args:
    input_ids: int32 [B, S].
    cls_id: the id of `[CLS]`.
    pad_id: the id of `[PAD]`.

  Returns:
    int32 [B, S]: 1, 2, 3, … by segment, 0 on padding.
  """
  starts = (input_ids == cls_id).astype(jnp.int32)
  return jnp.where(input_ids == pad_id, 0, jnp.cumsum(starts, axis=1))


def token_type_ids(
  input_ids: jax.Array, *, cls_id: int, sep_id: int, pad_id: int
) -> jax.Array:
  """Tells the second text of a pair from the first, in each segment.

  Args:
    input_ids: int32 [B, S].
    cls_id: the id of `[CLS]`.
    sep_id: the id of `[SEP]`.
    pad_id: the id of `[PAD]`.

  Returns:
    int32 [B, S]: 1 behind the first `[SEP]` of a segment, up to and with its
    second, as google-research/bert has it; else 0. Segments of one text have
    nothing but 0.
  """
  ends = (input_ids == sep_id).astype(jnp.int32)
  before = jnp.cumsum(ends, axis=1) - ends
  # What a segment began with; the count never falls, so its maximum so far
  # is that of the newest segment.
  at_start = jax.lax.cummax(jnp.where(input_ids == cls_id, before, 0), axis=1)
  second = (before - at_start == 1) & (input_ids != pad_id)
  return second.astype(jnp.int32)
