"""The folders of a run's steps: which there are, which are intact."""

import contextlib
import dataclasses
import json
import pathlib
import re
import shutil
import sys
from typing import Any

from shared_bert.errors import UserError
from shared_bert.training import manifest, state_io

STATE = 'state'
METADATA = 'metadata.json'
# A step's folder, one set aside while it is replaced, one being written; the
# first of these that is there stands for the step.
_SUFFIXES = ('', '.old', '.saving')
_FOLDER = re.compile(r'(\d+)(|\.old|\.saving)')


@dataclasses.dataclass(frozen=True)
class Checkpoint:
  """One checkpoint, verified against its manifest when it was opened.

  Attributes:
    path: Its folder; `metadata.json` and the files given at save lie in it.
    step: The step it was taken after.
    metadata: What was given at save: config, hashes and so on.
    metrics: What was given at save; None where a value was not finite.
    versions: Package to version, of the program that saved it.
    leaves: Name to type of each array, `'params/w': 'float32[8, 4]'`.
  """

  path: pathlib.Path
  step: int
  metadata: dict[str, Any]
  metrics: dict[str, float | None]
  versions: dict[str, str]
  leaves: dict[str, str]

  def load(self, abstract_state: Any) -> Any:
    """Loads the state, all of it or nothing.

    Args:
      abstract_state: A pytree of the structure saved, of arrays or
        `jax.ShapeDtypeStruct`s.

    Returns:
      That pytree with the values saved: `jax.Array`s in the shardings of the
      abstract leaves, NumPy arrays where a leaf names no sharding.

    Raises:
      UserError: Leaves are missing, extra, or of another shape or dtype.
    """
    wanted = state_io.leaf_types(abstract_state)
    state_io.check_types(self.path, self.leaves, wanted)
    return state_io.load(self.path / STATE, abstract_state)

  def load_params(self, abstract_params: Any | None = None) -> Any:
    """Loads `state['params']` alone.

    Args:
      abstract_params: As for `load`; None for whatever is there.

    Returns:
      The parameters as by `load`; for None, nested dictionaries with keys of
      type str, of NumPy arrays.

    Raises:
      UserError: Leaves are missing, extra, or of another shape or dtype.
    """
    if abstract_params is None:
      abstract_params = state_io.saved_tree(self.path / STATE)['params']
    abstract = {'params': abstract_params}
    saved = {k: v for k, v in self.leaves.items() if k.startswith('params/')}
    state_io.check_types(self.path, saved, state_io.leaf_types(abstract))
    return state_io.load(self.path / STATE, abstract, partial=True)['params']


@dataclasses.dataclass(frozen=True)
class Found:
  """A folder that a save has left; its manifest only from `published`."""

  step: int
  suffix: str
  path: pathlib.Path
  manifest: dict[str, Any] = dataclasses.field(default_factory=dict)


def folders(directory: pathlib.Path) -> list[Found]:
  """Lists what saves have left.

  Args:
    directory: The checkpoints folder; need not exist.

  Returns:
    The newest step first, and of a step the folder that stands for it first.
  """
  found = []
  for path in directory.iterdir() if directory.is_dir() else ():
    if match := _FOLDER.fullmatch(path.name):
      found.append(Found(int(match[1]), match[2], path))
  return sorted(found, key=lambda f: (-f.step, _SUFFIXES.index(f.suffix)))


def published(directory: pathlib.Path) -> dict[int, Found]:
  """Lists the checkpoints that a quick look finds.

  Args:
    directory: The checkpoints folder; need not exist.

  Returns:
    Step to folder with its manifest; the files are not verified.
  """
  by_step = {}
  for found in folders(directory):
    if found.suffix != '.saving' and found.step not in by_step:
      with contextlib.suppress(manifest.Damaged):
        facts = manifest.read(found.path)
        by_step[found.step] = dataclasses.replace(found, manifest=facts)
  return by_step


def open_intact(path: pathlib.Path) -> Checkpoint:
  """Verifies and opens the folder of a step.

  Args:
    path: The folder.

  Returns:
    The checkpoint.

  Raises:
    manifest.Damaged: It is not what was written.
  """
  facts = manifest.verify(path)
  return Checkpoint(
    path=path,
    metadata=json.loads((path / METADATA).read_bytes()),
    **{key: facts[key] for key in ('step', 'metrics', 'versions', 'leaves')},
  )


def open_named(path: pathlib.Path) -> Checkpoint:
  """Opens the folder that the user has named.

  Args:
    path: The folder.

  Returns:
    The checkpoint, verified.

  Raises:
    UserError: It is not what was written.
  """
  try:
    return open_intact(path)
  except manifest.Damaged as error:
    raise UserError(
      f'the checkpoint {path} is damaged: {error}. Use another one.'
    ) from error


def open_newest(directory: pathlib.Path) -> Checkpoint | None:
  """Opens the newest intact checkpoint; says which newer ones are not.

  Args:
    directory: The checkpoints folder; need not exist.

  Returns:
    The checkpoint, verified, or None without one.
  """
  for found in folders(directory):
    try:
      if found.suffix == '.saving':
        raise manifest.Damaged('its save is unfinished')
      return open_intact(found.path)
    except manifest.Damaged as error:
      pass_over(found.path, error)
  return None


def pass_over(path: pathlib.Path, error: manifest.Damaged) -> None:
  """Says that a damaged checkpoint is left aside, and why."""
  print(f'passing over {path}: {error}', file=sys.stderr, flush=True)


def remove(path: pathlib.Path) -> None:
  """Removes the folder of a step, if it is there."""
  # Without its manifest a folder that is removed by half is no checkpoint.
  (path / manifest.NAME).unlink(missing_ok=True)
  if path.exists():
    shutil.rmtree(path)
