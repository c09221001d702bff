"""`python -m shared_bert.main --config=configs/NAME.py --workdir=DIR`.

Trains what the config describes, or goes on where the workdir stands.
Exit codes: 0 done, 1 the user can mend it, 75 preempted (start me again),
2 a bug of ours.
"""

import pathlib
import sys
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


def _job(config):
  """The function of `config.job`; imported late, for --help's sake."""
  if config.job == 'pretrain':
    from shared_bert.pretrain import pretrain

    return pretrain
  if config.job == 'finetune':
    from shared_bert.finetune import finetune

    return finetune
  from shared_bert.quickstart import quickstart

  return quickstart


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
    _job(config)(config, workdir)
  except UserError as error:
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
