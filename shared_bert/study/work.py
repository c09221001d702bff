"""A worker of a study: takes cells that nobody works on, and does them."""

import contextlib
import dataclasses
import functools
import json
import pathlib
import shutil
import time
from collections.abc import Iterator
from typing import Any

import jax
from ml_collections import ConfigDict

from shared_bert import config as config_lib
from shared_bert import pretrain as pretrain_lib
from shared_bert import tasks
from shared_bert.data.tokenizer import Tokenizer
from shared_bert.errors import Diverged, InUse
from shared_bert.finetune import finetune, finetune_together
from shared_bert.robustness import robustness
from shared_bert.study import cells as cells_lib
from shared_bert.study import context, scores, settings
from shared_bert.study.cells import Cell
from shared_bert.study.records import Records, fingerprints_of
from shared_bert.training import step_folders
from shared_bert.training import workdir as workdir_lib
from shared_bert.training.checkpoint import open_checkpoint
from shared_bert.training.logging import say

# Held-out rows that are shuffled to see what a model makes of order.
_CONTEXT_ROWS = 1_024
_POLL_SECONDS = 2.0


def work(config: ConfigDict, workdir: pathlib.Path) -> None:
  """Does cells until all are done, by this worker or others.

  Args:
    config: of the study, validated.
    workdir: of the study.

  Raises:
    UserError: for what the user can mend.
    Preempted: after a signal, once the state of the cell is saved.
  """
  records = Records(workdir)
  cells = cells_lib.cells_of(config)
  while left := [cell for cell in cells if records.get(cell.name) is None]:
    ready = [cell for cell in left if _is_ready(cell, records)]
    for cell in ready:
      group = [cell]
      if config.seeds_together:
        group = [other for other in ready if _is_together(cell, other)]
      if _try(group, config, workdir, records):
        break  # the next one in order, which may have become ready
    else:
      time.sleep(_POLL_SECONDS)


def _is_ready(cell: Cell, records: Records) -> bool:
  return all(records.get(name) is not None for name in cell.waits_for)


def _is_together(cell: Cell, other: Cell) -> bool:
  """Whether two cells differ in their seed alone, and are of a small task."""
  same = dataclasses.replace(other, name=cell.name, seed=cell.seed) == cell
  return other == cell or (same and cell.task in settings.SMALL_TASKS)


def _try(
  group: list[Cell],
  config: ConfigDict,
  workdir: pathlib.Path,
  records: Records,
) -> bool:
  """Does cells that no other worker is at; to whether there were any.

  Not those that begin with what another worker is training again: there may be
  others to do in the meantime.
  """
  with contextlib.ExitStack() as stack:
    mine = []
    for cell in group:
      try:
        stack.enter_context(workdir_lib.alone(_lock(workdir, cell.name)))
      except InUse:
        continue
      if records.get(cell.name) is None:
        mine.append(cell)
    if not mine:
      return False
    if mine[0].task and not _why_not(mine[0], records):
      try:
        _make_start(mine[0], config, workdir, records)
      except InUse:
        return False
    say(f'── {", ".join(cell.name for cell in mine)}')
    for cell, found in _do(mine, config, workdir, records):
      records.put(cell, found)
      _clean_up(cell, config, workdir)
  # What was compiled is of models that come no more.
  jax.clear_caches()
  return True


def _lock(workdir: pathlib.Path, name: str) -> pathlib.Path:
  return workdir / 'locks' / name.replace('/', '+')


def _do(
  group: list[Cell],
  config: ConfigDict,
  workdir: pathlib.Path,
  records: Records,
) -> Iterator[tuple[Cell, dict[str, Any]]]:
  """Does cells that differ in their seed alone; to each what it came to."""
  cell = group[0]
  if why := _why_not(cell, records):
    for each in group:
      yield each, {'failed': why}
    return
  if len(group) > 1:
    try:
      _train_together(group, config, workdir, records)
    except Diverged as error:
      say(f'one by one, for {error}')
  # What was trained together is complete by now, and is only measured.
  for each in group:
    try:
      if each.task:
        yield each, _finetune(each, config, workdir, records)
      else:
        yield each, _pretrain(each, config, workdir)
    except Diverged as error:
      yield each, {'failed': str(error)}


def _why_not(cell: Cell, records: Records) -> str:
  """What is missing that a cell needs; empty if nothing is."""
  for name in cell.waits_for:
    if name not in cell.grid and 'failed' in (records.get(name) or {}):
      return f'{name} failed'
  if cell.grid and best_rate(cell, records) is None:
    return (
      'no rate of learning_rates trained to an end: lower them, in another '
      '--workdir'
    )
  return ''


def _train_together(
  group: list[Cell],
  config: ConfigDict,
  workdir: pathlib.Path,
  records: Records,
) -> None:
  its = _settings(group[0], config, workdir, records)
  folders = {cell.seed: workdir / cell.name for cell in group}
  finetune_together(its, folders)


