"""`python -m shared_bert.main --config=configs/NAME.py --workdir=DIR`.

Trains what the config describes, or goes on where the workdir stands.
Exit codes: 0 done, 1 the user can mend it, 75 preempted (start me again),
2 a bug of ours.
"""

import importlib
import pathlib
import sys
import tempfile
from collections.abc import Sequence

from absl import flags

from shared_bert import (
  command_line,
  compilation_cache,
  config_flag,
  file_validation,
  validation,
  workdir_flag,
)
from shared_bert.errors import Preempted

flags.declare_key_flag(config_flag.CONFIG)
flags.declare_key_flag(workdir_flag.WORKDIR)
_DRY_RUN = flags.DEFINE_bool(
  'dry_run',
  False,
  'Say what would run, go through one step of everything, keep nothing.',
)
_PROFILE = flags.DEFINE_string(
  'profile',
  None,
  'START:STOP, the training steps to trace for xprof, counted from 1.',
)


_COORDINATOR = flags.DEFINE_string(
  'coordinator',
  None,
  'HOST:PORT of process 0 of several; on one machine 127.0.0.1:PORT.',
)
_NUM_PROCESSES = flags.DEFINE_integer(
  'num_processes', None, 'How many processes train together.'
)
_PROCESS_ID = flags.DEFINE_integer(
  'process_id', None, 'Which of them this is, from 0.'
)
_DISTRIBUTED = flags.DEFINE_bool(
  'distributed',
  None,
  'Join the processes that Slurm, GKE or Cloud TPU started. Default: where the '
  'environment shows several.',
)


def _job(config):
  """The function of a config's job; imported late, for --help's sake."""
  name = {'eval': 'evaluate'}.get(config.job, config.job)
  if name == 'finetune' and (
    config.seeds or config.data.task == 'all' or ',' in config.data.task
  ):
    name = 'suite'
  return getattr(importlib.import_module(f'shared_bert.{name}'), name)


def _run_job(config, workdir: pathlib.Path) -> None:
  """Runs the job; a dry run in a folder that is thrown away."""
  from shared_bert.training import processes
  from shared_bert.training.run import Options

  options = Options.of_flags(_DRY_RUN.value, _PROFILE.value)
  if not options.dry_run:
    _job(config)(config, workdir, options)
    return
  with tempfile.TemporaryDirectory(prefix='shared_bert_dry_run_') as folder:
    shared = processes.on_first(lambda: folder)
    _job(config)(config, pathlib.Path(shared), options)
  print(
    'dry run: one step of everything went through; nothing was kept. Without '
    f'--dry_run the run is in {workdir}.'
  )


def _command() -> None:
  config, path = command_line.config_of(config_flag.CONFIG)
  command_line.expand_homes(config)
  workdir = workdir_flag.folder(path)
  # Imported late: JAX takes a second, which --help does not have.
  from shared_bert.training import processes

  processes.join(
    _COORDINATOR.value,
    _NUM_PROCESSES.value,
    _PROCESS_ID.value,
    _DISTRIBUTED.value,
  )
  try:
    validation.validate(config)
    # Of several processes some may lack what the first alone reads.
    if processes.count() == 1 and not (workdir / 'results.json').exists():
      file_validation.check_files(config)
    compilation_cache.keep_programs()
    with processes.losses():
      _run_job(config, workdir)
  except (Preempted, KeyboardInterrupt) as error:
    if not _DRY_RUN.value:
      raise
    # Nothing to go on from, whatever the job says.
    if isinstance(error, KeyboardInterrupt):
      raise KeyboardInterrupt('a dry run keeps nothing.') from error
    raise Preempted('stopped; a dry run keeps nothing.') from error


def run(argv: Sequence[str]) -> int:
  """Parses flags, runs the job, turns errors into sentences.

  Args:
    argv: of the process.

  Returns:
    The exit code.
  """
  return command_line.run(_command, argv)


if __name__ == '__main__':
  sys.exit(run(sys.argv))
