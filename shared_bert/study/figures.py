"""The pictures of a report, where matplotlib is there (extra `study`)."""

import pathlib
import statistics
from collections.abc import Mapping
from typing import TYPE_CHECKING

from shared_bert.study import scores
from shared_bert.study.analysis import Analysis

if TYPE_CHECKING:
  from matplotlib.axes import Axes
  from matplotlib.figure import Figure

# By key the path of each, relative to the report; None without matplotlib.
Pictures = Mapping[str, str] | None

WITHOUT = (
  'The figures were not drawn, since matplotlib is not installed: '
  "`pip install 'shared_bert[study]'`, and run the same command again."
)


def draw(analysis: Analysis, folder: pathlib.Path) -> Pictures:
  """Draws what there are numbers for.

  Args:
    analysis: of the study.
    folder: where `figures/` is made.

  Returns:
    By key the path of each picture, relative to the folder; None without
    matplotlib.
  """
  try:
    from matplotlib.figure import Figure
  except ImportError:
    return None
  makers = {
    'pretraining': _pretraining,
    'differences': _differences,
    'noise': _noise,
    'cost': _cost,
  }
  found = {}
  (folder / 'figures').mkdir(parents=True, exist_ok=True)
  for name, make in makers.items():
    figure = Figure(dpi=110, layout='constrained')
    path = folder / 'figures' / f'{name}.png'
    # One of an earlier report would stay behind.
    path.unlink(missing_ok=True)
    if make(analysis, figure):
      figure.savefig(path)
      found[name] = f'figures/{name}.png'
  return found


def _colour(analysis: Analysis, model: str) -> str:
  return f'C{analysis.models.index(model) % 10}'


def _pretraining(analysis: Analysis, figure: 'Figure') -> bool:
  """Held-out loss by steps, a line a seed, and the end of it enlarged."""
  records = [
    r for r in analysis.findings.get('pretrain') or [] if r.get('curve')
  ]
  if not records:
    return False
  figure.set_size_inches(11, 4.5)
  whole, end = figure.subplots(1, 2)
  last = max(step for r in records for step, _ in r['curve'])
  labelled = set()
  for record in records:
    model = record['model']
    label = None if model in labelled else model
    labelled.add(model)
    for axis, first in ((whole, 0.0), (end, 0.6 * last)):
      points = [p for p in record['curve'] if p[0] >= first]
      axis.plot(
        [p[0] for p in points],
        [p[1] for p in points],
        color=_colour(analysis, model),
        alpha=0.8,
        linewidth=1.2,
        marker='.',
        markersize=3,
        label=label,
      )
  whole.legend()
  of = scores.curves_of(analysis.findings)
  _label(whole, 'steps', f'held-out masked-word loss (nats){of and f", {of}"}')
  _label(end, 'steps, the last two fifths', '')
  return True


def _differences(analysis: Analysis, figure: 'Figure') -> bool:
  """Differences to the baseline by task, with their intervals."""
  chosen = [
    c
    for c in analysis.family('tasks', 'squad', 'planned')
    if c.measure == 'score' and c.difference and c.other == analysis.baseline
  ]
  abouts = list(dict.fromkeys(c.about for c in chosen))
  models = [m for m in analysis.models if any(c.one == m for c in chosen)]
  if not chosen:
    return False
  figure.set_size_inches(9, 1.5 + 0.2 * len(abouts) * (len(models) + 1))
  axis = figure.subplots()
  labelled = set()
  for c in chosen:
    assert c.difference is not None
    place = abouts.index(c.about) * (len(models) + 1) + models.index(c.one)
    colour, found = _colour(analysis, c.one), c.difference
    if found.low is not None and found.high is not None:
      axis.plot([found.low, found.high], [place, place], color=colour)
    axis.plot(
      found.estimate,
      place,
      marker='x' if c.cannot else 'o',
      linestyle='',
      color=colour,
      label=None if c.one in labelled else c.one,
    )
    labelled.add(c.one)
  axis.axvline(0, color='black', linewidth=0.8)
  middle = (len(models) - 1) / 2
  axis.set_yticks(
    [n * (len(models) + 1) + middle for n in range(len(abouts))],
    [_wrapped(about) for about in abouts],
  )
  axis.invert_yaxis()
  axis.legend(fontsize='small')
  _label(axis, f'points above {analysis.baseline}, with 95 % intervals', '')
  return True


