"""All that a study has found, as one dict: what its report is made of."""

import dataclasses
import datetime
import pathlib
from collections.abc import Iterable
from typing import Any

from ml_collections import ConfigDict

from shared_bert.study import cells as cells_lib
from shared_bert.study import plan as plan_lib
from shared_bert.study import settings
from shared_bert.study.cells import Cell
from shared_bert.study.records import Records, is_timed, read_cost
from shared_bert.study.work import best_rate
from shared_bert.training.workdir import flatten


def collect(config: ConfigDict, workdir: pathlib.Path) -> dict[str, Any]:
  """Reads the records of a study, whole or half done.

  Args:
    config: of the study, validated.
    workdir: of the study.

  Returns:
    `config` with dotted keys, `claimed` as `settings.claimed` gives it, the
    names of `models` and of the `baseline`, the `plan` in numbers, `cost` as it
    was measured, and the `records`: those of `pretrain` and of `finetune`, the
    latter without tries of a grid that did not do best, which are in `tries`.

  Raises:
    UserError: if a file of the study is damaged.
  """
  records, cells = Records(workdir), cells_lib.cells_of(config)
  cost = read_cost(workdir)
  found = [(cell, records.get(cell.name)) for cell in cells]
  there = [(cell, record) for cell, record in found if record is not None]
  chosen = _chosen(cells, records)
  pretrain = [
    record | {'seed': cell.pretrain_seed}
    for cell, record in there
    if not cell.task
  ]
  finetune, tries = [], []
  for cell, record in there:
    if cell.task:
      is_try = cell.name in chosen and not chosen[cell.name]
      (tries if is_try else finetune).append(
        record | {'selected_rate': cell.name in chosen or bool(cell.grid)}
      )
  made_by = next((r for r in pretrain if 'versions' in r), {})
  return {
    'date': datetime.date.today().isoformat(),
    'config': flatten(config.to_dict()),
    'claimed': settings.claimed(config),
    'versions': made_by.get('versions', {}),
    'hardware': made_by.get('hardware', {}),
    'models': list(config.models),
    'baseline': config.baseline,
    'plan': {
      'cells': len(cells),
      'finished': len(there),
      # Of models that came later there is no time yet.
      'hours': plan_lib.make(config, workdir, cost).hours
      if is_timed(cost, config)
      else None,
      'hours_spent': sum(r.get('seconds', 0.0) for _, r in there)
      / config.workers
      / 3600,
    },
    'cost': _of_models(cost, config.models) or None,
    'pretrain': pretrain,
    'finetune': finetune,
    'tries': tries,
    'records': [record for _, record in there],
  }


def _of_models(cost: dict[str, Any], models: Iterable[str]) -> dict[str, Any]:
  """The part of a cost that is of these models."""
  kept = {m: v for m, v in cost.get('models', {}).items() if m in models}
  # What goes on from the report must not take the others for timed.
  of = {**cost.get('of', {}), 'models': list(kept)}
  return {**cost, 'of': of, 'models': kept} if cost else cost


def _chosen(cells: list[Cell], records: Records) -> dict[str, bool]:
  """Of every try of a grid that is over, whether it did best."""
  grids: dict[tuple, list[Cell]] = {}
  for cell in cells:
    if cell.task:
      key = (cell.model, cell.task, cell.pretrain_seed, cell.seed)
      grids.setdefault(key, []).append(cell)
  chosen = {}
  for tries in grids.values():
    # There may be no other seeds, for which the grid would be.
    names = tuple(cell.name for cell in tries)
    if len(names) > 1 and all(records.get(name) for name in names):
      best = best_rate(dataclasses.replace(tries[0], grid=names), records)
      for name in names:
        rate = (records.get(name) or {}).get('learning_rate')
        # Where all failed there is no best, and none of them has a rate.
        chosen[name] = rate is not None and rate == best
  return chosen
