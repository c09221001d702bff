"""The folder of a run: what it is of, and whether it is done."""

import json
import os
import pathlib
from typing import Any

from shared_bert.errors import UserError

# Keys that may differ between the parts of one run: they change how it is
# watched, kept or spread over devices, not what is computed.
FREE_KEYS = (
  'workdir',
  'train.log_every',
  'train.checkpoint_every',
  'train.keep_checkpoints',
  'tensorboard',
)


def write_json(path: pathlib.Path, value: Any) -> None:
  """Writes a JSON file whole or not at all."""
  temporary = path.with_name(f'.{path.name}.{os.getpid()}.tmp')
  temporary.write_text(json.dumps(value, indent=2, allow_nan=True) + '\n')
  os.replace(temporary, path)


def read_json(path: pathlib.Path) -> Any:
  """Reads a JSON file.

  Raises:
    UserError: if it is not JSON.
  """
  try:
    return json.loads(path.read_text())
  except (ValueError, UnicodeDecodeError) as error:
    raise UserError(
      f'{path} is not readable as JSON ({error}): restore it, or start in '
      'another --workdir.'
    ) from error


def flatten(config: dict, prefix: str = '') -> dict[str, Any]:
  """Nested dicts as one dict with dotted keys; tuples as lists."""
  flat = {}
  for key, value in config.items():
    if isinstance(value, dict):
      flat |= flatten(value, f'{prefix}{key}.')
    else:
      flat[prefix + key] = list(value) if isinstance(value, tuple) else value
  return flat


def _has_something(workdir: pathlib.Path) -> bool:
  """Whether a run has got as far as to leave something behind."""
  names = ('checkpoints', 'metrics.jsonl', 'results.json', 'vocabulary')
  return any((workdir / name).exists() for name in names)


def claim(workdir: pathlib.Path, config: dict) -> dict | None:
  """Makes the folder of a run, or recognises it as this run's own.

  Args:
    workdir: the folder; made if it is not there.
    config: plain nested dict.

  Returns:
    The results of the run if it is complete, else None.

  Raises:
    UserError: if the folder cannot be made or holds another run; the message
      names the keys that differ.
  """
  try:
    workdir.mkdir(parents=True, exist_ok=True)
    probe = workdir / f'.writable.{os.getpid()}'
    probe.touch()
    probe.unlink()
  except (FileExistsError, NotADirectoryError) as error:
    raise UserError(
      f'--workdir={workdir} needs a folder and there is a file: choose '
      'another place.'
    ) from error
  except OSError as error:
    raise UserError(
      f'--workdir={workdir} cannot be written ({error.strerror}): choose '
      'another place or mend its permissions.'
    ) from error
  known = workdir / 'config.json'
  # A run that failed before it had anything to save binds nobody.
  if known.exists() and _has_something(workdir):
    before, now = flatten(read_json(known)), flatten(config)
    differing = sorted(
      key
      for key in before.keys() | now.keys()
      if key not in FREE_KEYS and before.get(key) != now.get(key)
    )
    if differing:
      lines = '; '.join(
        f'{key} was {before.get(key)!r}, is {now.get(key)!r}'
        for key in differing
      )
      raise UserError(
        f'{workdir} holds another run: {lines}. Use another --workdir, or '
        'the same settings to go on with it.'
      )
  elif _has_something(workdir):
    raise UserError(
      f'{workdir} holds results but no config.json to tell what of: use '
      'another --workdir.'
    )
  write_json(known, config)
  results = workdir / 'results.json'
  return read_json(results) if results.exists() else None