def _wrapped(text: str, width: int = 28) -> str:
  import textwrap

  return '\n'.join(textwrap.wrap(text, width))


def _noise(analysis: Analysis, figure: 'Figure') -> bool:
  """Metrics by level of noise, means over runs, a panel a task and kind."""
  curves: dict[tuple[str, str], dict[str, dict[float, list[float]]]] = {}
  names: dict[tuple[str, str], str] = {}
  for run in analysis.runs:
    found = scores.robustness_of(run.record)['curves']
    for kind, curve in found.items():
      key = kind, run.task
      of_model = curves.setdefault(key, {}).setdefault(run.model, {})
      names[key] = curve.get('metric') or 'score'
      pairs = zip(
        curve.get('levels') or [], curve.get('values') or [], strict=False
      )
      for level, value in pairs:
        if value is not None:
          of_model.setdefault(level, []).append(value)
  kinds = list(dict.fromkeys(kind for kind, _ in curves))
  tasks = [t for t in analysis.tasks if any(task == t for _, task in curves)]
  if not kinds or not tasks:
    return False
  figure.set_size_inches(1 + 3.2 * len(kinds), 0.6 + 2.6 * len(tasks))
  axes = figure.subplots(len(tasks), len(kinds), squeeze=False)
  for row, task in zip(axes, tasks, strict=True):
    for axis, kind in zip(row, kinds, strict=True):
      for model, values in curves.get((kind, task), {}).items():
        levels = sorted(values)
        axis.plot(
          levels,
          [statistics.fmean(values[level]) for level in levels],
          marker='.',
          color=_colour(analysis, model),
          label=model,
        )
      axis.set_title(f'{task}, {kind}', fontsize='small')
      _label(axis, 'level of noise', names.get((kind, task), ''))
  axes[0, 0].legend(fontsize='x-small')
  return True


def _cost(analysis: Analysis, figure: 'Figure') -> bool:
  """Seconds of pre-training to the baseline's, against quality."""
  points: list[tuple[str, float, float]] = []
  times = {
    c.one: 1 + c.difference.estimate
    for c in analysis.family('time')
    if c.difference and c.about == 'pretrain'
  }
  times[analysis.baseline] = 1.0
  tasks = [
    task
    for task in analysis.tasks
    if all(task in analysis.cells[m] for m in times if analysis.cells.get(m))
    and task in scores.GLUE
    and task not in scores.NOT_IN_MEANS
  ]
  for model, ratio in times.items():
    cells = analysis.cells.get(model)
    if cells and tasks:
      means = [cells[task].score.mean for task in tasks]
      points.append((model, ratio, statistics.fmean(means)))
  if len(points) < 2:
    return False
  figure.set_size_inches(6.5, 4.5)
  axis = figure.subplots()
  for model, ratio, score in points:
    colour = _colour(analysis, model)
    for mean in _by_pretraining(analysis, model, tasks):
      axis.plot(ratio, mean, '.', color=colour, alpha=0.4)
    axis.plot(ratio, score, 'o', color=colour)
    axis.annotate(
      model,
      (ratio, score),
      textcoords='offset points',
      xytext=(5, 4),
      fontsize='small',
    )
  axis.margins(0.15)
  _label(
    axis,
    f'seconds of pre-training, {analysis.baseline} = 1',
    f'mean over {len(tasks)} GLUE task(s); small: by pre-training seed',
  )
  return True


def _by_pretraining(
  analysis: Analysis, model: str, tasks: list[str]
) -> list[float]:
  """A model's means over these tasks, of each seed that has all of them."""
  values: dict[int, dict[str, list[float]]] = {}
  for run in analysis.runs:
    if run.model == model and run.task in tasks:
      of_seed = values.setdefault(run.pair[0], {})
      of_seed.setdefault(run.task, []).append(run.score)
  return [
    statistics.fmean(statistics.fmean(v) for v in of_seed.values())
    for of_seed in values.values()
    if len(of_seed) == len(tasks)
  ]


def _label(axis: 'Axes', x: str, y: str) -> None:
  axis.set_xlabel(x)
  axis.set_ylabel(y)
  axis.grid(alpha=0.3)
