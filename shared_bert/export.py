r"""Writes a trained model for other tools.

  python -m shared_bert.export --checkpoint=runs/mnli --output=mnli-hf

--format=hf (the default) is a folder of an unmodified Hugging Face BERT, which
transformers and sentence-transformers load without code of ours. A shared layer
is exactly a standard one, so its numbers are the same. --format=stablehlo is
one program for CPU, CUDA and TPU, with its parameters beside it: JAX runs it.
--format=onnx is one for ONNX Runtime and others (the extra `onnx`).
"""

import os
import pathlib
import shutil
import sys
from collections.abc import Sequence

from absl import flags

from shared_bert import command_line
from shared_bert.checkpoint_flag import CHECKPOINT
from shared_bert.errors import UserError
from shared_bert.output_flag import OUTPUT

flags.declare_key_flag(CHECKPOINT)
flags.declare_key_flag(OUTPUT)
_FORMAT = flags.DEFINE_enum(
  'format',
  'hf',
  ['hf', 'stablehlo', 'onnx'],
  "Hugging Face's BERT, or a program.",
)


def _command() -> None:
  checkpoint, name = CHECKPOINT.value, OUTPUT.value
  if not checkpoint or not name:
    raise UserError(
      f'--{"output" if checkpoint else "checkpoint"} is not set: '
      'python -m shared_bert.export --checkpoint=runs/mnli --output=mnli-hf'
    )
  output = pathlib.Path(command_line.expand_home(name)).absolute()
  if output.exists() and (not output.is_dir() or any(output.iterdir())):
    raise UserError(
      f'--output={output} is there already: name another folder, or remove it.'
    )
  # Imported late, for --help's sake.
  from shared_bert.interop import huggingface, onnx, stablehlo
  from shared_bert.interop.opening import open_model
  from shared_bert.model import parameters
  from shared_bert.training.logging import say

  writers = {'hf': huggingface, 'stablehlo': stablehlo, 'onnx': onnx}
  saved = open_model(command_line.expand_home(checkpoint))
  # Whole or not there at all.
  partial = output.with_name(f'.{output.name}.{os.getpid()}.partial')
  partial.mkdir(parents=True)
  try:
    writers[_FORMAT.value].write(saved, partial)
    if output.exists():
      output.rmdir()
    partial.rename(output)
  finally:
    shutil.rmtree(partial, ignore_errors=True)
  files = ', '.join(sorted(p.name for p in output.iterdir()))
  say(
    f'{saved.path}: {saved.config.attention} attention, '
    f'{parameters.count(saved.params):,} parameters\n'
    f'{output}: {files}'
  )


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
