"""What the cells of a study came to, one JSON file each.

Records are small and whole: a study goes on from them alone, wherever the runs
themselves have gone.
"""

import json
import pathlib
import shutil
from collections.abc import Sequence
from typing import Any

from ml_collections import ConfigDict

from shared_bert import config as config_lib
from shared_bert.data import corpus
from shared_bert.errors import UserError
from shared_bert.study import settings
from shared_bert.study.cells import Cell
from shared_bert.training import workdir as workdir_lib


class Records:
  """The records of a study, by the names of their cells."""

  def __init__(self, workdir: pathlib.Path):
    """Reads nothing yet.

    Args:
      workdir: of the study.
    """
    self._folder = workdir / 'records'
    self._known: dict[str, dict[str, Any]] = {}

  def _path(self, name: str) -> pathlib.Path:
    return self._folder / f'{name}.json'

  def get(self, name: str) -> dict[str, Any] | None:
    """The record of a cell, or None if it is not done.

    Raises:
      UserError: if the file is damaged.
    """
    if name not in self._known:
      path = self._path(name)
      if not path.exists():
        return None
      try:
        self._known[name] = json.loads(path.read_text())
      except (ValueError, OSError) as error:
        raise UserError(
          f'{path} is damaged ({error}): remove it, and the same command does '
          'this cell again.'
        ) from error
    return self._known[name]

  def put(self, cell: Cell, found: dict[str, Any]) -> None:
    """Keeps what a cell came to.

    Args:
      cell: that is done.
      found: as JSON can hold it.

    Raises:
      UserError: if it cannot be written.
    """
    path = self._path(cell.name)
    path.parent.mkdir(parents=True, exist_ok=True)
    record = {
      'cell': cell.name,
      'model': cell.model,
      'pretrain_seed': cell.pretrain_seed,
      'task': cell.task,
      'seed': cell.seed,
      **found,
    }
    workdir_lib.write_json(path, record)
    self._known[cell.name] = record


def to_restore(workdir: pathlib.Path) -> bool:
  """Whether a report is all that a study has.

  Args:
    workdir: of the study.
  """
  return (workdir / 'report.json').exists() and not (
    workdir / 'records'
  ).exists()


def fingerprints_of(pretraining: ConfigDict) -> list[str]:
  """What rows a pre-training reads, in the order of its stages.

  Args:
    pretraining: its settings.

  Returns:
    `fingerprint` of each corpus; none of the toy data, which are always the
    same.

  Raises:
    UserError: if a corpus is not there.
  """
  if not pretraining.data.corpus:
    return []
  folders = config_lib.corpora_of(pretraining)
  return [
    corpus.read_manifest(pathlib.Path(folder))['fingerprint']
    for folder in folders
  ]


def restore(
  workdir: pathlib.Path, claimed: dict[str, Any], corpora: Sequence[str] = ()
) -> int:
  """Takes over the records that an earlier report holds, all or none.

  Args:
    workdir: of the study; with a `report.json` and without records, as where a
      report is all that was kept.
    claimed: `settings.claimed` of this study.
    corpora: `fingerprints_of` its pre-trainings.

  Returns:
    How many records were taken over.

  Raises:
    UserError: if the report is damaged or of a study with other settings, or
      if the records cannot be written.
  """
  if not to_restore(workdir):
    return 0
  path, folder = workdir / 'report.json', workdir / 'records'
  try:
    report = json.loads(path.read_text())
    records, theirs = report['records'], settings.lasting(report['claimed'])
    names = [record['cell'] for record in records]
  except (ValueError, OSError, KeyError, TypeError, AttributeError) as error:
    raise UserError(
      f'{path} is not the report of a study ({error}): move it away.'
    ) from error
  ours = workdir_lib.flatten(claimed)
  # A key that has come since was what it is by default.
  usual = settings.claimed(settings.study_defaults())
  before = workdir_lib.flatten(usual) | workdir_lib.flatten(theirs)
  differing = sorted(
    key
    for key in ours.keys() | before.keys()
    if ours.get(key) != before.get(key)
  )
  if differing:
    raise UserError(
      f'{path} is of a study with another {", ".join(differing[:8])}: use the '
      'same settings to go on with it, or another --workdir.'
    )
  # Fine-tunings have none, nor had earlier versions.
  if any(r.get('corpora', [*corpora]) != [*corpora] for r in records):
    raise UserError(
      f'{path} is of a study on another corpus of the same name: models of two '
      'cannot be compared; use that corpus, or another --workdir.'
    )
  for name in names:
    target = folder / f'{name}.json'
    if not target.resolve().is_relative_to(folder.resolve()):
      raise UserError(f'{path} names a cell {name!r}, which is no cell.')
  if report.get('cost') and not (workdir / 'cost.json').exists():
    workdir_lib.write_json(workdir / 'cost.json', report['cost'])
  # Under their name all at once and last: a part of them would pass for what
  # the study has, and the next report of it would replace this one.
  partial = workdir / 'records.partial'
  if partial.exists():
    shutil.rmtree(partial)
  partial.mkdir()
  for name, record in zip(names, records, strict=True):
    target = partial / f'{name}.json'
    target.parent.mkdir(parents=True, exist_ok=True)
    workdir_lib.write_json(target, record)
  partial.rename(folder)
  return len(names)


def read_cost(workdir: pathlib.Path) -> dict[str, Any]:
  """What `cost.json` of a study holds; empty if nothing was timed yet.

  Raises:
    UserError: if the file is damaged.
  """
  path = workdir / 'cost.json'
  if not path.exists():
    return {}
  try:
    return json.loads(path.read_text())
  except (ValueError, OSError) as error:
    raise UserError(
      f'{path} is damaged ({error}): remove it, and the steps are timed again.'
    ) from error


def is_timed(cost: dict[str, Any], config: ConfigDict) -> bool:
  """Whether a cost is of the models and rows that a study has now.

  It may be of more models and tasks: a part of them is done under its times.

  Args:
    cost: from `read_cost`.
    config: of the study, validated.
  """
  of, now = dict(cost.get('of') or {}), settings.costly(config)
  return all(
    set(now.pop(part)) <= set(of.pop(part, ())) for part in ('models', 'tasks')
  ) and (of == now)
