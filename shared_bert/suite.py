"""Several fine-tuning runs as one: all of GLUE, and seeds by list."""

import copy
import pathlib
import statistics
import zipfile
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from shared_bert import config as config_lib
from shared_bert import file_validation
from shared_bert.data.glue import TASKS
from shared_bert.errors import UserError
from shared_bert.finetune import finetune, finetune_together
from shared_bert.training import metrics as metrics_lib
from shared_bert.training import processes
from shared_bert.training import workdir as workdir_lib
from shared_bert.training.logging import say
from shared_bert.training.run import Options

# Tasks that gain from starting at the MNLI model: Liu et al. 2019 (RoBERTa,
# arXiv 1907.11692), section 5.1; Phang et al. 2018 (arXiv 1811.01088).
STARTED_FROM_MNLI = ('rte', 'mrpc', 'stsb')


@workdir_lib.alone_in_workdir
def suite(
  config: ConfigDict, workdir: pathlib.Path, options: Options = Options()
) -> dict[str, Any]:
  """Runs every task and seed, then prints means, spread and GLUE's averages.

  With `seeds_together` the seeds of a task train as one.

  A run that is complete is not repeated, so the same command goes on after a
  stop. Test predictions of the first seed make up `submission.zip`.

  Args:
    config: of `config.finetune_defaults`, with `data.task='all'`, or `seeds`.
    workdir: of the runs: `TASK/seed-N` in it.
    options: of the command.

  Returns:
    What `results.json` holds: by task and seed the metrics, mean and standard
    deviation by task, and the averages by seed.

  Raises:
    UserError: for what the user can mend.
    Preempted: after a signal, once the state of the run is saved.
  """
  workdir_lib.claim_for_several(workdir)
  tasks = config_lib.tasks_of(config)
  # The last task's files are not missed after days of training on the others.
  if config.data.source == 'local':
    file_validation.check_glue(tasks, config.data.glue_dir)
  seeds = list(config.seeds) or [config.seed]
  runs: dict[str, dict[int, dict[str, Any]]] = {task: {} for task in tasks}
  folders = {
    task: {seed: workdir / task / f'seed-{seed}' for seed in seeds}
    for task in tasks
  }
  if config.seeds_together:
    for task in tasks:
      say(f'── {task} ── seeds {", ".join(map(str, seeds))}')
      one = _one(config, task, seeds[0], workdir)
      runs[task] = finetune_together(one, folders[task], options)
  else:
    for seed in seeds:
      for task in tasks:
        say(f'── {task} ── seed {seed}')
        one = _one(config, task, seed, workdir)
        runs[task][seed] = finetune(one, folders[task][seed], options)
  results = {
    'job': 'suite',
    'attention': config.model.attention,
    'seeds': seeds,
    'tasks': {
      task: {
        'metrics': {str(s): run['metrics'] for s, run in by_seed.items()},
        'summary': summarise([run['metrics'] for run in by_seed.values()]),
        'collapsed': {str(s): r['collapsed'] for s, r in by_seed.items()},
        'seconds': sum(run['seconds'] for run in by_seed.values()),
      }
      for task, by_seed in runs.items()
    },
    'averages': {
      str(seed): _averages({t: runs[t][seed]['metrics'] for t in tasks})
      for seed in seeds
    }
    if len(tasks) > 1
    else {},
  }
  files = [
    path
    for task in tasks
    for path in sorted(folders[task][seeds[0]].glob('predictions/*.tsv'))
  ]
  workdir_lib.write_json(workdir / 'results.json', results)
  if options.dry_run:
    return results
  _show(results, workdir)
  if len(tasks) > 1:
    processes.on_first(
      lambda: _write_submission(files, workdir / 'submission.zip', seeds[0])
    )
  return results


