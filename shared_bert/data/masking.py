"""BERT's masked tokens, drawn on the device, anew in every epoch.

Formulas from google-research/bert `create_pretraining_data.py`,
`create_masked_lm_predictions`, with two deliberate differences: the count is
a share of the tokens that may be masked (BERT counts `[CLS]` and `[SEP]` in),
and random replacements come from `random_ids` (BERT's from the whole
vocabulary, special tokens included).

Whole words are chosen as that file does with `do_whole_word_mask`: in random
order, all pieces of a word or none, a word that no longer fits passed over.

A row's masks depend on `(seed, epoch, row id)` alone: not on the batch it is
in, its place there, the number of devices, or (as long as JAX keeps its
default `jax_threefry_partitionable`) the padding behind it.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np

# Of the predicted tokens 80 % become [MASK], 10 % a random one, 10 % stay
# (Devlin et al., arXiv 1810.04805, section 3.1).
_MASK_SHARE = 0.8
_RANDOM_SHARE = 0.1
# Low bits of a random number that give way to a word's place in its row. Not
# as few as the row needs, so that padding cannot change the order of words.
_PLACE_BITS = 12


def default_num_predictions(seq_len: int, ratio: float) -> int:
  """Slots for predictions in a row that is full: `ceil(ratio * seq_len)`.

  BERT's README takes "around `max_seq_length * masked_lm_prob`", 20 for 128
  tokens at 15 %, which is this formula's value.

  Args:
    seq_len: S.
    ratio: share of the tokens to predict, in (0, 1].

  Returns:
    P, at least 1.
  """
  # Rounded first: 0.07 * 100 is a little more than 7 in floating point.
  return max(1, math.ceil(round(seq_len * ratio, 6)))


def row_keys(seed: int, epoch: jax.Array, row_id: jax.Array) -> jax.Array:
  """One random key for each row of a batch.

  Args:
    seed: in [0, 2**32).
    epoch: int32 [B].
    row_id: int32 [B], the row's number in its data set.

  Returns:
    Keys [B], typed, a pure function of the three numbers.
  """
  # Named, so that a changed default cannot change the masks; Threefry gives
  # the same bits on every kind of device.
  root = jax.random.key(seed, impl='threefry2x32')

  def key_of(epoch, row_id):
    return jax.random.fold_in(jax.random.fold_in(root, epoch), row_id)

  return jax.vmap(key_of)(epoch, row_id)


def maskable_tokens(
  input_ids: jax.Array, excluded_ids: tuple[int, ...]
) -> jax.Array:
  """Which tokens may be predicted.

  Args:
    input_ids: int32 [B, S].
    excluded_ids: ids never predicted. BERT excludes `[CLS]` and `[SEP]`, and
      has no padding yet when it masks; `Tokenizer.special_ids` leaves `[UNK]`
      out as well, which says nothing worth learning.

  Returns:
    bool [B, S].
  """
  excluded = jnp.asarray(excluded_ids, input_ids.dtype)
  return jnp.all(input_ids[..., None] != excluded, axis=-1)


def word_continuations(
  input_ids: jax.Array, maskable: jax.Array, is_continuation: np.ndarray
) -> jax.Array:
  """Which tokens go on with the word of the token before them.

  Args:
    input_ids: int32 [B, S].
    maskable: bool [B, S]. A piece behind a token that is not, such as the
      rest of a word at the start of a segment, begins a word of its own.
    is_continuation: bool [V], by id, such as `Tokenizer.is_continuation`.

  Returns:
    bool [B, S].
  """
  before = jnp.pad(maskable[:, :-1], ((0, 0), (1, 0)))
  return jnp.asarray(is_continuation)[input_ids] & maskable & before


def mask_tokens(
  keys: jax.Array,
  input_ids: jax.Array,
  maskable: jax.Array,
  *,
  num_predictions: int,
  ratio: float,
  mask_id: int,
  random_ids: tuple[int, int],
  continues: jax.Array | None = None,
) -> dict[str, jax.Array]:
  """Chooses tokens to predict and hides them.

  In a row with `m > 0` maskable tokens exactly
  `min(P, max(1, round(ratio * m)))` are chosen, all sets of that size alike;
  in a row without any, none. Of the chosen 80 % become `mask_id`, 10 % a
  random id, 10 % stay, each drawn independently.

  With `continues` words are chosen, all their tokens or none, as many as fit
  into that number: fewer tokens only where every word left over has more of
  them than there is room. The tokens of a word are still hidden independently.

  Args:
    keys: keys [B] of `row_keys`.
    input_ids: int32 [B, S].
    maskable: bool [B, S].
    num_predictions: P, the slots of each row.
    ratio: share of the maskable tokens to predict.
    mask_id: the id of `[MASK]`.
    random_ids: `(low, high)`, half-open range of random replacements, such as
      `Tokenizer.random_ids`.
    continues: bool [B, S] of `word_continuations`, or None for tokens.

  Returns:
    input_ids int32 [B, S]: the tokens, the chosen ones hidden.
    masked_positions int32 [B, P]: where, ascending; 0 in unused slots.
    masked_labels int32 [B, P]: the tokens that were there; 0 in unused slots.
    masked_weights float32 [B, P]: 1 for a used slot, 0 for an unused one,
      which come last.
  """
  seq_len = input_ids.shape[1]
  # A table, for it rounds as BERT does: Python's round() in double precision.
  counts = jnp.asarray(
    [_count(m, ratio, num_predictions) for m in range(seq_len + 1)], jnp.int32
  )

  def mask_row(key, ids, maskable, continues):
    count = counts[jnp.sum(maskable)]
    choice_key, action_key, id_key = jax.random.split(key, 3)
    if continues is None:
      positions = _choose_tokens(choice_key, maskable, count, num_predictions)
    else:
      positions = _choose_words(
        choice_key, maskable, continues, count, num_predictions
      )
    used = positions < seq_len
    safe = jnp.where(used, positions, 0)
    labels = ids[safe]

    # Drawn by slot, of which there are a seventh as many as positions.
    action = jax.random.uniform(action_key, positions.shape)
    random_id = jax.random.randint(
      id_key, positions.shape, *random_ids, ids.dtype
    )
    hidden = jnp.where(
      action < _MASK_SHARE,
      jnp.asarray(mask_id, ids.dtype),
      jnp.where(action < _MASK_SHARE + _RANDOM_SHARE, random_id, labels),
    )
    return {
      'input_ids': ids.at[positions].set(hidden, mode='drop'),
      'masked_positions': safe,
      'masked_labels': jnp.where(used, labels, 0),
      'masked_weights': used.astype(jnp.float32),
    }

  return jax.vmap(mask_row)(keys, input_ids, maskable, continues)


def _choose_tokens(
  key: jax.Array, maskable: jax.Array, count: jax.Array, slots: int
) -> jax.Array:
  """Positions int32 [P] of `count` tokens, ascending, then S.

  The `count` best of independent uniform scores are a uniform choice.
  """
  seq_len = maskable.shape[0]
  scores = jnp.where(maskable, jax.random.uniform(key, (seq_len,)), -1.0)
  _, best = jax.lax.top_k(scores, min(slots, seq_len))
  # Unused slots sort last as position S, which no write and no read meets.
  positions = jnp.sort(
    jnp.where(jnp.arange(best.shape[0]) < count, best, seq_len)
  )
  unused = (0, max(0, slots - seq_len))
  return jnp.pad(positions, unused, constant_values=seq_len)


def _choose_words(
  key: jax.Array,
  maskable: jax.Array,
  continues: jax.Array,
  count: jax.Array,
  slots: int,
) -> jax.Array:
  """Positions int32 [P] of words of at most `count` tokens, as above.

  BERT walks through the words in random order and takes each that fits. Here
  a round takes all words up to the first that does not fit; that one has more
  tokens than there is room then, and so will it have ever after. The outcome
  is the same, in a few rounds instead of S steps.
  """
  seq_len = maskable.shape[0]
  index = jnp.arange(seq_len, dtype=jnp.int32)
  # The number of each token's word, and how many tokens a word has; numbers
  # without a word have 0.
  word = jnp.cumsum(maskable & ~continues) - 1
  word = jnp.where(maskable, word, seq_len)
  lengths = jnp.zeros(seq_len, jnp.int32).at[word].add(1, mode='drop')
  # Random order: one sort of integers whose low bits say which word it is,
  # ten times faster than sorting words along with scores.
  bits = max(_PLACE_BITS, (seq_len - 1).bit_length())
  mixed = jax.random.bits(key, (seq_len,), jnp.uint32) >> bits << bits
  order = jnp.sort(mixed | index.astype(jnp.uint32)) & ((1 << bits) - 1)
  lengths = lengths[order]

  def fitting(state):
    taken, room = state
    return ~taken & (lengths > 0) & (lengths <= room)

  def take(state):
    taken, room = state
    fits = fitting(state)
    sizes = jnp.where(fits, lengths, 0)
    now = fits & (jnp.cumsum(sizes) <= room)
    return taken | now, room - jnp.sum(sizes, where=now)

  taken, _ = jax.lax.while_loop(
    lambda state: jnp.any(fitting(state)),
    take,
    (jnp.zeros(seq_len, bool), count),
  )
  chosen_words = jnp.zeros(seq_len, bool).at[order].set(taken)
  chosen = maskable & chosen_words[jnp.minimum(word, seq_len - 1)]
  slot = jnp.where(chosen, jnp.cumsum(chosen) - 1, slots)
  positions = jnp.full(slots, seq_len, jnp.int32)
  return positions.at[slot].set(index, mode='drop')


def _count(maskable: int, ratio: float, num_predictions: int) -> int:
  """Tokens to predict in a row with this many maskable ones."""
  if maskable == 0:
    return 0
  return min(num_predictions, maskable, max(1, round(ratio * maskable)))
