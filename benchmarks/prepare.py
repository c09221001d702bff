"""What preparation costs beside tokenising, and what a second process gains.

  python benchmarks/prepare.py TEXT VOCAB [--megabytes=8] [--rounds=5]

Takes the first megabytes of TEXT (UTF-8, or `.xz`) in four files, and in turns

  encode    `encode_batch` of the tokenizers library on all lines, one thread:
            the work that nobody can save
  1 worker  `prepare_corpus` with one thread, reading and packing included
  2 workers `prepare_corpus` with two processes of one thread each

Prints median, least and most of wall seconds and of CPU seconds (those of
worker processes included), the overhead of the second over the first in CPU
seconds, and how much faster the third is than the second, as medians of the
ratios of a round. On a machine that others use, wall times say little: see the
load.
"""

import argparse
import importlib.metadata
import lzma
import os
import pathlib
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable

# For all: one thread in each process.
os.environ['TOKENIZERS_PARALLELISM'] = 'false'

from shared_bert.data import text_files
from shared_bert.data.preparation import prepare_corpus
from shared_bert.data.tokenizer import Tokenizer

FILES = 4


def cut(source: pathlib.Path, num_bytes: int, folder: pathlib.Path) -> list:
  """Writes the beginning of a text as files; their paths."""
  opener = lzma.open if source.suffix == '.xz' else open
  with opener(source, 'rb') as stream:
    text = stream.read(num_bytes).decode('utf-8', 'ignore')
  paths, size = [], len(text) // FILES
  for number in range(FILES):
    paths.append(folder / f'{number}.txt')
    paths[-1].write_text(text[number * size : (number + 1) * size], 'utf-8')
  return paths


def cpu_seconds() -> float:
  """Of this process and those that it waited for."""
  spent = [
    resource.getrusage(who)
    for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
  ]
  return sum(usage.ru_utime + usage.ru_stime for usage in spent)


def timed(function: Callable[[], object]) -> tuple[float, float]:
  """Wall and CPU seconds of a call."""
  wall, cpu = time.perf_counter(), cpu_seconds()
  function()
  return time.perf_counter() - wall, cpu_seconds() - cpu


def main() -> None:
  """Measures and prints."""
  parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
  parser.add_argument('text', type=pathlib.Path)
  parser.add_argument('vocab', type=pathlib.Path)
  parser.add_argument('--megabytes', type=float, default=8)
  parser.add_argument('--rounds', type=int, default=5)
  arguments = parser.parse_args()
  tokenizer = Tokenizer.load(arguments.vocab)
  packages = ('tokenizers', 'numpy')
  print(*(f'{name} {importlib.metadata.version(name)}' for name in packages))
  print(f'{os.cpu_count()} cores, load {os.getloadavg()}')
  times: dict[str, list[tuple[float, float]]] = {}
  with tempfile.TemporaryDirectory() as name:
    folder = pathlib.Path(name)
    paths = cut(arguments.text, int(arguments.megabytes * 1e6), folder)
    lines = [
      line
      for path in paths
      for document, _ in text_files.read_documents(path)
      for line in document
    ]

    def encode() -> None:
      for start in range(0, len(lines), 4096):
        tokenizer._engine.encode_batch_fast(
          lines[start : start + 4096], add_special_tokens=False
        )

    def prepare(workers: int) -> None:
      prepare_corpus(
        paths,
        folder / f'{workers}-{time.monotonic_ns()}',
        tokenizer,
        128,
        workers,
      )

    functions = {
      'encode': encode,
      '1 worker': lambda: prepare(1),
      '2 workers': lambda: prepare(2),
    }
    # What is printed by preparations is not of interest.
    sys.stderr = open(os.devnull, 'w')
    encode()
    for _ in range(arguments.rounds):
      for name, function in functions.items():
        times.setdefault(name, []).append(timed(function))
  size = sum(len(line.encode()) for line in lines) / 1e6
  print(f'{size:.1f} MB in {len(lines):,} lines, {arguments.rounds} rounds')
  print(
    f'{"":10}{"wall":>8}{"least":>8}{"most":>8}{"CPU":>8}{"least":>8}{"most":>8}'
  )
  for name, rounds in times.items():
    row = [
      function(values)
      for values in zip(*rounds, strict=True)
      for function in (statistics.median, min, max)
    ]
    print(f'{name:10}' + ''.join(f'{value:8.2f}' for value in row))

  def ratio(first: str, second: str, which: int) -> float:
    pairs = zip(times[first], times[second], strict=True)
    return statistics.median(a[which] / b[which] for a, b in pairs)

  print(
    f'overhead over encode_batch: {ratio("1 worker", "encode", 1) - 1:.1%} CPU'
  )
  print(f'CPU of 2 workers over 1: {ratio("2 workers", "1 worker", 1):.2f}')
  print(
    f'2 workers faster than 1: {ratio("1 worker", "2 workers", 0):.2f} wall'
  )
  print(f'load {os.getloadavg()}')


if __name__ == '__main__':
  main()
