"""What a measurement of robustness leaves: predictions, curves, tables."""

import io
import pathlib
import zipfile
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from shared_bert.errors import UserError
from shared_bert.training import bootstrap, curves
from shared_bert.training import metrics as metrics_lib
from shared_bert.training.logging import say

PREDICTIONS = 'robustness.npz'
PICTURE = 'robustness.png'


def curves_of(
  metric: str,
  levels: Sequence[float],
  values: Mapping[str, np.ndarray],
  samples: np.ndarray,
) -> dict[str, Any]:
  """A metric by level and its area, by kind of noise, with intervals.

  Args:
    metric: its name.
    levels: K of them.
    values: by kind, float [K].
    samples: of R resamples of the examples, the levels of one kind after those
      of another: float [R, K times the number of kinds].

  Returns:
    What `results.json` says of each kind.
  """
  at, found = np.array(levels), {}
  by_kind = np.split(samples, len(values), axis=1)
  for (kind, each), its in zip(values.items(), by_kind, strict=True):
    areas = metrics_lib.area_under_curve(at, its)
    found[kind] = {
      'metric': metric,
      'values': each.tolist(),
      'intervals': [list(bootstrap.interval(one)) for one in its.T],
      'auc': float(metrics_lib.area_under_curve(at, each)),
      'auc_interval': list(bootstrap.interval(areas)),
    }
  return found


def write(
  workdir: pathlib.Path,
  levels: Sequence[float],
  by_split: Mapping[str, Mapping[str, Any]],
  predictions: Mapping[str, np.ndarray],
) -> None:
  """Writes every prediction and, where there is noise, a picture of the curves.

  Args:
    workdir: a folder that is there.
    levels: K of them.
    by_split: what `results.json` says of each kind of noise, by split.
    predictions: as `read_predictions` gives them; class ids below 256 are kept
      as bytes.

  Raises:
    UserError: if the file system refuses.
  """
  panels = [
    curves.line_chart(
      f'{split}: {next(iter(kinds.values()))["metric"]}',
      'share that is hit; of embedding the size of the noise',
      levels,
      {
        f'{kind} (AUC {found["auc"]:.3f})': found['values']
        for kind, found in kinds.items()
      },
      {
        f'{kind} (AUC {found["auc"]:.3f})': found['intervals']
        for kind, found in kinds.items()
      },
    )
    for split, kinds in by_split.items()
    if kinds
  ]
  try:
    with zipfile.ZipFile(workdir / PREDICTIONS, 'w') as archive:
      for name, array in predictions.items():
        content = io.BytesIO()
        np.lib.format.write_array(content, _narrow(array))
        entry = zipfile.ZipInfo(f'{name}.npy')  # of no date: the same bytes
        entry.compress_type = zipfile.ZIP_DEFLATED
        archive.writestr(entry, content.getvalue())
    if panels:
      Image.fromarray(np.concatenate(panels)).save(workdir / PICTURE)
  except OSError as error:
    raise UserError(
      f'{workdir / PREDICTIONS} cannot be written ({error.strerror}): make '
      'room or mend the permissions, and run the same command again.'
    ) from error


def _narrow(array: np.ndarray) -> np.ndarray:
  is_small = array.dtype.kind in 'iu' and array.size and 0 <= array.min()
  return array.astype(np.uint8) if is_small and array.max() < 256 else array


def read_predictions(path: str | pathlib.Path) -> dict[str, np.ndarray]:
  """The predictions that `write` wrote, to compare models by example.

  Two models that were measured on the same data with the same levels and seed
  have seen the same noise: `bootstrap.metric_samples` of both, subtracted, is
  a paired difference (of questions `bootstrap.mean_samples`).

  Args:
    path: of a `robustness.npz`.

  Returns:
    `levels` float64 [K]; for each split `SPLIT/KIND` [K, N], class ids or
    scores, `SPLIT/labels` and `SPLIT/ids` [N]; for each set outside
    `outside/SET` [1, N], by its own classes, `outside/SET/labels` and
    `outside/SET/ids` [N]. Of questions `SPLIT/KIND` is the F1 of each answer,
    from 0 to 1, `SPLIT/ids` are texts, and there are no labels.

  Raises:
    UserError: no such file, or one that is damaged.
  """
  arrays = {}
  try:
    with zipfile.ZipFile(path) as archive:
      for name in archive.namelist():
        # A plain array or an error: nothing in it is run.
        content = io.BytesIO(archive.read(name))
        arrays[name.removesuffix('.npy')] = np.lib.format.read_array(content)
  except (OSError, ValueError, zipfile.BadZipFile) as error:
    raise UserError(
      f'{path} cannot be read ({error}): measure the model again, in another '
      '--workdir.'
    ) from error
  return arrays


def _row(name: str, numbers: Sequence[str], width: int = 8) -> str:
  return f'{name:19}' + ''.join(f'{number:>{width}}' for number in numbers)


def show(results: dict[str, Any]) -> None:
  """Prints the curves and the sets of `results.json` as tables."""
  noise = results['noise']
  for split, kinds in noise['curves'].items():
    if not kinds:
      continue
    metric = next(iter(kinds.values()))['metric']
    say()
    count = results['examples'][split]
    say(f'{split}: {metric} by level of noise, {count:,} examples')
    say(
      _row('', [f'{x:.0%}' for x in noise['levels']])
      + f'{"AUC":>8}  95 % interval'
    )
    places = 2 if results['task'] == 'squad' else 4  # per cent, or shares
    for kind, found in kinds.items():
      low, high = found['auc_interval']
      numbers = [f'{x:.{places}f}' for x in (*found['values'], found['auc'])]
      say(_row(kind, numbers) + f'  {low:.{places}f} to {high:.{places}f}')
  if results['outside']:
    say()
    say(
      _row('outside', ['metric', '', 'majority', 'examples'], 10)
      + '  95 % interval'
    )
  for name, found in results['outside'].items():
    low, high = found['interval']
    for number, (metric, value) in enumerate(found['metrics'].items()):
      rate = found['majority'] if metric == 'accuracy' else None
      numbers = [
        metric,
        f'{value:.4f}',
        '' if rate is None else f'{rate:.4f}',
        f'{found["examples"]:,}',
      ]
      its = '' if number else f'  {low:.4f} to {high:.4f}'
      say(_row('' if number else name, numbers, 10) + its)
