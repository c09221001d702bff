"""Curves and tables of finished runs, for docs/results.md.

  python benchmarks/summarise.py curves OUTPUT.png RUN [RUN ...]
  python benchmarks/summarise.py table RUN [RUN ...]

`curves` draws training and held-out loss of pre-training runs against steps.
`table` groups fine-tuning runs by task and attention and prints mean ± sample
standard deviation over their seeds, as a Markdown table.
"""

import collections
import json
import pathlib
import statistics
import sys


def read_metrics(run: pathlib.Path, split: str) -> list[dict]:
  """The lines of one split in a run's metrics.jsonl."""
  lines = (run / 'metrics.jsonl').read_text().splitlines()
  rows = [json.loads(line) for line in lines]
  return [row for row in rows if row['split'] == split]


def curves(output: pathlib.Path, runs: list[pathlib.Path]) -> None:
  """Draws loss against steps, one colour a run, and saves a PNG."""
  import matplotlib

  matplotlib.use('Agg')
  import matplotlib.pyplot as plt

  figure, axes = plt.subplots(1, 2, figsize=(10, 4), sharey=True)
  for run in runs:
    name = json.loads((run / 'config.json').read_text())['model']['attention']
    for axis, split in zip(axes, ('train', 'heldout'), strict=True):
      rows = read_metrics(run, split)
      axis.plot(
        [row['step'] for row in rows],
        [row['loss'] for row in rows],
        marker='' if split == 'train' else 'o',
        label=name,
      )
  for axis, title in zip(axes, ('training', 'held out'), strict=True):
    axis.set_title(title)
    axis.set_xlabel('step')
    axis.grid(alpha=0.3)
    axis.legend()
  axes[0].set_ylabel('masked-word loss (nats)')
  figure.tight_layout()
  figure.savefig(output, dpi=120)


def spread(values: list[float], scale: float = 1.0, digits: int = 2) -> str:
  """`mean ± sd` of a few values; the mean alone for a single one."""
  mean = statistics.mean(values) * scale
  if len(values) == 1:
    return f'{mean:.{digits}f}'
  deviation = statistics.stdev(values) * scale
  return f'{mean:.{digits}f} ± {deviation:.{digits}f}'


def table(runs: list[pathlib.Path]) -> None:
  """Prints the table; metrics times 100."""
  groups = collections.defaultdict(list)
  for run in runs:
    results = json.loads((run / 'results.json').read_text())
    groups[results['task'], results['attention']].append(results)
  print(
    '| task | split | metric | attention | mean ± sd | seeds | '
    'majority class | seconds |'
  )
  print('|---|---|---|---|---:|---:|---:|---:|')
  for (task, attention), results in sorted(groups.items()):
    for split, values in results[0]['metrics'].items():
      for metric in values:
        scores = [r['metrics'][split][metric] for r in results]
        majority = results[0]['majority'].get(split)
        base = f'{majority * 100:.2f}' if metric == 'accuracy' else ''
        print(
          f'| {task} | {split} | {metric} | {attention} | '
          f'{spread(scores, 100)} | {len(scores)} | {base} | '
          f'{spread([r["seconds"] for r in results], digits=0)} |'
        )


def main(arguments: list[str]) -> int:
  """Runs one of the two; returns the exit code."""
  if len(arguments) >= 3 and arguments[0] == 'curves':
    curves(pathlib.Path(arguments[1]), list(map(pathlib.Path, arguments[2:])))
  elif len(arguments) >= 2 and arguments[0] == 'table':
    table(list(map(pathlib.Path, arguments[1:])))
  else:
    print(__doc__, file=sys.stderr)
    return 1
  return 0


if __name__ == '__main__':
  sys.exit(main(sys.argv[1:]))
