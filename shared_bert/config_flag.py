"""`--config`, which several commands have and absl lets one module define.

They declare it as theirs, `flags.declare_key_flag`, for their help.
"""

from ml_collections import config_flags

CONFIG = config_flags.DEFINE_config_file(
  'config',
  None,
  'Config file, such as configs/mnli.py or configs/glue.py:task=cola; its '
  'keys are set by --config.KEY=VALUE.',
  lock_config=True,
)
