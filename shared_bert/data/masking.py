"""BERT's masked tokens, drawn on the device, anew in every epoch.

Formulas from google-research/bert `create_pretraining_data.py`,
`create_masked_lm_predictions`, with two deliberate differences: the count is
a share of the tokens that may be masked (BERT counts `[CLS]` and `[SEP]` in),
and random replacements come from `random_ids` (BERT's from the whole
vocabulary, special tokens included).

A row's masks depend on `(seed, epoch, row id)` alone: not on the batch it is
in, its place there, the number of devices, or (as long as JAX keeps its
default `jax_threefry_partitionable`) the padding behind it.
"""

import math

import jax
import jax.numpy as jnp

# Of the predicted tokens 80 % become [MASK], 10 % a random one, 10 % stay
# (Devlin et al., arXiv 1810.04805, section 3.1).
_MASK_SHARE = 0.8
_RANDOM_SHARE = 0.1


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


def mask_tokens(
  keys: jax.Array,
  input_ids: jax.Array,
  maskable: jax.Array,
  *,
  num_predictions: int,
  ratio: float,
  mask_id: int,
  random_ids: tuple[int, int],
) -> dict[str, jax.Array]:
  """Chooses tokens to predict and hides them.

  In a row with `m > 0` maskable tokens exactly
  `min(P, max(1, round(ratio * m)))` are chosen, all sets of that size alike;
  in a row without any, none. Of the chosen 80 % become `mask_id`, 10 % a
  random id, 10 % stay, each drawn independently.

  Args:
    keys: keys [B] of `row_keys`.
    input_ids: int32 [B, S].
    maskable: bool [B, S].
    num_predictions: P, the slots of each row.
    ratio: share of the maskable tokens to predict.
    mask_id: the id of `[MASK]`.
    random_ids: `(low, high)`, half-open range of random replacements, such as
      `Tokenizer.random_ids`.

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

  def mask_row(key, ids, maskable):
    count = counts[jnp.sum(maskable)]
    score_key, action_key, id_key = jax.random.split(key, 3)
    # The `count` best of independent uniform scores are a uniform choice.
    scores = jax.random.uniform(score_key, (seq_len,))
    scores = jnp.where(maskable, scores, -1.0)
    slots = min(num_predictions, seq_len)
    _, best = jax.lax.top_k(scores, slots)
    # Unused slots sort last as position S, which no write and no read meets.
    positions = jnp.sort(jnp.where(jnp.arange(slots) < count, best, seq_len))
    positions = jnp.pad(
      positions, (0, num_predictions - slots), constant_values=seq_len
    )
    used = positions < seq_len

    action = jax.random.uniform(action_key, (seq_len,))
    random_id = jax.random.randint(id_key, (seq_len,), *random_ids, ids.dtype)
    hidden = jnp.where(
      action < _MASK_SHARE,
      jnp.asarray(mask_id, ids.dtype),
      jnp.where(action < _MASK_SHARE + _RANDOM_SHARE, random_id, ids),
    )
    safe = jnp.where(used, positions, 0)
    return {
      'input_ids': ids.at[positions].set(hidden[safe], mode='drop'),
      'masked_positions': safe,
      'masked_labels': jnp.where(used, ids[safe], 0),
      'masked_weights': used.astype(jnp.float32),
    }

  return jax.vmap(mask_row)(keys, input_ids, maskable)


def _count(maskable: int, ratio: float, num_predictions: int) -> int:
  """Tokens to predict in a row with this many maskable ones."""
  if maskable == 0:
    return 0
  return min(num_predictions, maskable, max(1, round(ratio * maskable)))
