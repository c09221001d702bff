"""The line of progress, in a terminal and out of one."""

import io
import time

import pytest

from shared_bert.training.logging import Progress

VALUES = {
  'loss': 6.425,
  'steps_per_second': 1.6,
  'examples_per_second': 51.0,
  'tokens_per_second': 6412.0,
}


class Terminal(io.StringIO):
  def isatty(self):
    return True


@pytest.mark.parametrize(
  ('columns', 'line'),
  [
    (
      100,
      'pre-train 2,200/3,000 (73%)  loss 6.4250  51 examples/s  6,412 tokens/s'
      '  8:20 left',
    ),
    (60, 'pre-train 2,200/3,000 (73%)  loss 6.4250  8:20 left'),
    (40, 'pre-train 2,200/3,000 (73%)  8:20 left'),
    (35, 'pre-train 2,200/3,000 (73%)'),
    (20, 'pre-train 2,200/3,0'),
  ],
)
def test_the_line_fits_its_terminal_in_whole_words(columns, line, monkeypatch):
  monkeypatch.setenv('COLUMNS', str(columns))
  terminal = Terminal()
  progress = Progress('pre-train', 3000, terminal)
  progress.show(2200, 2200 / 3000, 500.0, VALUES)
  # Filled up, so that nothing is left of the line before.
  assert terminal.getvalue() == '\r' + line.ljust(columns - 1)
  progress.clear()
  assert terminal.getvalue().endswith('\n')


def test_a_file_has_whole_lines_and_not_too_many():
  file = io.StringIO()
  progress = Progress('pre-train', 3000, file)
  for step in (1, 2, 3, 3000):
    progress.show(step, step / 3000, None if step == 1 else 0.0)
    progress.show(step, step / 3000, None if step == 1 else 0.0, VALUES)
  first, last = file.getvalue().splitlines()
  assert first.startswith('pre-train 1/3,000 (0%)  loss 6.4250  51 examples/s')
  assert first.endswith('? left')
  assert last.endswith(
    '(100%)  loss 6.4250  51 examples/s  6,412 tokens/s  0 s left'
  )


def test_a_terminal_is_told_of_steps_between_two_logs(monkeypatch):
  monkeypatch.setenv('COLUMNS', '100')
  terminal = Terminal()
  progress = Progress('pre-train', None, terminal)
  progress.show(1, 0.1, None)
  assert not terminal.getvalue()  # two seconds have not passed
  later = time.monotonic() + 2
  monkeypatch.setattr(time, 'monotonic', lambda: later)
  progress.show(2, 0.2, None)
  # What is not known yet is left out, the total of a run by the clock too.
  assert terminal.getvalue().strip() == 'pre-train 2 (20%)  ? left'
  progress.show(3, 0.3, 60.0, VALUES)
  later += 2
  progress.show(4, 0.4, 50.0)
  assert terminal.getvalue().rpartition('\r')[2].strip() == (
    'pre-train 4 (40%)  loss 6.4250  51 examples/s  6,412 tokens/s  50 s left'
  )
