"""The folder of a run: what it is of, whether it is done, who works in it."""

import contextlib
import errno
import fcntl
import functools
import json
import os
import pathlib
import platform
import re
from collections.abc import Callable, Iterator
from typing import Any

from shared_bert.errors import InUse, UserError
from shared_bert.training import processes

# Keys that may differ between the parts of one run: they change how it is
# watched, kept, spread over devices or carried out, not what is computed.
FREE_KEYS = (
  'workdir',
  'train.log_every',
  'train.checkpoint_every',
  'train.keep_checkpoints',
  'tensorboard',
  'mesh.fsdp',
  'model.attention_backend',
  'data.packing',
  'seeds_together',
)
# Commands take the models of others where they take checkpoints.
ACCEPTED = (
  'name a workdir, its checkpoints folder or the folder of one step; or a BERT '
  'of others: a folder with config.json, model.safetensors and a vocabulary, '
  'or a checkpoint of google-research/bert'
)
# NAME or OWNER/NAME of Hugging Face's hub.
_HUB_NAME = re.compile(r'(?:([\w-][\w.-]*)/)?([\w-][\w.-]*)', re.ASCII)
_RESTORE = (
  'restore it, or start in another --workdir; nothing else there was touched'
)
# How many of the keys that differ a message names.
_NAMED = 8


def write_json(path: pathlib.Path, value: Any) -> None:
  """Writes a JSON file whole or not at all; of several processes, one does.

  Raises:
    UserError: if the file system refuses.
  """
  processes.on_first(lambda: _write_json(path, value))


def _write_json(path: pathlib.Path, value: Any) -> None:
  temporary = path.with_name(f'.{path.name}.{os.getpid()}.tmp')
  try:
    temporary.write_text(json.dumps(value, indent=2, allow_nan=True) + '\n')
    os.replace(temporary, path)
  except OSError as error:
    with contextlib.suppress(OSError):
      temporary.unlink()
    raise UserError(
      f'{path} cannot be written ({error.strerror}): make room or mend the '
      'permissions, and run the same command again.'
    ) from error


def _read_json(
  path: pathlib.Path, mend: str, is_fine: Callable[[Any], bool] = bool
) -> dict:
  """Reads a JSON object.

  Args:
    path: the file.
    mend: what to do if it is not what was written.
    is_fine: whether a dict is what was written.

  Raises:
    UserError: if it is not what was written.
  """
  try:
    value = json.loads(path.read_text())
    if not isinstance(value, dict) or not is_fine(value):
      raise ValueError('not what was written')
  except (ValueError, OSError, RecursionError) as error:
    raise UserError(f'{path} is damaged ({error}): {mend}.') from error
  return value


def _is_number(value: Any) -> bool:
  return isinstance(value, int | float) and not isinstance(value, bool)


def _is_metrics(value: Any) -> bool:
  return isinstance(value, dict) and all(map(_is_number, value.values()))


def _are_results(value: dict, job: str) -> bool:
  """Whether this is what a run of a job writes once it is complete."""
  best, splits = value.get('best'), value.get('metrics')
  return (
    value.get('job') == job
    and _is_number(value.get('seconds'))
    and isinstance(splits, dict)
    and bool(splits)
    and all(map(_is_metrics, splits.values()))
    and _is_metrics(value.get('majority', {}))
    and isinstance(value.get('collapsed', []), list)
    and set(value.get('collapsed', [])) <= splits.keys()
    and (
      best is None
      or isinstance(best, dict)
      and _is_number(best.get('step'))
      and _is_metrics(best.get('metrics'))
    )
  )


def flatten(config: dict, prefix: str = '') -> dict[str, Any]:
  """Nested dicts as one dict with dotted keys; tuples as lists."""
  flat = {}
  for key, value in config.items():
    if isinstance(value, dict):
      flat |= flatten(value, f'{prefix}{key}.')
    else:
      flat[prefix + key] = list(value) if isinstance(value, tuple) else value
  return flat


def _make(workdir: pathlib.Path) -> None:
  """Makes the folder of a run, and sees that it can be written.

  Raises:
    UserError: if it cannot.
  """
  for path in (workdir, *workdir.parents):
    if path.is_symlink() and not path.exists():
      raise UserError(
        f'--workdir={workdir}: {path} is a broken link: mend or remove it, or '
        'choose another place.'
      )
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


@contextlib.contextmanager
def alone(workdir: pathlib.Path) -> Iterator[None]:
  """Holds a folder, so that a second run in it is refused.

  The lock ends with the process, however that ends; what `.lock` says is only
  to be told. A file system without locks has none.

  Args:
    workdir: the folder; made if it is not there.

  Raises:
    InUse: if another run holds it.
    UserError: if it cannot be made or written.
  """
  _make(workdir)
  file = os.open(workdir / '.lock', os.O_RDWR | os.O_CREAT)
  try:
    try:
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
      if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
        holder = os.read(file, 1000).decode() or 'another process'
        raise InUse(
          f'{workdir} is in use by {holder}: wait for it to end, or use '
          'another --workdir.'
        ) from None
    with contextlib.suppress(OSError):  # a full disk shows elsewhere
      os.truncate(file, 0)
      os.write(file, f'process {os.getpid()} on {platform.node()}'.encode())
    yield
  finally:
    os.close(file)


