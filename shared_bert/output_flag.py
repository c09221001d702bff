"""`--output`, which several commands have and absl lets one module define.

They declare it as theirs, `flags.declare_key_flag`, for their help.
"""

from absl import flags

OUTPUT = flags.DEFINE_string('output', None, 'What to make; not there yet.')
