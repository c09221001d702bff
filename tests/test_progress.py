"""The line of progress, in a terminal and out of one."""

import io

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
  progress = Progress('pre-train', 0, 3000, 32, terminal)
  progress.show(2200, VALUES)
  # Filled up, so that nothing is left of the line before.
  assert terminal.getvalue() == '\r' + line.ljust(columns - 1)
  progress.clear()
  assert terminal.getvalue().endswith('\n')


def test_a_file_has_whole_lines_and_not_too_many():
  file = io.StringIO()
  progress = Progress('pre-train', 0, 3000, 32, file)
  for step in (1, 2, 3, 3000):
    progress.show(step, VALUES)
  first, last = file.getvalue().splitlines()
  assert first.startswith('pre-train 1/3,000 (0%)  loss 6.4250  51 examples/s')
  assert last.endswith(
    '(100%)  loss 6.4250  51 examples/s  6,412 tokens/s  0 s left'
  )
