"""Batches of several seeds as one, each as it would be alone."""

from collections.abc import Callable, Sequence

import numpy as np

from shared_bert.data.batches import Rows
from shared_bert.data.packed_batches import PackedRows


class StackedRows:
  """Training batches of N seeds: `rows(step)` is a pure function of its step.

  Each seed has its own order of rows. What a batch of one lacks in rows or in
  length that another one has is filled up with zeros, which are padding.

  Attributes:
    num_rows: of the data set that they share.
  """

  def __init__(
    self,
    rows_of: Callable[[int], Rows | PackedRows],
    seeds: Sequence[int],
  ):
    """Describes the batches; reads nothing yet.

    Args:
      rows_of: seed to its batches, of one data set and batch size.
      seeds: any integers >= 0.
    """
    self._each: Sequence[Rows | PackedRows] = [rows_of(seed) for seed in seeds]
    self.num_rows = self._each[0].num_rows
    packed = [rows for rows in self._each if isinstance(rows, PackedRows)]
    if packed:
      PackedRows.agree(packed)

  def __call__(self, step: int) -> dict[str, np.ndarray]:
    """Makes the batches of a step.

    Args:
      step: counted from 0.

    Returns:
      Every array of a seed's own batch, [N, ...].
    """
    batches = [rows(step) for rows in self._each]
    return {name: _stacked([b[name] for b in batches]) for name in batches[0]}


def _stacked(arrays: Sequence[np.ndarray]) -> np.ndarray:
  """Arrays of equally many axes as one, [N, ...], filled up with zeros."""
  largest = np.max([array.shape for array in arrays], axis=0)
  stacked = np.zeros((len(arrays), *largest), arrays[0].dtype)
  for whole, array in zip(stacked, arrays, strict=True):
    whole[tuple(map(slice, array.shape))] = array
  return stacked
