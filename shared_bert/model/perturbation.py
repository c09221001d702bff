"""Gaussian noise on the word embeddings that a batch looks up."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from shared_bert.model.encoder import positions_in_segments


class WordNoise(NamedTuple):
  """What is added to the embeddings of words.

  Attributes:
    seed: from 0 to 4294967295.
    level: its standard deviation, as a share of that of the table.
    spared: ids without noise, such as those of `[CLS]` and `[SEP]`.
  """

  seed: int
  level: float
  spared: tuple[int, ...]

  def arrays(self) -> tuple[np.ndarray, ...]:
    """The last arguments of `noisy_words`."""
    return (
      np.array(self.seed, np.uint32),
      np.array(self.level, np.float32),
      np.array(self.spared, np.int32),
    )


def noisy_words(
  params: dict[str, Any],
  input_ids: jax.Array,
  segment_ids: jax.Array,
  example_ids: jax.Array,
  seed: jax.Array,
  level: jax.Array,
  spared: jax.Array,
) -> tuple[dict[str, Any], jax.Array]:
  """A model and ids whose word embeddings are those of a batch, with noise.

  The looked-up embeddings become a table of their own, with a row for each
  token, and the ids the numbers of these rows; so no model needs to know of
  noise. The noise of a token is drawn from (seed, example, position in its
  example): it is the same in any batch, packed or not, and grows with the
  level without changing its direction.

  Args:
    params: of any model with an `encoder`.
    input_ids: int32 [B, S].
    segment_ids: int32 [B, S]; 0 is padding, examples of a packed row count
      from 1.
    example_ids: int32 [B], or [B, M] of packed rows.
    seed: uint32 scalar.
    level: float32 scalar, standard deviation of the noise as a share of the
      standard deviation of all V·D numbers of the table of word embeddings.
    spared: int32 [N], ids without noise, such as those of `[CLS]` and `[SEP]`.

  Returns:
    The parameters, with a table float32 [B·S, D], and ids int32 [B, S].
  """
  encoder = params['encoder']
  embeddings = encoder['embeddings']
  table = embeddings['word']['embedding']
  batch, length = input_ids.shape
  example_ids = example_ids.reshape(batch, -1)
  # Padding is given to the first example; nothing sees it.
  which = jnp.maximum(segment_ids - 1, 0)
  which = jnp.minimum(which, example_ids.shape[1] - 1)
  of_tokens = jnp.take_along_axis(example_ids, which, axis=1)
  root = jax.random.key(seed, impl='threefry2x32')

  def draw(example: jax.Array, position: jax.Array) -> jax.Array:
    key = jax.random.fold_in(jax.random.fold_in(root, example), position)
    return jax.random.normal(key, table.shape[-1:])

  positions = positions_in_segments(segment_ids)
  noise = jax.vmap(jax.vmap(draw))(of_tokens, positions)
  is_hit = (segment_ids > 0) & jnp.isin(input_ids, spared, invert=True)
  scale = level * jnp.std(table) * is_hit[..., None]
  words = jnp.take(table, input_ids, axis=0) + scale * noise
  word = {'embedding': words.reshape(batch * length, -1)}
  params = params | {
    'encoder': encoder | {'embeddings': embeddings | {'word': word}}
  }
  numbers = jnp.arange(batch * length, dtype=jnp.int32)
  return params, numbers.reshape(batch, length)
