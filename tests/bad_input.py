"""What the tests of bad input share: flags of tiny jobs, what a refusal is."""

import pathlib
import runpy

from shared_bert.training.workdir import flatten
from tests.tiny_jobs import finetune_config

ROOT = pathlib.Path(__file__).parents[1]


def flags_of(name, config):
  """Flags that make `configs/NAME.py` this config.

  Args:
    name: of the file.
    config: of the same keys.

  Returns:
    A list, `--config=…` first.
  """
  path = ROOT / 'configs' / f'{name}.py'
  usual = flatten(runpy.run_path(str(path))['get_config']().to_dict())
  return [
    f'--config={path}',
    *(
      f'--config.{key}={tuple(value) if isinstance(value, list) else value}'
      for key, value in flatten(config.to_dict()).items()
      if value != usual[key] and value is not None
    ),
  ]


def cola_flags(glue, pretrained):
  """Flags of a run of two steps on CoLA.

  Args:
    glue: the folder of GLUE.
    pretrained: the workdir to start from.
  """
  return flags_of('cola', finetune_config('cola', glue, pretrained))


def flipped(path):
  """Flips one bit in the middle of a file."""
  data = bytearray(path.read_bytes())
  data[len(data) // 2] ^= 1
  path.write_bytes(data)


def snapshot(folder):
  """The bytes of every file under a folder; locks say nothing."""
  return {
    path: path.read_bytes()
    for path in sorted(folder.rglob('*'))
    if path.is_file() and path.name != '.lock'
  }


def assert_refused(done, words, planned=False):
  """Exit code 1, one clear sentence, and nothing begun.

  Args:
    done: of `CommandServer.run`.
    words: that the sentence must have: what, where and the mend.
    planned: whether the plan may have been printed before, which it is where
      the fault shows only after that.
  """
  assert done.code == 1, done.err
  assert 'Traceback' not in done.err
  lines = done.err.strip().splitlines()
  assert len(lines) <= 3, done.err
  assert lines[-1].startswith('error: ')
  for word in words:
    assert word in lines[-1]
  assert planned or not any(
    line.startswith('steps ') for line in done.out.splitlines()
  )
