"""Packed batches: the examples of padded ones, whole, in fewer rows."""

import numpy as np
import pytest

from shared_bert.data import batches
from shared_bert.data.packed_batches import (
  PackedRows,
  Shape,
  packed_eval_batches,
)

S = 32
BUCKETS = (8, 16, 24)
SEQUENCES = ('input_ids', 'token_type_ids')


def examples(count=50, seed=0, longest=S, seq_len=S):
  """Arrays as of `encode_examples`; no two examples are alike."""
  rng = np.random.default_rng(seed)
  # Many short, few long, as sentences are.
  lengths = np.clip(rng.lognormal(2.2, 0.6, count), 3, longest)
  lengths = lengths.astype(np.int32)
  lengths[-1] = longest
  segment_ids = (np.arange(seq_len) < lengths[:, None]).astype(np.int32)
  return {
    'input_ids': rng.integers(5, 99, (count, seq_len), np.int32) * segment_ids,
    'token_type_ids': rng.integers(0, 2, (count, seq_len), np.int32)
    * segment_ids,
    'segment_ids': segment_ids,
    'lengths': lengths,
    'labels': rng.normal(size=count).astype(np.float32),
  }


def separated(batch):
  """(number, its tokens, types, label) of every example of a packed batch."""
  found = []
  for row, column in np.argwhere(batch['weight']):
    start, length = (
      batch[name][row, column] for name in ('first_positions', 'lengths')
    )
    own = slice(start, start + length)
    (places,) = np.nonzero(batch['segment_ids'][row] == column + 1)
    np.testing.assert_array_equal(places, np.arange(start, start + length))
    tokens = [batch[name][row, own].tolist() for name in SEQUENCES]
    found.append(
      (batch['row_id'][row, column], *tokens, batch['labels'][row, column])
    )
  return found


def whole(arrays, numbers):
  """The same of examples as they are without packing."""
  return [
    (
      number,
      *(
        arrays[n][number, : arrays['lengths'][number]].tolist()
        for n in SEQUENCES
      ),
      arrays['labels'][number],
    )
    for number in numbers
  ]


@pytest.mark.parametrize(
  ('count', 'batch_size', 'multiple'),
  [(50, 8, 1), (50, 16, 4), (5, 12, 2)],
)
def test_a_packed_batch_has_the_examples_of_the_padded_one_whole(
  count, batch_size, multiple
):
  arrays = examples(count)
  padded = batches.Rows(arrays, batch_size, 3, BUCKETS)
  packed = PackedRows(arrays, batch_size, 3, buckets=BUCKETS, multiple=multiple)
  for step in (7, 0, 1, 3):  # any order of asking; epochs end in between
    batch = packed(step)
    assert sorted(separated(batch)) == sorted(
      whole(arrays, padded(step)['row_id'])
    )
    assert len(batch['input_ids']) % multiple == 0
    # All else is padding, and weighs nothing.
    taken = batch['lengths'].sum()
    assert np.count_nonzero(batch['segment_ids']) == taken
    assert np.count_nonzero(batch['input_ids']) == taken
    assert batch['weight'].sum() == batch_size
    assert batch['weight'].dtype == np.float32
    assert all(
      array.dtype == np.int32
      for name, array in batch.items()
      if name not in ('weight', 'labels')
    )


