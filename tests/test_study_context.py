"""What is done to held-out rows to see what a model makes of context."""

import numpy as np

from shared_bert.study import context

_SPECIAL = [0, 2, 3, 4]  # [PAD] [CLS] [SEP] [MASK]


def _batch():
  words = np.arange(10, 130)
  rows = np.concatenate(
    [[2], words[:50], [3, 2], words[50:], [3], np.zeros(3, int)]
  )
  segments = np.concatenate([np.ones(52), np.full(72, 2), np.zeros(3)])
  input_ids = np.stack([rows, rows + 200 * (rows > 4)]).astype(np.int32)
  masked = np.array([[5, 60], [7, 70]])
  np.put_along_axis(input_ids, masked, 4, axis=1)
  return {
    'input_ids': input_ids,
    'segment_ids': np.stack([segments, segments]).astype(np.int32),
    'masked_positions': masked,
  }


def test_shuffling_moves_words_within_their_segment_alone():
  batch = _batch()
  ids, segments = batch['input_ids'], batch['segment_ids']
  changed = context.shuffled(batch, _SPECIAL, seed=0)
  special = np.isin(ids, _SPECIAL)
  np.testing.assert_array_equal(changed[special], ids[special])
  for row in range(2):
    for segment in (1, 2):
      here = segments[row] == segment
      assert sorted(changed[row, here]) == sorted(ids[row, here])
      assert (changed[row, here] != ids[row, here]).mean() > 0.8


def test_a_foreign_context_leaves_masks_and_marks_where_they_are():
  batch = _batch()
  ids = batch['input_ids']
  changed = context.foreign(batch, _SPECIAL)
  special = np.isin(ids, _SPECIAL)
  np.testing.assert_array_equal(changed[special], ids[special])
  # Words are the other row's, which has all of them moved by 200; where that
  # row has a mask there is none to take.
  others = np.isin(ids[::-1], _SPECIAL)
  assert (changed != ids)[~special & ~others].all()
  np.testing.assert_array_equal(
    changed[~special & others], ids[~special & others]
  )
