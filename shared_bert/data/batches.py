"""Batches as a pure function of the seed and the step.

There is no iterator to save: batch `step` is the same after a restart, on any
number of hosts, whatever was asked for before it.
"""

import functools
import queue
import threading
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from shared_bert.data.row_files import RowFiles

Array = np.ndarray | RowFiles
# From the number of rows of a batch, B, to the numbers of some, int [B'].
PartOf = Callable[[int], np.ndarray]

_SHUFFLE_ROUNDS = 4  # of grain's block cipher; the fewest that it recommends
# Up to here a whole epoch's permutation is made at once (8 MB, 0.1 s); grain
# takes 5 us a row above, and 300 us a row in a data set of 100, for it walks
# cycles of a permutation of at least 2**16.
_TABLE_ROWS = 2**20


def epoch_rows(
  num_rows: int, seed: int, start: int, count: int
) -> tuple[np.ndarray, np.ndarray]:
  """Part of the endless shuffled sequence of rows.

  Example j is row `permutation(seed, epoch)[j % num_rows]` of epoch
  `j // num_rows`. Nothing needs saving: a permutation is recomputed from its
  seed and epoch, and in large data sets one place of it at a time, by
  `grain.experimental.index_shuffle`.

  Args:
    num_rows: N, rows of the data set.
    seed: any integer >= 0.
    start: the first example wanted.
    count: how many examples.

  Returns:
    rows int64 [count], epochs int64 [count].

  Raises:
    ValueError: there are no rows, or a number is negative.
  """
  if num_rows < 1 or start < 0 or count < 0:
    raise ValueError(f'no examples {start}+{count} of {num_rows} rows')
  examples = np.arange(start, start + count, dtype=np.int64)
  epochs, places = np.divmod(examples, num_rows)
  rows = np.empty(count, np.int64)
  for epoch in np.unique(epochs).tolist():
    of_epoch = np.flatnonzero(epochs == epoch)
    rows[of_epoch] = _permuted(num_rows, seed, epoch, places[of_epoch])
  return rows, epochs


def _permuted(
  num_rows: int, seed: int, epoch: int, places: np.ndarray
) -> np.ndarray | list[int]:
  """The rows at some places of an epoch's order, int [count]."""
  if num_rows <= _TABLE_ROWS:
    return _permutation(num_rows, seed, epoch)[places]
  # Imported late: it takes a second, and only large data sets need it.
  from grain import experimental as grain

  epoch_seed = int(_mixed(seed, epoch).generate_state(1)[0])
  return [
    grain.index_shuffle(
      place, max_index=num_rows - 1, seed=epoch_seed, rounds=_SHUFFLE_ROUNDS
    )
    for place in places.tolist()
  ]


# An epoch of each of several seeds, of which every step reads.
@functools.lru_cache(maxsize=32)
def _permutation(num_rows: int, seed: int, epoch: int) -> np.ndarray:
  """The whole order of an epoch, int64 [N]."""
  # Sorted raw bits, not Generator.permutation: of NumPy's random streams only
  # the bit generators' are promised to stay as they are (NEP 19).
  bits = np.random.PCG64(_mixed(seed, epoch)).random_raw(num_rows)
  return np.argsort(bits, kind='stable')


def _mixed(seed: int, epoch: int) -> np.random.SeedSequence:
  """Well-mixed bits: seed 1 does not replay a later epoch of seed 0."""
  return np.random.SeedSequence([seed, epoch])


class Rows:
  """Training batches: `rows(step)` is a pure function of its step.

  With `buckets`, sequences are trimmed to the smallest bucket that holds the
  longest row of the batch. That cuts padding only, so it is exact; each bucket
  in use is one compilation.
  """

  def __init__(
    self,
    arrays: Mapping[str, Array],
    batch_size: int,
    seed: int,
    buckets: Sequence[int] | None = None,
    lengths: np.ndarray | None = None,
    sequence_names: Sequence[str] | None = None,
    part_of: PartOf | None = None,
  ):
    """Describes the batches; reads nothing yet.

    Args:
      arrays: name -> array [N, ...], in memory or in files. Integers
        narrower than int32 come out as int32.
      batch_size: B, rows of the global batch, over all hosts and devices.
      seed: any integer >= 0.
      buckets: allowed sequence lengths; S itself is always allowed. `None`
        trims nothing.
      lengths: int [N], tokens before the padding. With buckets it defaults to
        `arrays['lengths']`.
      sequence_names: the arrays [N, S, ...] to trim; by default every array
        whose second axis is as long as that of `arrays['input_ids']`.
      part_of: which of the B rows of a batch to gather, where several
        processes have a part each; all of them without.

    Raises:
      ValueError: arrays of different N, no rows, or buckets without lengths.
    """
    self.num_rows = _num_rows(arrays)
    if self.num_rows < 1 or batch_size < 1:
      raise ValueError(f'no batch of {batch_size} from {self.num_rows} rows')
    self.batch_size = batch_size
    self._seed = seed
    self._arrays = dict(arrays)
    self._trim = _Trim(self._arrays, buckets, lengths, sequence_names)
    self._part_of = part_of

  def __call__(self, step: int) -> dict[str, np.ndarray]:
    """Gathers the batch of a step.

    Args:
      step: counted from 0; example `step * B` is its first row.

    Returns:
      Every array, [B, ...], and row_id int32 [B], epoch int32 [B]; or of a
      part of the rows, all cut to the same length.
    """
    return self.examples(step * self.batch_size, self.batch_size)

  def examples(self, start: int, count: int) -> dict[str, np.ndarray]:
    """Gathers some of the endless shuffled sequence of rows.

    Args:
      start: the first example.
      count: how many, B.

    Returns:
      As of a step.
    """
    rows, epochs = epoch_rows(self.num_rows, self._seed, start, count)
    length = self._trim.length(rows)
    if self._part_of is not None:
      part = self._part_of(count)
      rows, epochs = rows[part], epochs[part]
    batch = _gather(self._arrays, rows, self._trim.names, length)
    batch['row_id'] = rows.astype(np.int32)
    batch['epoch'] = epochs.astype(np.int32)
    return batch


