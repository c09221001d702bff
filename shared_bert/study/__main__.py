r"""Compares attention mechanisms: pre-trains, fine-tunes, measures, reports.

  python -m shared_bert.study --config=configs/study.py --workdir=runs/study

Every cell (a mechanism, a pre-training seed, a task, a fine-tuning seed) is a
run in a folder of its own. The plan with its hours is printed first. The same
command goes on after a stop, repeats nothing, and at the end writes report.md
and report.json. With `--config.workers=N` cells run N at a time.
"""

import contextlib
import copy
import pathlib
import sys
from collections.abc import Sequence

from absl import flags

from shared_bert import (
  command_line,
  config_flag,
  file_validation,
  workdir_flag,
)
from shared_bert.study import settings
from shared_bert.training import stopping
from shared_bert.training import workdir as workdir_lib

flags.declare_key_flag(config_flag.CONFIG)
flags.declare_key_flag(workdir_flag.WORKDIR)
_PLAN = flags.DEFINE_bool(
  'plan', False, 'Print the plan and end. Steps are timed for it, once.'
)
_REPORT = flags.DEFINE_bool(
  'report', False, 'Write the report of what is there, and end.'
)
# Of the processes that this one starts; not for people, so not in the help.
_PART = flags.DEFINE_string('part', None, '', module_name='shared_bert.study')


def _command() -> None:
  config, path = command_line.config_of(config_flag.CONFIG)
  command_line.expand_homes(config)
  workdir = workdir_flag.folder(path)
  settings.validate(config)
  if _PART.value:
    _do_part(_PART.value, config, workdir)
    return
  _check_files(config)
  if not _REPORT.value:  # which reads none of them
    _check_outside(config)
  # One may look while the study is under way.
  looks = _only_looks(config, workdir)
  with contextlib.nullcontext() if looks else workdir_lib.alone(workdir):
    _conduct(config, workdir)


def _only_looks(config, workdir: pathlib.Path) -> bool:
  """Whether nothing is left to be made for what was asked for."""
  from shared_bert.study import records

  if not workdir.exists() or records.to_restore(workdir):
    return False
  if _REPORT.value:
    return True
  return _PLAN.value and records.is_timed(records.read_cost(workdir), config)


def _check_files(config) -> None:
  """Refuses a study whose last task's files are missing, before its first."""
  file_validation.check_files(config.pretrain)
  if tasks := settings.glue_tasks(config):
    finetune = copy.deepcopy(config.finetune)
    finetune.data.task = ','.join(tasks)
    file_validation.check_files(finetune)
  for task in set(config.tasks) & set(settings.SQUAD):
    file_validation.check_files(config[task])


def _check_outside(config) -> None:
  """Reads the sets and files of other domains, which come last in a study."""
  outside = config.robustness.outside
  if not (outside.dir or outside.files):
    return
  from shared_bert import robustness
  from shared_bert.data.glue_tasks import TASKS

  for task in settings.glue_tasks(config):
    its = settings.robustness_of(config, task)
    robustness.outside_sets(its, TASKS[task])


def _do_part(part, config, workdir: pathlib.Path) -> None:
  """What a process that the study started is for."""
  stopping.follow_parent()
  from shared_bert import compilation_cache
  from shared_bert.study import cost, work

  compilation_cache.keep_programs()
  if part == 'cost':
    found = {'of': settings.costly(config), **cost.measure(config)}
    workdir_lib.write_json(workdir / 'cost.json', found)
  else:
    work.work(config, workdir)


def _conduct(config, workdir: pathlib.Path) -> None:
  """The study from its plan to its report."""
  # Imported late, for --help's sake.
  from shared_bert.study import conductor, findings, plan, records

  claimed = settings.claimed(config)
  if not _PLAN.value:  # settings may be tried in plans
    usual = settings.claimed(settings.study_defaults())
    workdir_lib.claim(workdir, claimed, usual)
  corpora = records.fingerprints_of(config.pretrain)
  if restored := records.restore(workdir, claimed, corpora):
    print(f'{restored} cells are taken over from {workdir / "report.json"}')
  if not _REPORT.value:
    cost = records.read_cost(workdir)
    if not records.is_timed(cost, config):
      print('timing the steps of all models, for minutes …', flush=True)
      conductor.run_parts(['cost'], workdir, on_change=lambda: None)
      cost = records.read_cost(workdir)
    planned = plan.make(config, workdir, cost)
    print(plan.shown(planned, config, cost), flush=True)
    if _PLAN.value:
      return
    conductor.work(planned, config, workdir)
  from shared_bert.study import report

  found = findings.collect(config, workdir)
  print(f'report      {report.write_report(found, workdir)}')


def run(argv: Sequence[str]) -> int:
  """The command; see the top of the file.

  Args:
    argv: of the process.

  Returns:
    The exit code.
  """
  return command_line.run(_command, argv)


if __name__ == '__main__':
  sys.exit(run(sys.argv))
