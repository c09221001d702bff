"""Curves of a metric as a picture, without a plotting library."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

# In pixels, of one panel and of what is around its axes.
_WIDTH, _HEIGHT = 960, 440
_LEFT, _RIGHT, _TOP, _BOTTOM = 80, 320, 50, 60
_INK, _FAINT, _PAPER = (32, 33, 36), (218, 220, 224), (255, 255, 255)
# Okabe and Ito's colours, which the colour-blind can tell apart.
_COLOURS = (
  (0, 114, 178),
  (213, 94, 0),
  (0, 158, 115),
  (204, 121, 167),
  (86, 180, 233),
  (230, 159, 0),
)
_TICKS = 5  # about as many lines across


def line_chart(
  title: str,
  x_label: str,
  x: Sequence[float],
  curves: Mapping[str, Sequence[float]],
  bands: Mapping[str, Sequence[tuple[float, float]]],
) -> np.ndarray:
  """Draws curves over one axis.

  Args:
    title: above.
    x_label: below.
    x: K places, rising; each gets a mark, as a share in per cent.
    curves: name to K values; what is not finite is left out.
    bands: name to K pairs of a low and a high value, drawn as bars; those
      that are not finite, or of a value that is not, are left out.

  Returns:
    uint8 [H, W, 3].
  """
  image = Image.new('RGB', (_WIDTH, _HEIGHT), _PAPER)
  draw = ImageDraw.Draw(image)
  small, large = ImageFont.load_default(15), ImageFont.load_default(19)
  everything = [
    *(v for values in curves.values() for v in values),
    *(v for pairs in bands.values() for pair in pairs for v in pair),
  ]
  everything = [v for v in everything if math.isfinite(v)] or [0.0]
  step = _step(max(everything) - min(everything))
  bottom = math.floor(min(everything) / step)
  top = max(math.ceil(max(everything) / step), bottom + 1)
  right, base = _WIDTH - _RIGHT, _HEIGHT - _BOTTOM

  def across(value: float) -> float:
    return _LEFT + (value - x[0]) / (x[-1] - x[0]) * (right - _LEFT)

  def up(value: float) -> float:
    share = (value / step - bottom) / (top - bottom)
    return base - share * (base - _TOP)

  draw.text((_LEFT, 14), title, _INK, large)
  for tick in range(bottom, top + 1):
    height = up(tick * step)
    draw.line((_LEFT, height, right, height), _FAINT)
    draw.text((_LEFT - 10, height), f'{tick * step:.4g}', _INK, small, 'rm')
  for value in x:
    draw.text((across(value), base + 8), f'{value:.0%}', _INK, small, 'ma')
  draw.text(((_LEFT + right) / 2, base + 32), x_label, _INK, small, 'ma')
  for number, (name, values) in enumerate(curves.items()):
    colour = _COLOURS[number % len(_COLOURS)]
    # Beside each other, or the bars of one level would hide each other.
    shift = 3 * (number - (len(curves) - 1) / 2)
    points = []
    pairs = bands.get(name, [(math.nan, math.nan)] * len(x))
    for place, value, pair in zip(x, values, pairs, strict=True):
      # A level without its value has no bar either.
      if math.isfinite(value):
        at = across(place) + shift
        points.append((at, up(value)))
        if all(map(math.isfinite, pair)):
          draw.line([(at, up(end)) for end in pair], colour)
    draw.line(points, colour, 3)
    for place, height in points:
      draw.ellipse((place - 4, height - 4, place + 4, height + 4), colour)
    height = _TOP + 10 + 24 * number
    draw.line((right + 20, height, right + 50, height), colour, 3)
    draw.text((right + 60, height), name, _INK, small, 'lm')
  return np.asarray(image)


def _step(span: float) -> float:
  """A round number, of which some five make up a span."""
  if span <= 0:
    return 0.1
  power = 10.0 ** math.floor(math.log10(span / _TICKS))
  return next(
    n * power for n in (1, 2, 5, 10) if n * power * _TICKS >= span * 0.999
  )
