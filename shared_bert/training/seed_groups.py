"""Which runs of several seeds can go on as one without losing what is saved.

Seeds stand at different steps where they trained one by one for a while, or
where a seed came later than the others.
"""

import dataclasses
import json
import pathlib
from collections.abc import Iterable

from shared_bert.training import step_folders


@dataclasses.dataclass(frozen=True)
class _Stand:
  """How far an unfinished run is.

  Attributes:
    newest: step of its newest checkpoint; 0 without one.
    before: step of the checkpoint before that; 0 without one.
    logged: step of the last line of its log; -1 without a log.
  """

  newest: int
  before: int
  logged: int


def groups_of(workdirs: Iterable[pathlib.Path]) -> list[list[pathlib.Path]]:
  """Runs that stand equally, so that each can go on from its newest step.

  A kill between the saves of seeds that train as one leaves some of them a save
  behind. They stay one, so that they end as if undisturbed, to the bit.

  Args:
    workdirs: of the runs, none of them complete.

  Returns:
    The runs in groups, each to be trained as one.
  """
  order = list(workdirs)
  stands = {workdir: _stand(workdir) for workdir in order}
  by_step: dict[int, list[pathlib.Path]] = {}
  for workdir in order:
    by_step.setdefault(stands[workdir].newest, []).append(workdir)
  groups: list[list[pathlib.Path]] = []
  for _, group in sorted(by_step.items(), reverse=True):
    ahead = groups[-1] if groups else []
    if ahead and _is_a_save_ahead(
      [stands[workdir] for workdir in ahead],
      [stands[workdir] for workdir in group],
    ):
      groups[-1] = sorted([*ahead, *group], key=order.index)
    else:
      groups.append(group)
  return sorted(groups, key=lambda group: order.index(group[0]))


def _is_a_save_ahead(ahead: list[_Stand], behind: list[_Stand]) -> bool:
  """Whether all were killed at once, while those behind were being saved.

  Then all logs end at one step, and it is past the one that was being saved.
  Where this cannot be told, runs go on apart, by which nothing is lost.
  """
  ends = {stand.logged for stand in (*ahead, *behind)}
  saved = max(stand.newest for stand in ahead)
  return (
    len(ends) == 1
    and ends.pop() >= saved
    and all((s.newest, s.before) == (saved, behind[0].newest) for s in ahead)
  )


def _stand(workdir: pathlib.Path) -> _Stand:
  # Damaged ones too: what to do about these is told where they are opened.
  steps = {
    found.step
    for found in step_folders.folders(workdir / 'checkpoints')
    if found.suffix != '.saving'
  }
  newest, before, *_ = [*sorted(steps, reverse=True), 0, 0]
  return _Stand(newest, before, _last_logged(workdir / 'metrics.jsonl'))


def _last_logged(log: pathlib.Path) -> int:
  lines = log.read_bytes().splitlines() if log.is_file() else []
  for line in reversed(lines):
    try:
      return int(json.loads(line)['step'])
    except (ValueError, TypeError, KeyError, RecursionError):
      continue  # the half-written last line of a killed run
  return -1
