"""Rows per second from prepared files to batches that are ready for a device.

  python benchmarks/loader.py [--seconds=20]

Random ids stand for text: 64 MB of rows of 128 and of 512 tokens, in four
files, once as `prepare` writes them and once as blocks of 64 rows in
ArrayRecord. All are in the page cache: what is measured is the work of one
core, not a disk. Rounds take turns, and each makes batches of 256 shuffled
rows:

  map          gather from `RowFiles`, which checks blocks at first touch
  map, checked the same with all blocks checked, as after the first epoch
  batches      `batches.Rows`: shuffle, gather, widen to int32
  device       the same and `jax.device_put` of the batch, waited for
  blocks       read 256 shuffled rows from ArrayRecord, a block for each row
  whole blocks read whole shuffled blocks of 64 rows, four a batch: rows that
               lie together stay together

At the end what shuffling costs: the order of an epoch of a million rows, which
is made at once, and of the rows of a larger data set, one by one.

Prints the median, least and most of rows per second over the rounds, for wall
time and for the CPU time of the process, and the load of the machine.
"""

import argparse
import importlib.metadata
import os
import pathlib
import platform
import statistics
import tempfile
import time
from collections.abc import Callable

# One core: what is asked is rows per core.
if hasattr(os, 'sched_setaffinity'):
  os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})

import jax
import numpy as np
from array_record.python import array_record_module

from shared_bert.data import batches
from shared_bert.data.row_files import RowFiles, write_rows

BATCH, FILES, BLOCK = 256, 4, 64
DATA_BYTES = 2**26
DTYPE = np.dtype('<u2')
BLOCK_STEPS = 8  # of the slow one


def write(folder: pathlib.Path, seq_len: int) -> tuple[dict, str, int]:
  """Writes the same rows in both forms.

  Args:
    folder: to write to.
    seq_len: S.

  Returns:
    What `RowFiles` wants to know, the ArrayRecord file, and how many rows.
  """
  rng = np.random.default_rng(0)
  num_rows = DATA_BYTES // (seq_len * DTYPE.itemsize)
  rows = rng.integers(0, 30_000, (num_rows, seq_len)).astype(DTYPE)
  facts = {}
  for number, part in enumerate(np.split(rows, FILES)):
    name = f'train-{number:05}.npy'
    facts[name] = write_rows(folder / name, part)
  path = str(folder / 'rows.array_record')
  writer = array_record_module.ArrayRecordWriter(path, 'group_size:1')
  for block in np.split(rows, num_rows // BLOCK):
    writer.write(block.tobytes())
  writer.close()
  return facts, path, num_rows


def candidates(
  folder: pathlib.Path, seq_len: int
) -> dict[str, Callable[[int], int]]:
  """name -> function of the round that makes batches and says how many rows."""
  facts, path, num_rows = write(folder, seq_len)
  mapped = RowFiles(folder, facts, seq_len, DTYPE)
  reader = array_record_module.ArrayRecordReader(path)
  rows = batches.Rows({'input_ids': mapped}, BATCH, 0)
  steps = num_rows // BATCH

  def order(round_number: int) -> np.ndarray:
    chosen, _ = batches.epoch_rows(
      num_rows, 0, round_number * num_rows, num_rows
    )
    return chosen.reshape(steps, BATCH)

  def gather(source: RowFiles, round_number: int) -> int:
    for chosen in order(round_number):
      source[chosen].astype(np.int32)
    return num_rows

  def unchecked(round_number: int) -> int:
    return gather(RowFiles(folder, facts, seq_len, DTYPE), round_number)

  def from_rows(round_number: int) -> int:
    for step in range(steps):
      rows(round_number * steps + step)
    return num_rows

  def to_device(round_number: int) -> int:
    for step in range(steps):
      batch = rows(round_number * steps + step)
      jax.block_until_ready(jax.device_put(batch))
    return num_rows

  def row_by_block(round_number: int) -> int:
    for chosen in order(round_number)[:BLOCK_STEPS]:
      data = reader.read((chosen // BLOCK).tolist())
      np.stack(
        [
          np.frombuffer(block, DTYPE).reshape(BLOCK, seq_len)[place]
          for block, place in zip(data, chosen % BLOCK, strict=True)
        ]
      ).astype(np.int32)
    return BLOCK_STEPS * BATCH

  def whole_blocks(round_number: int) -> int:
    chosen, _ = batches.epoch_rows(
      num_rows // BLOCK, 0, round_number, steps * 4
    )
    for of_batch in chosen.reshape(steps, 4):
      data = reader.read(of_batch.tolist())
      np.concatenate(
        [np.frombuffer(block, DTYPE).reshape(BLOCK, seq_len) for block in data]
      ).astype(np.int32)
    return num_rows

  return {
    'map': unchecked,
    'map, checked': lambda number: gather(mapped, number),
    'batches': from_rows,
    'device': to_device,
    'blocks': row_by_block,
    'whole blocks': whole_blocks,
  }


def measure(
  functions: dict[str, Callable[[int], int]], seconds: float
) -> dict[str, list[tuple[float, float]]]:
  """name -> (rows per wall second, rows per CPU second) of each round."""
  for function in functions.values():
    function(0)  # page cache, permutations, compilation
  speeds: dict[str, list] = {name: [] for name in functions}
  start, number = time.monotonic(), 0
  while number < 7 or time.monotonic() - start < seconds:
    number += 1
    for name, function in functions.items():
      wall, cpu = time.perf_counter(), time.process_time()
      rows = function(number)
      wall = time.perf_counter() - wall
      cpu = time.process_time() - cpu
      speeds[name].append((rows / wall, rows / cpu))
  return speeds


def main() -> None:
  """Measures and prints."""
  parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
  parser.add_argument('--seconds', type=float, default=20)
  seconds = parser.parse_args().seconds
  packages = ('jax', 'numpy', 'array_record', 'grain')
  versions = [f'{name} {importlib.metadata.version(name)}' for name in packages]
  print(platform.processor() or platform.machine(), *versions, sep=', ')
  print(f'load {os.getloadavg()}, batches of {BATCH}, {DATA_BYTES:,} bytes')
  for seq_len in (128, 512):
    with tempfile.TemporaryDirectory() as folder:
      speeds = measure(candidates(pathlib.Path(folder), seq_len), seconds)
    print(f'S={seq_len}: rows/s of {len(speeds["map"])} rounds')
    print(
      f'{"":14}{"CPU median":>12}{"wall median":>12}{"least":>12}{"most":>12}'
    )
    for name, rounds in speeds.items():
      wall, cpu = zip(*rounds, strict=True)
      numbers = (
        statistics.median(cpu),
        statistics.median(wall),
        min(wall),
        max(wall),
      )
      print(f'{name:14}' + ''.join(f'{number:12,.0f}' for number in numbers))
  start = time.process_time()
  batches.epoch_rows(2**20, 0, 0, BATCH)
  print(f'order of 1,048,576 rows: {time.process_time() - start:.2f} s CPU')
  batches.epoch_rows(2**24, 0, 0, BATCH)  # imports
  start = time.process_time()
  batches.epoch_rows(2**24, 0, BATCH, 40 * BATCH)
  speed = 40 * BATCH / (time.process_time() - start)
  print(f'order of 16,777,216 rows: {speed:,.0f} rows/s CPU')
  print(f'load {os.getloadavg()}')


if __name__ == '__main__':
  main()
