"""`python -m shared_bert.main --config=configs/NAME.py --workdir=DIR`.

Trains what the config describes, or goes on where the workdir stands.
Exit codes: 0 done, 1 the user can mend it, 75 preempted (start me again),
2 a bug of ours.
"""

import importlib
import pathlib
import sys
import tempfile
import traceback

from absl import flags
from ml_collections import config_flags

from shared_bert import config as config_lib
from shared_bert.errors import Preempted, UserError

_CONFIG = config_flags.DEFINE_config_file(
  'config',
  None,
  'Config file, such as configs/mnli.py or configs/glue.py:task=cola; its '
  'keys are set by --config.KEY=VALUE.',
  lock_config=True,
)
_WORKDIR = flags.DEFINE_string(
  'workdir',
  None,
  'Folder of the run: checkpoints, metrics, results. A run is resumed by the '
  'same command. Default: runs/ and the name of the config.',
)


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


_VERBOSE = flags.DEFINE_bool(
  'verbose', False, 'Show the traceback of every error.'
)


def _job(config):
  """The function of a config's job; imported late, for --help's sake."""
  name = {'eval': 'evaluate'}.get(config.job, config.job)
  if name == 'finetune' and (config.seeds or config.data.task == 'all'):
    name = 'suite'
  return getattr(importlib.import_module(f'shared_bert.{name}'), name)


def _run_job(config, workdir: pathlib.Path) -> None:
  """Runs the job; a dry run in a folder that is thrown away."""
  from shared_bert.training.run import Options

  options = Options.of_flags(_DRY_RUN.value, _PROFILE.value)
  if not options.dry_run:
    _job(config)(config, workdir, options)
    return
  with tempfile.TemporaryDirectory(prefix='shared_bert_dry_run_') as folder:
    _job(config)(config, pathlib.Path(folder), options)
  print(
    'dry run: one step of everything went through; nothing was kept. Without '
    f'--dry_run the run is in {workdir}.'
  )


def run(argv: list[str]) -> int:
  """Parses flags, runs the job, turns errors into sentences.

  Args:
    argv: of the process.

  Returns:
    The exit code.
  """
  try:
    rest = flags.FLAGS(argv)
  except (
    flags.Error,
    UserError,
    KeyError,
    AttributeError,
    TypeError,
    ValueError,
    FileNotFoundError,
  ) as error:
    text = error.args[0] if isinstance(error, KeyError) else error
    print(f'error: {text}', file=sys.stderr)
    return 1
  try:
    if len(rest) > 1:
      raise UserError(f'{rest[1]!r} is not a flag: --config=… --workdir=…')
    if _CONFIG.value is None:
      raise UserError('name a config: --config=configs/quickstart.py')
    named = config_flags.get_config_filename(flags.FLAGS['config'])
    path = pathlib.Path(named.partition(':')[0])
    if not path.is_file():
      raise UserError(f'there is no config {path}: see the folder configs.')
    config = _CONFIG.value
    config_lib.validate(config)
    workdir = pathlib.Path(_WORKDIR.value or pathlib.Path('runs') / path.stem)
    _run_job(config, workdir)
  except UserError as error:
    if _VERBOSE.value:
      traceback.print_exc()
    print(f'error: {error}', file=sys.stderr)
    return 1
  except Preempted as error:
    print(error, file=sys.stderr)
    return 75
  except Exception:
    traceback.print_exc()
    print('error: this is a bug of shared_bert, not of yours.', file=sys.stderr)
    return 2
  return 0


if __name__ == '__main__':
  sys.exit(run(sys.argv))
