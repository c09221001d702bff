"""Does a long run keep to its memory, its open files and its threads?

  python benchmarks/soak.py watch OUTPUT.jsonl --minutes=60 -- COMMAND ...
  python benchmarks/soak.py draw OUTPUT.png OUTPUT.jsonl

`watch` starts a command, writes a line of what it holds every few seconds, and
ends it by SIGTERM after so many minutes; Linux, since it reads /proc. `draw`
draws the lines and prints how the last ten minutes compare with the second ten:
in the first a run compiles, evaluates and saves for the first time.
"""

import argparse
import json
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np

_SPAN = 600.0  # seconds of each of the two spans that are compared
_SERIES = ('rss_mib', 'anonymous_mib', 'files', 'threads')


def read_process(pid: int) -> dict[str, float]:
  """What a process holds now, from /proc; see proc_pid_status(5).

  Returns:
    `rss_mib` and `anonymous_mib` (resident; of it, not backed by a file) in
    MiB, `files` (open descriptors), `threads`.

  Raises:
    OSError: no such process.
  """
  folder = pathlib.Path('/proc') / str(pid)
  lines = (folder / 'status').read_text().splitlines()
  fields = dict(line.split(':', 1) for line in lines)
  return {
    'rss_mib': int(fields['VmRSS'].split()[0]) / 1024,
    'anonymous_mib': int(fields['RssAnon'].split()[0]) / 1024,
    'files': len(list((folder / 'fd').iterdir())),
    'threads': int(fields['Threads']),
  }


def watch(
  command: list[str], output: pathlib.Path, minutes: float, every: float
) -> int:
  """Runs a command for so long, writing what it holds; returns its exit code.

  Args:
    command: with its arguments.
    output: JSON Lines: `seconds` since the start and what `read_process` gives.
    minutes: after which the command gets SIGTERM.
    every: seconds between lines.
  """
  output.parent.mkdir(parents=True, exist_ok=True)
  child = subprocess.Popen(command)
  start = time.monotonic()
  stopped = False
  with output.open('w') as lines:
    while child.poll() is None:
      seconds = time.monotonic() - start
      if seconds > 60 * minutes and not stopped:
        child.send_signal(signal.SIGTERM)
        stopped = True
      try:
        held = read_process(child.pid)
      except (OSError, KeyError):  # it is just ending
        continue
      lines.write(json.dumps({'seconds': round(seconds, 1), **held}) + '\n')
      lines.flush()
      time.sleep(every)
  return child.returncode


def compare(rows: list[dict], span: float = _SPAN) -> dict[str, dict]:
  """By series, what the second and the last span of a run held.

  Args:
    rows: of `watch`, over at least three spans.
    span: seconds.

  Returns:
    For each series `second` and `last` (medians), `lowest` and `highest` after
    the first span, and `slope` (an hour, by least squares, after the first).

  Raises:
    ValueError: the run was too short.
  """
  seconds = np.array([row['seconds'] for row in rows])
  if seconds[-1] < 3 * span:
    raise ValueError(f'{seconds[-1]:.0f} s are less than three times {span} s.')
  after = seconds >= span
  found = {}
  for name in _SERIES:
    values = np.array([row[name] for row in rows], float)
    found[name] = {
      'second': np.median(values[after & (seconds < 2 * span)]),
      'last': np.median(values[seconds >= seconds[-1] - span]),
      'lowest': values[after].min(),
      'highest': values[after].max(),
      'slope': 3600 * np.polyfit(seconds[after], values[after], 1)[0],
    }
  return found


def draw(output: pathlib.Path, rows: list[dict]) -> None:
  """Draws memory above, open files and threads below, and saves a PNG."""
  import matplotlib

  matplotlib.use('Agg')
  import matplotlib.pyplot as plt

  minutes = np.array([row['seconds'] for row in rows]) / 60
  figure, (above, below) = plt.subplots(2, 1, figsize=(9, 6), sharex=True)
  labels = ('resident', 'of it not of files', 'open files', 'threads')
  for axis, name, label in zip(
    (above, above, below, below), _SERIES, labels, strict=True
  ):
    axis.plot(minutes, [row[name] for row in rows], label=label)
  above.set_ylabel('memory (MiB)')
  below.set_ylabel('number')
  below.set_xlabel('minutes')
  for axis in (above, below):
    axis.set_ylim(bottom=0)
    axis.grid(alpha=0.3)
    axis.legend(loc='lower right')
  figure.tight_layout()
  figure.savefig(output, dpi=110)


def main() -> None:
  """Watches, or draws and prints."""
  parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
  commands = parser.add_subparsers(dest='what', required=True)
  watching = commands.add_parser('watch')
  watching.add_argument('output', type=pathlib.Path)
  watching.add_argument('--minutes', type=float, default=60.0)
  watching.add_argument('--every', type=float, default=5.0, help='seconds')
  watching.add_argument('command', nargs='+')
  drawing = commands.add_parser('draw')
  drawing.add_argument('output', type=pathlib.Path)
  drawing.add_argument('lines', type=pathlib.Path)
  given = parser.parse_args()
  if given.what == 'watch':
    sys.exit(watch(given.command, given.output, given.minutes, given.every))
  rows = [json.loads(line) for line in given.lines.read_text().splitlines()]
  draw(given.output, rows)
  print('| | second 10 min | last 10 min | lowest | highest | slope an hour |')
  print('|---|---:|---:|---:|---:|---:|')
  for name, found in compare(rows).items():
    columns = ' | '.join(f'{value:.1f}' for value in found.values())
    print(f'| {name} | {columns} |')


if __name__ == '__main__':
  main()
