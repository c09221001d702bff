"""Curves and tables of finished runs, for docs/results.md.

  python benchmarks/summarise.py curves OUTPUT.png RUN [RUN ...]
  python benchmarks/summarise.py table RUN [RUN ...]

`curves` draws the held-out loss of pre-training runs against steps, tokens and
seconds; the seconds of a step are those that `step.py` wrote to `OUTPUT.json`.
`table` groups fine-tuning runs by task and attention and prints mean ± sample
standard deviation over their seeds, as a Markdown table.
"""

import collections
import json
import pathlib
import statistics
import sys

import numpy as np
from finished_runs import read_config, read_metrics


def curves(output: pathlib.Path, runs: list[pathlib.Path]) -> None:
  """Draws held-out loss, one colour a run, and saves a PNG.

  Args:
    output: the PNG. Beside it, under the same name with `.json`, lies what
      `step.py` measured of the runs: from it are the seconds.
    runs: workdirs of pre-training runs.
  """
  import matplotlib

  matplotlib.use('Agg')
  import matplotlib.pyplot as plt

  seconds = json.loads(output.with_suffix('.json').read_text())
  figure, axes = plt.subplots(2, 3, figsize=(13, 8), sharey='row')
  for run in runs:
    config = read_config(run)
    rows = read_metrics(run, 'heldout')
    steps = np.array([row['step'] for row in rows])
    losses = [row['loss'] for row in rows]
    tokens = config.train.batch_size * config.data.seq_len
    scales = (1, tokens / 1e6, seconds[run.name]['cpu'] / 60)
    # Below, the end: lines that lie close together are told apart.
    for row, shown in enumerate((steps > 0, steps >= 0.6 * steps[-1])):
      for axis, scale in zip(axes[row], scales, strict=True):
        axis.plot(
          steps[shown] * scale,
          np.array(losses)[shown],
          marker='.',
          label=config.model.attention,
        )
  titles = ('steps', 'million tokens', 'minutes of one core, as measured apart')
  for column, title in enumerate(titles):
    axes[1, column].set_xlabel(title)
    for axis in axes[:, column]:
      axis.grid(alpha=0.3)
  for axis in axes[:, 0]:
    axis.set_ylabel('held-out masked-word loss (nats)')
  axes[0, 2].legend()
  figure.tight_layout()
  figure.savefig(output, dpi=110)


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
