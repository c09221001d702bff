"""What pre-trained models know: of words, of their company, of their order.

  python benchmarks/context.py RUN [RUN ...] [--rows=1024]

Prints what `shared_bert.study.context.losses` finds of each RUN's last
checkpoint, in nats: the loss on held-out rows as they are, with their words
shuffled, with the words of another row, and a guess by the words' frequency.
A model on the plateau of that guess has them alike.
"""

import argparse
import pathlib

from finished_runs import read_config

from shared_bert.study import context


def main() -> None:
  """Evaluates and prints."""
  parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
  parser.add_argument('runs', type=pathlib.Path, nargs='+')
  parser.add_argument('--rows', type=int, default=1024)
  arguments = parser.parse_args()
  print('| run | as they are | shuffled | foreign | by frequency |')
  print('|---|---:|---:|---:|---:|')
  for run in arguments.runs:
    found = context.losses(read_config(run), run, arguments.rows)
    columns = ' | '.join(f'{value:.3f}' for value in found.values())
    print(f'| {run.name} | {columns} |')


if __name__ == '__main__':
  main()
