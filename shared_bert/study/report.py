"""From the findings of a study to a report in Markdown and JSON."""

import dataclasses
import json
import math
import pathlib
from collections.abc import Mapping
from typing import Any

from shared_bert.errors import UserError
from shared_bert.study import families, figures, opening, sections
from shared_bert.study.analysis import Analysis, analyse


def write_report(
  findings: Mapping[str, Any], folder: pathlib.Path
) -> pathlib.Path:
  """Writes `report.md`, `report.json` and `figures/*.png`.

  Any part may be missing, empty or None; the report then says what there is
  not. Without matplotlib there are no figures, and it says how to get them.

  Args:
    findings: a plain dict of
      `config`: dotted keys to values; `versions`: names to versions; `date`;
      `models`: names, such as `shared` or `shared:residual_rank=4`;
      `baseline`: the one that others are compared with;
      `plan`: `cells`, `finished`, `hours`, `hours_spent`;
      `cost`: `hardware`, `load`, `rounds`, and by model in `models`:
        `parameters` by block with `total`, `flops_per_token`, `step_bytes`,
        `joules_per_step`, and for `pretrain` and `finetune` the `seconds` by
        round, `rows` and `seq_len`;
      `pretrain`: records of `model`, `seed`, `steps`, `tokens`, `seconds`,
        `loss` (nats), `accuracy`, `curve` ([step, held-out loss], …),
        `context` (losses `as_is`, `shuffled`, `foreign`, `frequency`) and
        `failed` (why, or None);
      `finetune`: records of `model`, `pretrain_seed`, `task`, `seed`,
        `learning_rate`, `selected_rate` (picked on dev from a grid), `steps`,
        `seconds`, `metrics` by split and name, `collapsed` (splits),
        `majority` and `examples` by split, `robustness` (see
        `scores.robustness_of`) and `failed`;
      `tries`: such records of rates that did not do best on dev.
    folder: made if it is not there.

  Returns:
    The path of `report.md`. `report.json` holds the findings, whatever else is
    in them too, and under `analysis` every number of the report.

  Raises:
    UserError: the folder cannot be written.
  """
  analysis = analyse(findings)
  try:
    folder.mkdir(parents=True, exist_ok=True)
    pictures = figures.draw(analysis, folder)
    for name, text in (
      ('report.json', json_text(analysis)),
      ('report.md', markdown(analysis, pictures)),
    ):
      partial = folder / f'{name}.partial'
      partial.write_text(text, encoding='utf-8')
      partial.replace(folder / name)
    return folder / 'report.md'
  except OSError as error:
    raise UserError(
      f'cannot write the report to {folder} ({error.strerror}): make room or '
      'mend the permissions, and run the same command again.'
    ) from error


def markdown(analysis: Analysis, pictures: figures.Pictures) -> str:
  """The report.

  Args:
    analysis: of the study.
    pictures: from `figures.draw`.
  """
  lines = [
    *opening.head(analysis),
    *opening.summary(analysis),
    *opening.run_and_missing(analysis, pictures),
    *sections.cost(analysis, pictures),
    *sections.pretraining(analysis, pictures),
    *sections.tasks(analysis, pictures),
    *sections.noise(analysis, pictures),
    *sections.outside(analysis),
    *sections.squad(analysis),
    *sections.verdicts(analysis),
    *sections.limits(analysis),
    *sections.again(analysis),
  ]
  return '\n'.join(lines) + '\n'


def json_text(analysis: Analysis) -> str:
  """The findings and every number of the report, as strict JSON."""
  numbers = {
    'models': analysis.models,
    'baseline': analysis.baseline,
    'tasks': analysis.tasks,
    'claims': [
      {
        **dataclasses.asdict(v.claim),
        'verdict': v.verdict,
        'by_the_interval': v.shown,
        'limits': v.limits,
        'sentence': v.sentence,
        'comparison': v.comparison,
      }
      for v in analysis.verdicts
    ],
    'families': families.FAMILIES,
    'comparisons': {
      c.name: dataclasses.asdict(c) for c in analysis.comparisons
    },
    'scores': analysis.cells,
    'splits': analysis.splits,
    'cost': analysis.cost,
    'averages': analysis.averages,
    'pretraining': analysis.pretraining,
    'noise': analysis.noise,
    'noise_tasks': analysis.noise_tasks,
    'outside': {
      f'{task}/{name}': found
      for (task, name), found in analysis.outside.items()
    },
    'missing': analysis.missing,
    'notes': analysis.notes,
  }
  found = _plain({**analysis.findings, 'analysis': numbers})
  return json.dumps(found, indent=1, allow_nan=False) + '\n'


def _plain(value: Any) -> Any:
  """The same of dicts, lists, texts and finite numbers; NaN becomes null."""
  if dataclasses.is_dataclass(value) and not isinstance(value, type):
    return _plain(
      {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
    )
  if isinstance(value, tuple) and hasattr(value, '_asdict'):
    return _plain(value._asdict())
  if isinstance(value, Mapping):
    return {str(key): _plain(one) for key, one in value.items()}
  if isinstance(value, list | tuple):
    return [_plain(one) for one in value]
  if isinstance(value, float) and not math.isfinite(value):
    return None
  if value is None or isinstance(value, bool | int | float | str):
    return value
  return str(value)
