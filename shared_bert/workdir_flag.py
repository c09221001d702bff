"""`--workdir`, which several commands have and absl lets one module define.

They declare it as theirs, `flags.declare_key_flag`, for their help.
"""

import pathlib

from absl import flags

from shared_bert import command_line

WORKDIR = flags.DEFINE_string(
  'workdir',
  None,
  'Folder of the run: checkpoints, metrics, results. A run is resumed by the '
  'same command. Default: runs/ and the name of the config.',
)


def folder(config_path: str) -> pathlib.Path:
  """The folder that the flag names, or that of a config without it.

  Args:
    config_path: of the config's file.
  """
  named = command_line.expand_home(WORKDIR.value or '')
  return pathlib.Path(named or f'runs/{pathlib.Path(config_path).stem}')
