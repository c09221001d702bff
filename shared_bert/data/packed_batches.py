"""Batches whose examples share rows, so that little of them is padding.

A batch is exactly the examples that it is without packing, in a few long rows
instead of one row each. Nothing is packed across batches: hyper-parameters mean
what they did, and without dropout so do all numbers (Krell et al., arXiv
2107.02027, section 3.1, pack across batches and have to adjust them).
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from shared_bert.data.batches import PartOf, epoch_rows
from shared_bert.data.packing import pack

# Numbers of rows have at most so many binary digits before trailing zeros: all
# do up to 16, the even ones up to 32, … In batches of 32 and 128 of MNLI, CoLA,
# SST-2, MRPC and QNLI that is 2 to 6 numbers and 5 to 10 % padding; 3 digits
# are 2 to 4 numbers and 7 to 12 %.
_DIGITS = 4


@dataclasses.dataclass(frozen=True)
class Shape:
  """What packed rows of some data sets look like.

  Attributes:
    length: S, the shortest allowed that holds the longest example.
    per_row: M, as many of the shortest example as a row holds.
    buckets: the allowed lengths below S, rising.
  """

  length: int
  per_row: int
  buckets: tuple[int, ...] = ()

  @classmethod
  def of(
    cls,
    data: Sequence[Mapping[str, np.ndarray]],
    buckets: Sequence[int] = (),
  ) -> 'Shape':
    """That holds every example.

    Args:
      data: of `encode_examples`, not all of them empty.
      buckets: allowed lengths; that of the arrays is too.

    Raises:
      ValueError: without an example.
    """
    lengths = np.concatenate([arrays['lengths'] for arrays in data])
    longest = data[0]['input_ids'].shape[1]
    fitting = [b for b in buckets if lengths.max() <= b < longest]
    length = min(fitting, default=longest)
    return cls(
      length,
      length // int(lengths.min()),
      tuple(sorted(b for b in buckets if b < length)),
    )


class PackedRows:
  """Training batches: `rows(step)` is a pure function of its step.

  The examples of a step are those of `batches.Rows`. The number of rows is one
  of a few, each of which is one compilation.
  """

  def __init__(
    self,
    arrays: Mapping[str, np.ndarray],
    batch_size: int,
    seed: int,
    *,
    buckets: Sequence[int] = (),
    multiple: int = 1,
    part_of: PartOf | None = None,
  ):
    """Describes the batches; reads nothing yet.

    Args:
      arrays: of `encode_examples`: `lengths` int [N], int32 [N, S] each of the
        tokens, and others [N].
      batch_size: B, examples of the global batch; a multiple of `multiple`.
      seed: any integer >= 0.
      buckets: allowed lengths of rows; that of the arrays is too.
      multiple: what numbers of rows are multiples of: devices times
        micro-batches, which have equally many rows each.
      part_of: which rows of a batch to make, where several processes have a
        part each; all of them without.

    Raises:
      ValueError: there are no examples.
    """
    self.num_rows = len(arrays['lengths'])
    if self.num_rows < 1:
      raise ValueError(f'no batch of {batch_size} from no rows')
    self.batch_size = batch_size
    self._arrays, self._seed, self._part_of = arrays, seed, part_of
    self._shape, self._multiple = Shape.of([arrays], buckets), multiple

  def __call__(self, step: int) -> dict[str, np.ndarray]:
    """Packs the batch of a step.

    Args:
      step: counted from 0; its examples are `step * B` and those that follow.

    Returns:
      R rows or a part of them: the arrays of tokens, int32 [R, S], with
      `segment_ids` that number the examples of a row from 1, 0 on padding;
      `first_positions` int32 [R, M], where each begins in its row; the other
      arrays, [R, M]; row_id int32 [R, M]; and weight float32 [R, M], 1 for an
      example and 0 where a row has no more of them.
    """
    size = self.batch_size
    examples, _ = epoch_rows(self.num_rows, self._seed, step * size, size)
    lengths, shape = self._arrays['lengths'][examples], self._shape
    rows, places, count = pack(lengths, shape.length)
    count = min(_rounded(count, self._multiple), size)
    # Where many devices share few rows, one each may have less padding.
    fitting = [b for b in shape.buckets if b >= lengths.max()]
    if fitting and size * fitting[0] <= count * shape.length:
      shape, rows, places, count = (
        Shape(fitting[0], 1),
        np.arange(size),
        0,
        size,
      )
    table = _Table.of(rows, places, examples, count, shape.per_row)
    return table.batch(self._arrays, shape.length, self._part_of)


def packed_eval_batches(
  arrays: Mapping[str, np.ndarray],
  batch_size: int,
  shape: Shape,
  part_of: PartOf | None = None,
) -> Iterator[dict[str, np.ndarray]]:
  """Every example once, in packed rows of one shape.

  Args:
    arrays: as for `PackedRows`.
    batch_size: R, rows; there are more examples in them.
    shape: of the rows; holds every example.
    part_of: as for `PackedRows`.

  Yields:
    As a step of `PackedRows`; the last batch is filled up with empty rows. An
    empty data set has no batches.
  """
  rows, places, count = pack(arrays['lengths'], shape.length)
  table = _Table.of(rows, places, np.arange(len(rows)), count, shape.per_row)
  for start in range(0, count, batch_size):
    some = table.rows(start, batch_size)
    yield some.batch(arrays, shape.length, part_of)


def _rounded(count: int, multiple: int) -> int:
  """The next number of rows that is allowed."""
  units = -(-count // multiple)
  grain = 1 << max(0, (units - 1).bit_length() - _DIGITS)
  return -(-units // grain) * grain * multiple


@dataclasses.dataclass(frozen=True)
class _Table:
  """Which examples are in each row.

  Attributes:
    examples: int64 [R, M]; -1 where a row has no more of them.
    starts: int64 [R, M], where each begins; 0 where there is none.
  """

  examples: np.ndarray
  starts: np.ndarray

  @classmethod
  def of(
    cls,
    rows: np.ndarray,
    places: np.ndarray | int,
    examples: np.ndarray,
    count: int,
    per_row: int,
  ) -> '_Table':
    """Of R = `count` rows, from the row, place and number of each example."""
    order = np.lexsort((np.broadcast_to(places, rows.shape), rows))
    ordered = rows[order]
    nth = np.arange(len(rows)) - np.searchsorted(ordered, ordered)
    table = cls(
      np.full((count, per_row), -1), np.zeros((count, per_row), np.int64)
    )
    table.examples[ordered, nth] = examples[order]
    table.starts[ordered, nth] = np.broadcast_to(places, rows.shape)[order]
    return table

  def rows(self, start: int, count: int) -> '_Table':
    """Some rows, filled up with empty ones."""
    examples = self.examples[start : start + count]
    absent = ((0, count - len(examples)), (0, 0))
    return _Table(
      np.pad(examples, absent, constant_values=-1),
      np.pad(self.starts[start : start + count], absent),
    )

  def batch(
    self,
    arrays: Mapping[str, np.ndarray],
    length: int,
    part_of: PartOf | None,
  ) -> dict[str, np.ndarray]:
    """Copies the examples of the rows, or of a part of them, side by side."""
    numbers, starts = self.examples, self.starts
    if part_of is not None:
      part = part_of(len(numbers))
      numbers, starts = numbers[part], starts[part]
    there = numbers >= 0
    examples, (row, nth) = numbers[there], np.nonzero(there)
    columns = np.arange(arrays['input_ids'].shape[1])
    of, column = np.nonzero(columns < arrays['lengths'][examples][:, None])
    targets = row[of], starts[there][of] + column
    batch = {}
    for name, array in arrays.items():
      is_sequence = array.ndim == 2
      shape = (len(numbers), length) if is_sequence else there.shape
      batch[name] = np.zeros(shape, array.dtype)
      if is_sequence:
        batch[name][targets] = array[examples[of], column]
      else:
        batch[name][there] = array[examples]
    batch['segment_ids'][targets] = nth[of] + 1
    return batch | {
      'first_positions': starts.astype(np.int32),
      'row_id': np.where(there, numbers, 0).astype(np.int32),
      'weight': there.astype(np.float32),
    }