def _one(
  config: ConfigDict, task: str, seed: int, workdir: pathlib.Path
) -> ConfigDict:
  """The config of one run: this task, this seed, the task's settings."""
  one = copy.deepcopy(config)
  one.data.task, one.seed, one.seeds = task, seed, ()
  one.seeds_together = False
  if config.get('from_mnli', False):
    if task in STARTED_FROM_MNLI:
      one.init_from = str(workdir.absolute() / 'mnli' / f'seed-{seed}')
    one.from_mnli = False
  return one


def summarise(
  metrics: list[Mapping[str, Mapping[str, float]]],
) -> dict[str, dict[str, dict[str, float]]]:
  """Mean and sample standard deviation over runs.

  Args:
    metrics: of each run, by split, by name.

  Returns:
    By split and name: `mean`, `sd` (0 for a single run) and `runs`.
  """
  return {
    split: {
      name: {
        'mean': statistics.fmean(m[split][name] for m in metrics),
        'sd': statistics.stdev(m[split][name] for m in metrics)
        if len(metrics) > 1
        else 0.0,
        'runs': len(metrics),
      }
      for name in metrics[0][split]
    }
    for split in metrics[0]
  }


def _averages(by_task: Mapping[str, Mapping]) -> dict[str, Any]:
  """GLUE's two averages of one seed, from the dev sets."""
  columns = {}
  for task, metrics in by_task.items():
    for split, values in metrics.items():
      if split in TASKS:  # a borrowed split, such as `ax`, has no column
        continue
      columns[task + split.removeprefix('dev')] = values
  return {
    name: {'value': average.value, 'missing': list(average.missing)}
    for name, average in metrics_lib.glue_average(columns).items()
  }


def _show(results: dict[str, Any], workdir: pathlib.Path) -> None:
  seeds = len(results['seeds'])
  say()
  say(f'{"task":8}{"split":18}{"metric":12}{"mean":>9}{"sd":>9}{"seeds":>7}')
  for task, entry in results['tasks'].items():
    for split, values in entry['summary'].items():
      for name, value in values.items():
        spread = f'{value["sd"]:.4f}' if seeds > 1 else '-'
        say(
          f'{task:8}{split:18}{name:12}{value["mean"]:>9.4f}{spread:>9}'
          f'{value["runs"]:>7}'
        )
    for seed, splits in entry['collapsed'].items():
      if splits:
        say(
          f'{task:8}seed {seed}: {", ".join(splits)} no better than one answer '
          'for all: it cannot tell.'
        )
  for name in ('leaderboard', 'nine_number'):
    averages = [a[name] for a in results['averages'].values()]
    values = [a['value'] for a in averages if a['value'] is not None]
    if values:
      spread = f'{statistics.stdev(values):.4f}' if len(values) > 1 else '-'
      say(
        f'{name.replace("_", "-") + " average of dev sets":38}'
        f'{statistics.fmean(values):>9.4f}{spread:>9}{len(values):>7}'
      )
    elif averages:
      say(
        f'{name.replace("_", "-")} average: not all numbers are there '
        f'({", ".join(averages[0]["missing"])})'
      )
  say()
  say(f'results     {workdir / "results.json"}')


def _write_submission(
  files: list[pathlib.Path], path: pathlib.Path, seed: int
) -> None:
  """Zips the leaderboard's files; says which of them are not there."""
  wanted = {
    file for task in TASKS.values() for file in task.prediction_files.values()
  }
  missing = sorted(wanted - {file.name for file in files})
  if not files:
    say('submission  none: there are no test splits here')
    return
  partial = path.with_suffix('.partial')
  try:
    with zipfile.ZipFile(partial, 'w', zipfile.ZIP_DEFLATED) as archive:
      for file in files:
        archive.write(file, file.name)
    partial.replace(path)
  except OSError as error:
    raise UserError(
      f'cannot write {path} ({error.strerror}): make room or mend the '
      'permissions, and run the same command again.'
    ) from error
  say(
    f'submission  {path} (seed {seed})'
    + (f', without {", ".join(missing)}' if missing else '')
  )
