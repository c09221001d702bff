"""Whole-word masking: the words that BERT would take, hidden as BERT does."""

import random

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from shared_bert.data import masking
from shared_bert.data.tokenizer import SPECIAL_TOKENS, Tokenizer

PIECES = 300
TOKENIZER = Tokenizer.from_vocab(
  [
    *SPECIAL_TOKENS,
    *(f'w{i}' for i in range(700)),
    *(f'##p{i}' for i in range(PIECES)),
  ]
)
V, SLOTS, RATIO = TOKENIZER.vocab_size, 20, 0.15


def _rows(num_rows=504, seq_len=128, seed=0):
  """Packed rows: words of one to five pieces, segments of many lengths."""
  rng = np.random.default_rng(seed)
  shape = (num_rows, seq_len)
  ids = rng.integers(5, V - PIECES, shape)
  pieces = rng.random(shape) < 0.3
  ids = np.where(pieces, rng.integers(V - PIECES, V, shape), ids)
  ends = rng.random(shape) < 0.03
  ids[ends] = TOKENIZER.sep_id
  ids[np.roll(ends, 1, axis=1)] = TOKENIZER.cls_id
  ids[:, 0] = TOKENIZER.cls_id
  lengths = rng.integers(seq_len // 2, seq_len + 1, num_rows)
  ids[np.arange(seq_len) >= lengths[:, None]] = TOKENIZER.pad_id
  return ids.astype(np.int32)


@jax.jit
def _mask(ids, seed=0, epoch=0, row_id=None):
  if row_id is None:
    row_id = jnp.arange(len(ids))
  maskable = masking.maskable_tokens(ids, TOKENIZER.special_ids)
  return masking.mask_tokens(
    masking.row_keys(seed, jnp.full(len(ids), epoch), row_id),
    ids,
    maskable,
    num_predictions=SLOTS,
    ratio=RATIO,
    mask_id=TOKENIZER.mask_id,
    random_ids=(5, V),
    continues=masking.word_continuations(
      ids, maskable, TOKENIZER.is_continuation
    ),
  )


def _words(row):
  """Positions of each word; as BERT's `cand_indexes`, within segments."""
  words = []
  for place, token in enumerate(row.tolist()):
    if token in TOKENIZER.special_ids:
      continue
    goes_on = token >= V - PIECES and row[place - 1] not in (
      TOKENIZER.special_ids
    )
    if goes_on:
      words[-1].append(place)
    else:
      words.append([place])
  return words


def _target(words):
  maskable = sum(map(len, words))
  return min(SLOTS, max(1, round(RATIO * maskable)))


def _chosen(masked):
  return [
    set(positions[weights == 1].tolist())
    for positions, weights in zip(
      masked['masked_positions'], masked['masked_weights'], strict=True
    )
  ]


@pytest.fixture(scope='module')
def sample():
  ids = _rows(4032)
  return ids, jax.device_get(_mask(ids))


def test_the_tokenizer_knows_which_pieces_go_on_with_a_word():
  tokenizer = Tokenizer.from_vocab([*SPECIAL_TOKENS, 'a', '##a', '#', '##'])
  assert tokenizer.is_continuation.tolist() == [False] * 6 + [True, False, True]
  with pytest.raises(ValueError, match='read-only'):
    tokenizer.is_continuation[0] = True


def test_words_are_masked_whole_and_never_beyond_the_share(sample):
  ids, masked = sample
  exact = 0
  for row, chosen in zip(ids, _chosen(masked), strict=True):
    words = _words(row)
    room = _target(words) - len(chosen)
    assert room >= 0
    exact += room == 0
    for word in words:
      taken = len(chosen & set(word))
      assert taken in (0, len(word))
      # A word that would still fit was not passed over.
      assert taken or len(word) > room
    assert chosen <= {place for word in words for place in word}
  assert exact / len(ids) > 0.99


def test_a_word_is_as_likely_as_in_bert(sample):
  # BERT's walk, google-research/bert, create_pretraining_data.py; words of
  # many pieces fit less often, so the share depends on the length.
  ids, _ = sample
  rng = random.Random(0)
  words_of = [_words(row) for row in ids[:1500]]
  ours, theirs, there = np.zeros(5), np.zeros(5), np.zeros(5)
  for epoch in range(5):
    masked = jax.device_get(_mask(ids, 0, epoch))
    for words, chosen in zip(words_of, _chosen(masked), strict=False):
      sizes = [min(len(word), 4) for word in words]
      np.add.at(there, sizes, 1)
      np.add.at(ours, sizes, [word[0] in chosen for word in words])
      room = _target(words)
      rng.shuffle(words)
      for word in words:
        if not room:
          break
        if len(word) <= room:
          room -= len(word)
          theirs[min(len(word), 4)] += 1
  assert (there[1:] > 10_000).all()
  assert (np.abs(ours - theirs)[1:] / there[1:] < 0.01).all()


def test_shares_of_whole_words_are_80_10_10_of_15(sample):
  ids, masked = sample
  used = masked['masked_weights'] == 1
  maskable = np.isin(ids, TOKENIZER.special_ids, invert=True)
  assert abs(used.sum() / maskable.sum() - RATIO) < 0.01
  shown = np.take_along_axis(
    masked['input_ids'], masked['masked_positions'], axis=1
  )[used]
  labels = masked['masked_labels'][used]
  assert abs((shown == TOKENIZER.mask_id).mean() - 0.8) < 0.01
  assert abs((shown == labels).mean() - 0.1 - 0.1 / (V - 5)) < 0.01
  other = (shown != TOKENIZER.mask_id) & (shown != labels)
  assert abs(other.mean() - 0.1) < 0.01
  there = np.take_along_axis(ids, masked['masked_positions'], axis=1)
  np.testing.assert_array_equal(labels, there[used])
  assert not masked['masked_labels'][~used].any()
  changed = (masked['input_ids'] != ids).sum(1)
  assert (changed <= used.sum(1)).all(), 'nothing else is touched'


def test_the_pieces_of_a_word_are_hidden_one_by_one(sample):
  _, masked = sample
  positions, weights = masked['masked_positions'], masked['masked_weights']
  shown = np.take_along_axis(masked['input_ids'], positions, axis=1)
  hidden = shown == TOKENIZER.mask_id
  neighbours = (np.diff(positions) == 1) & (weights[:, 1:] == 1)
  both = (hidden[:, 1:] & hidden[:, :-1])[neighbours]
  assert abs(both.mean() - 0.8 * 0.8) < 0.02


def test_a_piece_at_the_start_of_a_segment_is_a_word_of_its_own():
  piece = V - 1
  ids = np.array([[2, piece, piece, 3, 2, piece, 9, piece, 3, 0]], np.int32)
  maskable = masking.maskable_tokens(ids, TOKENIZER.special_ids)
  np.testing.assert_array_equal(
    masking.word_continuations(ids, maskable, TOKENIZER.is_continuation)[0],
    [0, 0, 1, 0, 0, 0, 0, 1, 0, 0],
  )


def test_a_row_of_one_long_word_keeps_it():
  row = np.full(128, V - 1, np.int32)
  row[[0, 127]] = TOKENIZER.cls_id, TOKENIZER.sep_id
  masked = _mask(np.tile(row, (504, 1)))
  assert not masked['masked_weights'].any()
  np.testing.assert_array_equal(masked['input_ids'][0], row)


def test_whole_words_depend_on_seed_epoch_and_row_only():
  ids = _rows()
  whole = _mask(ids, 7, 3)
  order = np.random.default_rng(1).integers(0, len(ids), len(ids))
  part = _mask(ids[order], 7, 3, jnp.asarray(order))
  for name, values in part.items():
    np.testing.assert_array_equal(values, whole[name][order])
  for other in (_mask(ids, 8, 3), _mask(ids, 7, 4), _mask(ids, 3, 7)):
    differs = (other['input_ids'] != whole['input_ids']).any(axis=1)
    assert differs.mean() > 0.95


def test_padding_does_not_change_the_whole_words():
  ids = np.where(np.arange(128) < 60, _rows(), TOKENIZER.pad_id)
  whole, cut = _mask(ids), _mask(ids[:, :64])
  for name in ('masked_positions', 'masked_labels', 'masked_weights'):
    np.testing.assert_array_equal(whole[name], cut[name])
  np.testing.assert_array_equal(whole['input_ids'][:, :64], cut['input_ids'])


def test_the_whole_words_are_pinned():
  # Guards the promise that a resumed run sees the masks it would have seen.
  row = np.tile(np.array([9, 9, V - 1, 9], np.int32), 32)
  masked = _mask(np.tile(row, (504, 1)))
  assert masked['masked_positions'][1, :6].tolist() == [0, 4, 8, 13, 14, 15]