def eval_batches(
  arrays: Mapping[str, Array],
  batch_size: int,
  buckets: Sequence[int] | None = None,
  lengths: np.ndarray | None = None,
  sequence_names: Sequence[str] | None = None,
  part_of: PartOf | None = None,
) -> Iterator[dict[str, np.ndarray]]:
  """Every row once, in batches of one size.

  Args:
    arrays: name -> array [N, ...], as for `Rows`.
    batch_size: B.
    buckets: as for `Rows`.
    lengths: int [N]; when given, rows come shortest first (ties in order), so
      that buckets pay. Put results back in order by `row_id`.
    sequence_names: as for `Rows`.
    part_of: as for `Rows`.

  Yields:
    Every array, [B, ...], and row_id int32 [B], weight float32 [B]. The last
    batch is filled up with row 0 at weight 0; every other weight is 1.

  Raises:
    ValueError: as for `Rows`; an empty data set has no batches, no error.
  """
  num_rows = _num_rows(arrays)
  trim = _Trim(arrays, buckets, lengths, sequence_names)
  order = np.arange(num_rows)
  if lengths is not None:
    order = np.argsort(np.asarray(lengths), kind='stable')
  for start in range(0, num_rows, batch_size):
    real = order[start : start + batch_size]
    rows = np.zeros(batch_size, np.int64)
    rows[: len(real)] = real
    weight, length = np.arange(batch_size) < len(real), trim.length(rows)
    if part_of is not None:
      part = part_of(batch_size)
      rows, weight = rows[part], weight[part]
    batch = _gather(arrays, rows, trim.names, length)
    batch['row_id'] = rows.astype(np.int32)
    batch['weight'] = weight.astype(np.float32)
    yield batch


def prefetch(
  batch_fn: Callable[[int], Any],
  start: int,
  stop: int,
  place: Callable[[Any], Any],
  depth: int = 2,
) -> Generator[Any, None, None]:
  """Makes batches ahead of their use, in one background thread.

  Args:
    batch_fn: step -> batch on the host.
    start: the first step.
    stop: the step after the last.
    place: puts a batch on the devices; called in the thread too.
    depth: placed batches that may wait, besides the one being made.

  Yields:
    `place(batch_fn(step))` for each step in order. An exception of either
    function is raised here, at its step. Closing the generator, or leaving
    its loop, ends the thread.
  """
  waiting: queue.Queue = queue.Queue(maxsize=depth)
  stopped = threading.Event()

  def offer(item) -> None:
    while not stopped.is_set():
      try:
        return waiting.put(item, timeout=0.1)
      except queue.Full:
        continue

  def work() -> None:
    try:
      for step in range(start, stop):
        if stopped.is_set():
          return
        offer((place(batch_fn(step)), None))
    except BaseException as error:  # handed to the reader, whatever it is
      offer((None, error))

  thread = threading.Thread(target=work, name='prefetch', daemon=True)
  thread.start()
  try:
    for _ in range(start, stop):
      batch, error = waiting.get()
      if error is not None:
        raise error
      yield batch
      # Not held while the next is awaited: it is memory on the device.
      del batch
  finally:
    stopped.set()
    thread.join()


class _Trim:
  """Which arrays are cut, and to which length for a set of rows."""

  def __init__(self, arrays, buckets, lengths, sequence_names):
    self.names: frozenset[str] = frozenset()
    if buckets is None:
      return
    if lengths is None:
      lengths = arrays.get('lengths')
    if lengths is None or len(lengths) != _num_rows(arrays):
      raise ValueError('buckets need `lengths`, one for each row')
    if sequence_names is None:
      seq_len = arrays['input_ids'].shape[1]
      sequence_names = [
        name
        for name, array in arrays.items()
        if array.ndim >= 2 and array.shape[1] == seq_len
      ]
    self.names = frozenset(sequence_names)
    self.lengths = np.asarray(lengths)
    seq_len = min(arrays[name].shape[1] for name in self.names)
    if len(self.lengths) and self.lengths.max() > seq_len:
      raise ValueError(f'a length of {self.lengths.max()} exceeds {seq_len}')
    self.buckets = np.array(sorted({b for b in buckets if b < seq_len}))
    self.seq_len = seq_len

  def length(self, rows: np.ndarray) -> int | None:
    """The smallest bucket that holds all of these rows; None: as they are."""
    if not self.names:
      return None
    longest = self.lengths[rows].max()
    fitting = self.buckets[self.buckets >= longest]
    return int(fitting[0]) if len(fitting) else self.seq_len


def _num_rows(arrays: Mapping[str, Array]) -> int:
  """N, which all the arrays share."""
  sizes = {name: len(array) for name, array in arrays.items()}
  if len(set(sizes.values())) != 1:
    raise ValueError(f'arrays must have the same number of rows, not {sizes}')
  return next(iter(sizes.values()))


def _gather(
  arrays: Mapping[str, Array],
  rows: np.ndarray,
  sequence_names: frozenset[str],
  length: int | None,
) -> dict[str, np.ndarray]:
  """The rows of every array, sequences trimmed, narrow integers widened."""
  batch = {}
  for name, array in arrays.items():
    values = array[rows]
    if name in sequence_names:
      values = values[:, :length]
    if values.dtype.kind in 'iu' and values.dtype.itemsize < 4:
      values = values.astype(np.int32)
    batch[name] = np.ascontiguousarray(values)
  return batch
