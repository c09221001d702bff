"""Pictures for TensorBoard, as arrays uint8 [H, W, 3]."""

import functools
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

# All in pixels. TensorBoard stretches or shrinks pictures to about 350 of them
# and does not smooth, so that letters suffer: three classes of GLUE just fit.
_WIDTH = 350
_MARGIN, _GAP = 6, 6
_CELL_WIDTH, _CELL_HEIGHT = 74, 50
_LINE = 16

_INK, _FAINT, _PAPER = (32, 33, 36), (95, 99, 104), (255, 255, 255)
_LINES = (218, 220, 224)
# Shares of a row go from paper to these: what is right, and what is not.
_RIGHT, _WRONG = (21, 101, 192), (216, 67, 21)


@functools.cache
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
  return ImageFont.load_default(size)


def _tint(colour: tuple[int, int, int], share: float) -> tuple[int, ...]:
  return tuple(
    round(paper + (ink - paper) * share)
    for paper, ink in zip(_PAPER, colour, strict=True)
  )


def confusion_matrix(counts: np.ndarray, names: Sequence[str]) -> np.ndarray:
  """Draws which classes are taken for which.

  A row is a gold class, a column a predicted one. A cell says how many examples
  it holds and their share of the row, and is the darker the larger that share:
  blue on the diagonal, where the prediction is right, orange elsewhere. The
  picture of the same names has the same size, whatever the counts.

  Args:
    counts: int [C, C], gold class first, as from `metrics.confusion_counts`.
    names: of the C classes.

  Returns:
    uint8 [H, W, 3].
  """
  text, small, large = _font(12), _font(11), _font(14)
  widest = round(max(text.getlength(name) for name in names))
  cell_width = max(_CELL_WIDTH, widest + _GAP)
  # Their numbers stand below the names of the gold classes.
  left = _MARGIN + max(widest, _CELL_WIDTH) + _GAP
  top = _MARGIN + 4 * _LINE + _GAP
  image = Image.new(
    'RGB',
    (
      max(_WIDTH, left + cell_width * len(names) + _MARGIN),
      top + _CELL_HEIGHT * len(names) + _MARGIN,
    ),
    _PAPER,
  )
  draw = ImageDraw.Draw(image)

  total, right = int(counts.sum()), int(np.trace(counts))
  share = f' ({right / total:.1%})' if total else ''
  title = f'{right:,} of {total:,} right{share}'
  draw.text((_MARGIN, _MARGIN), title, _INK, large)
  header = top - 2 * _LINE
  draw.text((left, header - _LINE), 'predicted', _FAINT, small)
  draw.text((left - _GAP, header + _LINE), 'gold', _FAINT, small, anchor='ra')

  for number, name in enumerate(names):
    # The letters of the anchors: a for top, s for base line; m for the middle,
    # r for the right.
    x = left + cell_width * number + cell_width // 2
    draw.text((x, header), name, _INK, text, anchor='ma')
    predicted = f'{counts[:, number].sum():,}'
    draw.text((x, header + _LINE), predicted, _FAINT, small, anchor='ma')
    x, y = left - _GAP, top + _CELL_HEIGHT * number + _CELL_HEIGHT // 2
    draw.text((x, y - 1), name, _INK, text, anchor='rs')
    draw.text(
      (x, y + 4), f'{counts[number].sum():,}', _FAINT, small, anchor='ra'
    )

  for row, column in np.ndindex(counts.shape):
    in_row = int(counts[row].sum())
    share = counts[row, column] / in_row if in_row else 0.0
    x, y = left + cell_width * column, top + _CELL_HEIGHT * row
    draw.rectangle(
      (x, y, x + cell_width - 3, y + _CELL_HEIGHT - 3),
      fill=_tint(_RIGHT if row == column else _WRONG, share),
      outline=_LINES,
    )
    ink = _PAPER if share > 0.5 else _INK
    x, y = x + cell_width // 2 - 1, y + _CELL_HEIGHT // 2
    draw.text((x, y - 1), f'{counts[row, column]:,}', ink, large, anchor='ms')
    percent = f'{share:.1%}' if in_row else '-'
    draw.text((x, y + 4), percent, ink, small, anchor='ma')
  return np.asarray(image)
