r"""Says what a run would be and what it would cost; needs no device.

  python -m shared_bert.plan --config=configs/pretrain.py:size=base \
    --mesh=data=8 --device=H100 --memory=80

Parameters and FLOPs of all six mechanisms, memory of a device, steps, learning
rate, hours. It refuses what the run would refuse. Without data.corpus it plans
by data.seq_len and data.vocab_size; nothing is prepared, fetched or written.
"""

import sys
from collections.abc import Sequence

from absl import flags

from shared_bert import (
  command_line,
  config_flag,
  train_validation,
  validation,
)
from shared_bert.errors import UserError

flags.declare_key_flag(config_flag.CONFIG)
_MESH = flags.DEFINE_string(
  'mesh', 'data=1', 'Devices to plan for, by axis, such as data=2,fsdp=4.'
)
_MEMORY = flags.DEFINE_float(
  'memory', None, 'GB (1e9 bytes) of a device; refuses what does not fit.'
)
_DEVICE = flags.DEFINE_string(
  'device', None, 'Such as H100, A100 or TPU v4, to count hours for.'
)
_UTILISATION = flags.DEFINE_float(
  'utilisation',
  None,
  'Share of its bfloat16 peak that a device keeps up. Default: 0.4, assumed.',
)
_TFLOPS = flags.DEFINE_float(
  'tflops',
  None,
  'Or what one device was measured to do, teraflops_per_second of a run '
  'divided by its devices.',
)
_AXES = ('data', 'fsdp')


def axes_of(text: str) -> dict[str, int]:
  """The sizes of a mesh's axes.

  Args:
    text: such as `data=8,fsdp=1`.

  Raises:
    UserError: for what names no mesh.
  """
  axes: dict[str, int] = {}
  for item in text.split(','):
    name, _, size = item.strip().partition('=')
    if (
      name not in _AXES
      or name in axes
      or not (size.isascii() and size.isdecimal() and len(size) < 8)
      or not 1 <= int(size) <= 10**6
    ):
      raise UserError(
        f'--mesh={text}: {item!r} is not an axis with its devices: write '
        'data=8, from 1 to 1000000 of them, and name an axis once.'
      )
    axes[name] = int(size)
  return axes


def _command() -> None:
  config, path = command_line.config_of(config_flag.CONFIG)
  command_line.expand_homes(config)
  axes = axes_of(_MESH.value)
  memory = _MEMORY.value
  if memory is not None and not 0 < memory < float('inf'):
    raise UserError(f'--memory={memory:g} must be above 0 and finite.')

  validation.validate(config, needs_data=False)
  # Imported late, for --help's sake.
  from shared_bert.planning import course as course_lib
  from shared_bert.planning import report

  rates, meant = course_lib.speeds(
    _DEVICE.value, _TFLOPS.value, _UTILISATION.value
  )
  num_devices = axes.get('data', 1) * axes.get('fsdp', 1)
  if config.job in ('pretrain', 'finetune'):
    train_validation.check_shares(config, num_devices)
    if 'fsdp' in axes:
      config.mesh.fsdp = str(axes['fsdp'])
  report.show(config, path, num_devices, memory, rates, meant)


def run(argv: Sequence[str]) -> int:
  """The command; see the top of the file.

  Args:
    argv: of the process.

  Returns:
    The exit code.
  """
  return command_line.run(_command, argv, resumes=False)


if __name__ == '__main__':
  sys.exit(run(sys.argv))