def alone_in_workdir(job: Callable[..., Any]) -> Callable[..., Any]:
  """Makes a job hold its workdir while it runs.

  Args:
    job: `job(config, workdir, options)`.

  Returns:
    The same, which raises `UserError` where another run holds the folder.
  """

  @functools.wraps(job)
  def held(config: Any, workdir: pathlib.Path, *rest: Any, **named: Any) -> Any:
    with contextlib.ExitStack() as held_by_first:
      processes.on_first(lambda: held_by_first.enter_context(alone(workdir)))
      return job(config, workdir, *rest, **named)

  return held


def _has_begun(workdir: pathlib.Path) -> bool:
  """Whether a folder holds more than the settings of a run."""
  return any(
    path.name != 'config.json' and not path.name.startswith('.')
    for path in workdir.iterdir()
  )


def begun_with(workdir: pathlib.Path, key: str, absent: Any, new: Any) -> Any:
  """What a setting is in the run of a folder.

  Args:
    workdir: of the run, there already.
    key: with dots, such as `data.packing`.
    absent: what runs did before there was the key.
    new: for a run that has not begun.

  Raises:
    UserError: if the settings of the run are damaged.
  """

  def find() -> Any:
    known = workdir / 'config.json'
    if not known.exists() or not _has_begun(workdir):
      return new
    return flatten(_read_json(known, _RESTORE)).get(key, absent)

  return processes.on_first(find)


def checkpoint_folder(path: str | os.PathLike[str]) -> pathlib.Path:
  """Where a checkpoint is to be looked for.

  Args:
    path: of a workdir, its checkpoints folder or the folder of one step.

  Returns:
    The same, absolute.

  Raises:
    UserError: if it is no folder.
  """
  folder = pathlib.Path(path).absolute()
  if folder.is_file():
    raise UserError(f'the checkpoint {folder} is a file: {ACCEPTED}.')
  if not folder.is_dir():
    raise UserError(
      f'the checkpoint {folder} is not there: {ACCEPTED}.{_fetched(str(path))}'
    )
  return folder


def _fetched(named: str) -> str:
  """How what may be meant for a model of Hugging Face's hub is fetched."""
  found = _HUB_NAME.fullmatch(named)
  if not found or (found[1] and pathlib.Path(found[1]).exists()):
    return ''
  return (
    ' Nothing is downloaded here: if that is a name on the Hugging Face hub, '
    f'`hf download {named} --local-dir {found[2]}` fetches it, and its name '
    f'here is ./{found[2]}.'
  )


def claim_for_several(workdir: pathlib.Path) -> None:
  """Refuses the folder of a single run, whose results would be written over.

  Args:
    workdir: of several runs, each in a folder in it.

  Raises:
    UserError: if it holds a single run.
  """
  processes.on_first(lambda: _claim_for_several(workdir))


def _claim_for_several(workdir: pathlib.Path) -> None:
  known = workdir / 'config.json'
  if known.exists() and _has_begun(workdir):
    raise UserError(
      f'{workdir} holds a single run, and this is several: use another '
      '--workdir.'
    )
  known.unlink(missing_ok=True)


def _meant(key: str, value: Any) -> Any:
  """A value to compare: a checkpoint is the same however its path is typed."""
  return os.path.abspath(value) if key == 'init_from' and value else value


def claim(
  workdir: pathlib.Path, config: dict, usual: dict | None = None
) -> dict | None:
  """Makes the folder of a run, or recognises it as this run's own.

  A folder that holds nothing but the settings of a run that never began, since
  its data were not there for instance, is free for any other.

  Args:
    workdir: the folder; made if it is not there.
    config: plain nested dict, without keys that do not count.
    usual: nested dict of defaults: what keys were in runs from before they
      came.

  Returns:
    The results of the run if it is complete, else None.

  Raises:
    UserError: if the folder cannot be made or holds another run; the message
      names the keys that differ.
  """
  return processes.on_first(lambda: _claim(workdir, config, usual or {}))


def _claim(workdir: pathlib.Path, config: dict, usual: dict) -> dict | None:
  _make(workdir)
  known, results = workdir / 'config.json', workdir / 'results.json'
  if known.exists() and _has_begun(workdir):
    before = flatten(usual) | flatten(_read_json(known, _RESTORE))
    now = flatten(config)
    if before.get('job', now.get('job')) != now.get('job'):
      raise UserError(
        f'{workdir} holds another run: job was {before["job"]!r}, is '
        f'{now["job"]!r}. Use another --workdir.'
      )
    differing = sorted(
      key
      for key in before.keys() | now.keys()
      if key not in FREE_KEYS
      and _meant(key, before.get(key)) != _meant(key, now.get(key))
    )
    if differing:
      lines = '; '.join(
        f'{key} was {before.get(key)!r}, is {now.get(key)!r}'
        for key in differing[:_NAMED]
      )
      if differing[_NAMED:]:
        lines += f'; and {len(differing) - _NAMED} more'
      raise UserError(
        f'{workdir} holds another run: {lines}. Use another --workdir, or '
        'the same settings to go on with it.'
      )
  elif not known.exists():
    for name in ('checkpoints', 'results.json', 'metrics.jsonl'):
      if (workdir / name).exists():
        raise UserError(
          f'{workdir} holds {name} but no config.json to tell what of, as '
          'the folder of several runs does: use another --workdir.'
        )
  if (path := workdir / 'checkpoints').exists() and not path.is_dir():
    raise UserError(f'{path} must be a folder: move the file away.')
  if (path := workdir / 'metrics.jsonl').is_dir():
    raise UserError(f'{path} must be a file: move the folder away.')
  finished = None
  if results.exists():
    finished = _read_json(
      results,
      'remove it, and the same command goes on from the last checkpoint',
      lambda value: _are_results(value, config['job']),
    )
  _write_json(known, config)
  return finished