def _pretrain(
  cell: Cell, config: ConfigDict, workdir: pathlib.Path
) -> dict[str, Any]:
  folder = workdir / cell.name
  its = cells_lib.pretrain_config(config, cell)
  results = pretrain_lib.pretrain(its, folder)
  lines = (folder / 'metrics.jsonl').read_text().splitlines()
  rows = [json.loads(line) for line in lines]
  # Of several stages the first one's rows are read from the first step on, and
  # the last one's are those of the end.
  first, *_, split = [*results['metrics'], *results['metrics']]
  return {
    'steps': results['steps'],
    'tokens': _positions(its),
    'corpora': fingerprints_of(its),
    'seconds': results['training_seconds'],
    'loss': results['metrics'][split]['loss'],
    'accuracy': results['metrics'][split]['accuracy'],
    'metrics': results['metrics'],
    'curve': [
      [row['step'], row['loss']] for row in rows if row['split'] == first
    ],
    'curve_of': first,
    'context': context.losses(its, folder, _CONTEXT_ROWS),
    'versions': results['versions'],
    'hardware': results['hardware'],
  }


def _positions(its: ConfigDict) -> int | None:
  """Token positions that a pre-training reads; None where a clock ends it."""
  if its.train.hours is not None:
    return None
  corpora = pretrain_lib.open_corpora(its, None)
  return config_lib.course_of(
    its, [corpus.seq_len for corpus in corpora], len(corpora[0].train)
  ).slots_after(0)


def _make_start(
  cell: Cell, config: ConfigDict, workdir: pathlib.Path, records: Records
) -> None:
  """Trains again what a cell begins with, where only its record was kept.

  Raises:
    InUse: if another worker is at it.
  """
  its = cells_lib.finetune_config(config, cell, workdir, None)
  start = pathlib.Path(its.init_from)
  name = str(start.relative_to(workdir.absolute()))
  before = next(c for c in cells_lib.cells_of(config) if c.name == name)
  if _is_kept(start):
    return
  with workdir_lib.alone(_lock(workdir, name)):
    if not _is_kept(start):
      say(f'{name} is done, and its checkpoint is gone: once more')
      _train_again(before, config, workdir, records)


def _is_kept(start: pathlib.Path) -> bool:
  """Whether a run is complete and has a checkpoint to begin with."""
  checkpoints = step_folders.published(start / 'checkpoints')
  return (start / 'results.json').exists() and bool(checkpoints)


def _train_again(
  cell: Cell, config: ConfigDict, workdir: pathlib.Path, records: Records
) -> None:
  """Trains what a cell has a record of, and what it begins with, if need be."""
  folder = workdir / cell.name
  # Where these are, a run has nothing to do.
  (folder / 'results.json').unlink(missing_ok=True)
  if cell.task:
    _make_start(cell, config, workdir, records)
    finetune(_settings(cell, config, workdir, records), folder)
  else:
    pretrain_lib.pretrain(cells_lib.pretrain_config(config, cell), folder)


def _finetune(
  cell: Cell, config: ConfigDict, workdir: pathlib.Path, records: Records
) -> dict[str, Any]:
  folder = workdir / cell.name
  its = _settings(cell, config, workdir, records)
  results = finetune(its, folder)
  found = {
    'learning_rate': its.train.learning_rate,
    'steps': results['steps'],
    'seconds': results['training_seconds'],
    'metrics': results['metrics'],
    # SQuAD has no classes, of which one could be the commonest.
    'collapsed': results.get('collapsed', []),
    'majority': results.get('majority', {}),
    'examples': results['examples'],
  }
  if not settings.measures_robustness(config, cell.task):
    return found
  measured = robustness(
    cells_lib.robustness_config(config, cell, workdir), folder / 'robustness'
  )
  kept = {key: measured[key] for key in ('noise', 'outside', 'seconds')}
  return found | {'robustness': kept}


def _settings(
  cell: Cell, config: ConfigDict, workdir: pathlib.Path, records: Records
) -> ConfigDict:
  """Of a fine-tuning, its steps and its learning rate among them."""
  rate = best_rate(cell, records)
  its = cells_lib.finetune_config(config, cell, workdir, rate)
  cells_lib.bound(its, config.max_updates, _num_rows(its))
  return its


def best_rate(cell: Cell, records: Records) -> float | None:
  """The learning rate of a cell's grid that did best on dev.

  Args:
    cell: that waits for the grid, which is over.
    records: of the study.

  Returns:
    The rate; None without a grid, or if none of its rates trained to an end.
  """
  best: dict[float, float] = {}
  for name in cell.grid:
    record = records.get(name) or {}
    columns = scores.columns_of(cell.task, record.get('metrics', {}))
    if columns:  # of MNLI the matched set
      best[record['learning_rate']] = next(iter(columns.values()))
  return max(best, key=lambda rate: best[rate]) if best else None


def _num_rows(its: ConfigDict) -> int:
  """Training rows of a fine-tuning's task."""
  return _rows_of_task(its.data.to_json(), its.init_from)


@functools.cache
def _rows_of_task(data: str, start: str) -> int:
  """By the `data` keys as JSON, and a run with the vocabulary."""
  keys = ConfigDict(json.loads(data))
  tokenizer = Tokenizer.load(open_checkpoint(start).path)
  rows = tasks.load(keys).training_rows(tokenizer, keys.seq_len)
  assert rows is not None  # the tokenizer is known
  return rows


def _clean_up(cell: Cell, config: ConfigDict, workdir: pathlib.Path) -> None:
  """Removes the checkpoints of a fine-tuned model, if that is asked for."""
  if config.keep_checkpoints or cells_lib.is_started_from(config, cell):
    return
  shutil.rmtree(workdir / cell.name / 'checkpoints', ignore_errors=True)