def test_at_most_a_tenth_is_padding_in_a_few_shapes():
  # Lengths as of MNLI: 40 tokens on average, up to 128. Of another seed than
  # the order of the batches, which sorts the same bits.
  rng = np.random.default_rng(1)
  lengths = np.clip(rng.lognormal(3.58, 0.48, 4000), 5, 128).astype(np.int32)
  arrays = examples(4000, seq_len=128) | {'lengths': lengths}
  for batch_size in (32, 128):
    rows = PackedRows(arrays, batch_size, 0, buckets=(32, 64, 96))
    made = [rows(step) for step in range(4000 // batch_size)]
    shapes = {batch['input_ids'].shape for batch in made}
    assert len(shapes) <= 3
    slots = sum(batch['input_ids'].size for batch in made)
    tokens = sum(batch['lengths'].sum() for batch in made)
    assert tokens / slots >= 0.9


def test_a_batch_that_the_first_ones_did_not_announce_fits_all_the_same():
  arrays = examples(60_000, longest=9)
  # Long ones where the first batches do not come.
  seen, _ = batches.epoch_rows(60_000, 0, 0, 2**15)
  late = np.setdiff1d(np.arange(60_000), seen)
  arrays['lengths'][late] = 31
  rows = PackedRows(arrays, 16, 0)
  usual = {len(rows(step)['input_ids']) for step in range(50)}
  assert len(usual) <= 3 and max(usual) < 16
  assert rows(60_000 // 16 - 1)['input_ids'].shape == (16, S)


def test_as_many_rows_as_examples_where_none_can_share_one():
  arrays = examples() | {'lengths': np.full(50, S, np.int32)}
  for batch_size in (1, 7, 64):
    rows = PackedRows(arrays, batch_size, 0)
    assert {len(rows(step)['input_ids']) for step in range(9)} == {batch_size}


@pytest.mark.parametrize('multiple', [1, 2, 8, 16])
def test_packing_never_takes_more_room_than_padding(multiple):
  # With as many devices as examples nothing can be saved, and nothing is lost.
  arrays = examples(100, seed=4)
  padded = batches.Rows(arrays, 16, 0, BUCKETS)
  packed = PackedRows(arrays, 16, 0, buckets=BUCKETS, multiple=multiple)
  sizes = [
    (packed(step)['input_ids'].size, padded(step)['input_ids'].size)
    for step in range(20)
  ]
  assert all(ours <= theirs for ours, theirs in sizes)
  if multiple == 16:
    assert all(ours == theirs for ours, theirs in sizes)


def test_rows_are_as_long_as_the_longest_example_asks_for():
  arrays = examples(longest=13)
  rows = PackedRows(arrays, 8, 0, buckets=BUCKETS)
  assert rows(0)['input_ids'].shape[1] == 16
  assert PackedRows(arrays, 8, 0)(0)['input_ids'].shape[1] == S


def test_processes_make_their_parts_of_one_batch():
  arrays = examples()
  whole_batch = PackedRows(arrays, 16, 0, multiple=4)(2)
  parts = [
    PackedRows(
      arrays,
      16,
      0,
      multiple=4,
      part_of=lambda count, p=p: np.arange(count // 2) + p * count // 2,
    )(2)
    for p in range(2)
  ]
  for name, array in whole_batch.items():
    np.testing.assert_array_equal(
      array, np.concatenate([part[name] for part in parts]), err_msg=name
    )


@pytest.mark.parametrize('count', [1, 7, 50])
def test_packed_evaluation_counts_every_example_once_in_one_shape(count):
  arrays = examples(count)
  shape = Shape.of([arrays], BUCKETS)
  made = list(packed_eval_batches(arrays, 4, shape))
  found = [example for batch in made for example in separated(batch)]
  assert sorted(found) == whole(arrays, range(count))
  assert {batch['input_ids'].shape for batch in made} == {(4, S)}
  assert {batch['weight'].shape for batch in made} == {(4, shape.per_row)}


def test_one_shape_holds_the_examples_of_all_splits():
  short, long = examples(longest=9), examples(longest=20)
  shape = Shape.of([short, long], BUCKETS)
  assert (shape.length, shape.per_row) == (24, 8)
  for arrays in (short, long):
    made = list(packed_eval_batches(arrays, 4, shape))
    assert sum(batch['weight'].sum() for batch in made) == 50


def test_no_examples_are_no_batch():
  empty = {name: array[:0] for name, array in examples().items()}
  assert list(packed_eval_batches(empty, 4, Shape(S, 4))) == []
  with pytest.raises(ValueError, match='no batch of 4'):
    PackedRows(empty, 4, 0)
