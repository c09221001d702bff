"""Batches of several seeds in one: each seed's own, in few shapes."""

import numpy as np
import pytest

from shared_bert.data.batches import Rows
from shared_bert.data.packed_batches import PackedRows
from shared_bert.data.stacked_batches import StackedRows


def texts(count=400, seed=3):
  """Arrays of short and long texts, as `encode_examples` makes them."""
  lengths = np.clip(
    np.random.default_rng(seed).lognormal(2.2, 0.5, count), 3, 32
  ).astype(np.int32)
  real = np.arange(32) < lengths[:, None]
  return {
    'input_ids': np.where(real, 7, 0).astype(np.int32),
    'token_type_ids': np.zeros((count, 32), np.int32),
    'segment_ids': real.astype(np.int32),
    'lengths': lengths,
    'labels': np.arange(count, dtype=np.int32) % 2,
  }


@pytest.mark.parametrize('rows_class', [Rows, PackedRows])
def test_stacked_batches_are_each_seeds_own_in_few_shapes(rows_class):
  arrays, seeds = texts(), (0, 1, 2, 3)

  def rows_of(seed):
    return rows_class(arrays, 16, seed, buckets=(16, 24))

  rows, each = StackedRows(rows_of, seeds), [rows_of(seed) for seed in seeds]
  shapes = set()
  for step in range(60):
    batch = rows(step)
    shapes.add(batch['input_ids'].shape)
    for n in range(len(seeds)):
      own = each[n](step)
      for name, array in own.items():
        ours = batch[name][n]
        inside = tuple(map(slice, np.minimum(array.shape, ours.shape)))
        np.testing.assert_array_equal(ours[inside], array[inside])
        assert np.count_nonzero(ours) == np.count_nonzero(array), name
  assert len(shapes) <= 3
