"""`--checkpoint`, which several commands have and absl lets one module define.

They declare it as theirs, `flags.declare_key_flag`, for their help.
"""

from absl import flags

CHECKPOINT = flags.DEFINE_string(
  'checkpoint',
  None,
  'A workdir, its checkpoints or that of a step; or a BERT of others.',
)
