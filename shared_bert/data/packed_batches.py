"""Batches whose examples share rows, so that little of them is padding.

A batch is exactly the examples that it is without packing, in a few long rows
instead of one row each. Nothing is packed across batches: hyper-parameters mean
what they did, and without dropout so do all numbers (Krell et al., arXiv
2107.02027, section 3.1, pack across batches and have to adjust them).
"""

import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from shared_bert.data.batches import PartOf, epoch_rows
from shared_bert.data.packing import pack, pack_few

# How many numbers of rows a run has, each of which is one compilation.
_COUNTS = 3
# Examples, in batches from the first on, that tell which; half a second's work.
_SEEN = 2**15
# Numbers of rows to choose from; more would take long to try.
_CHOICES = 16
# Examples up to which `pack_few` takes less time than a step, and pays.
_FEW = 256
# Places for an example of an unknown set: a row of 128 has room for 16. Fewer
# would have the head read more of every row, more would be padding.
_SHORTEST = 8


@dataclasses.dataclass(frozen=True)
class Shape:
  """What packed rows of some data sets look like.

  Attributes:
    length: S, the shortest allowed that holds the longest example.
    per_row: M, as many of the shortest example as a row holds.
    buckets: the allowed lengths below S, rising.
    shortest: places that an example takes up at least when rows are packed.
  """

  length: int
  per_row: int
  buckets: tuple[int, ...] = ()
  shortest: int = 0

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

  @classmethod
  def of_any(cls, length: int) -> 'Shape':
    """That holds any examples of up to `length` tokens, of which a row has few.

    For data sets that are not all there yet and shall share a compilation.
    """
    shortest = min(_SHORTEST, length)
    return cls(length, length // shortest, shortest=shortest)


class PackedRows:
  """Training batches: `rows(step)` is a pure function of its step.

  The examples of a step are those of `batches.Rows`. The number of rows is one
  of three, those with which the first batches have the least padding.
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
    seen = max(1, _SEEN // batch_size)
    self._needed = np.array(
      [self._packed(self._examples(n))[2] for n in range(seen)]
    )
    self._counts = self._chosen_counts(self._needed)

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
    examples = self._examples(step)
    lengths, shape = self._arrays['lengths'][examples], self._shape
    rows, places, needed = self._packed(examples)
    count = next((c for c in self._counts if needed <= c), size)
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

  @staticmethod
  def agree(several: 'Sequence[PackedRows]') -> None:
    """Gives batches of several seeds the same three numbers of rows.

    Args:
      several: that differ in their seed; each step of theirs has the largest
        number of rows that one of them needs.
    """
    needed = np.max([rows._needed for rows in several], axis=0)
    for rows in several:
      rows._counts = rows._chosen_counts(needed)

  def _examples(self, step: int) -> np.ndarray:
    """The numbers of the examples of a step, int64 [B]."""
    size = self.batch_size
    return epoch_rows(self.num_rows, self._seed, step * size, size)[0]

  def _packed(self, examples: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
    """Row and place of each example, and the number of rows."""
    packer = pack_few if len(examples) <= _FEW else pack
    return packer(self._arrays['lengths'][examples], self._shape.length)

  def _chosen_counts(self, needed: np.ndarray) -> tuple[int, ...]:
    """Numbers of rows, rising, for batches that need int [n] of them."""
    units, times = np.unique(-(-needed // self._multiple), return_counts=True)
    # Of many batches some need more rows than any of the first ones.
    largest = units[-1] + max(1, units[-1] // 16)
    choices = units[::-1][:: 1 + len(units) // _CHOICES]

    def rows_with(chosen: tuple[int, ...]) -> int:
      counts = np.sort([*chosen, largest])
      return (counts[np.searchsorted(counts, units)] * times).sum()

    chosen = min(
      (
        some
        for count in range(_COUNTS)
        for some in itertools.combinations(choices, count)
      ),
      key=rows_with,
    )
    counts = {int(unit) * self._multiple for unit in (*chosen, largest)}
    return tuple(sorted(min(count, self.batch_size) for count in counts))


def rows_for(lengths: np.ndarray, shape: Shape) -> int:
  """How many packed rows hold examples of these lengths, int [N]."""
  return pack(np.maximum(lengths, shape.shortest), shape.length)[2]


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
  lengths = np.maximum(arrays['lengths'], shape.shortest)
  rows, places, count = pack(lengths, shape.length)
  table = _Table.of(rows, places, np.arange(len(rows)), count, shape.per_row)
  for start in range(0, count, batch_size):
    some = table.rows(start, batch_size)
    yield some.batch(arrays, shape.length, part_of)


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
