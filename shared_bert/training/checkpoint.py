"""The checkpoints of a run: written by Orbax, vouched for by a manifest.

    checkpoints/1000/state/         the arrays, in Orbax's format
    checkpoints/1000/metadata.json  what the caller said of the run
    checkpoints/1000/vocab.txt ...  further files the caller gave
    checkpoints/1000/manifest.json  size and SHA-256 of every file above

A save is written to `1000.saving` and renamed to `1000` once its manifest is
on disk: a checkpoint is there whole or not at all, whenever a run is killed.
The folder is on a file system that renames atomically, local or mounted;
several processes share it, and each makes every call.
"""

import concurrent.futures
import contextlib
import importlib.metadata
import json
import math
import pathlib
import re
import shutil
import time
from collections.abc import Iterator, Mapping
from typing import Any

import shared_bert
from shared_bert.errors import UserError
from shared_bert.training import (
  manifest,
  processes,
  state_io,
  step_folders,
  workdir,
)
from shared_bert.training.step_folders import METADATA, STATE, Checkpoint

_PACKAGES = ('jax', 'jaxlib', 'flax', 'optax', 'orbax-checkpoint', 'numpy')
# How TensorStore, which writes the arrays, words an error of the file system.
_FILE_ERROR = re.compile(r"([^:]+) \[os_error_code='\d+'\]")
_PROCESS_START = time.time()


class Checkpoints:
  """The checkpoints of one run: the last few and the best.

  Attributes:
    directory: The folder of the run's checkpoints.
  """

  def __init__(
    self,
    directory: str | pathlib.Path,
    keep_last: int = 2,
    best_metric: str | None = None,
    best_mode: str = 'max',
  ):
    """Touches nothing: the folder is made by the first save.

    Args:
      directory: The checkpoints folder itself, `workdir/checkpoints`.
      keep_last: How many of the newest to keep, at least 1.
      best_metric: The metric whose best checkpoint is kept besides.
      best_mode: Whether the best is the 'max' or the 'min'; the earliest of
        equals.

    Raises:
      UserError: A value is out of range.
    """
    if keep_last < 1:
      raise UserError(f'keep_last={keep_last} must be at least 1.')
    if best_mode not in ('max', 'min'):
      raise UserError(f"best_mode={best_mode!r} must be 'max' or 'min'.")
    self.directory = pathlib.Path(directory).absolute()
    self._keep_last = keep_last
    self._best_metric = best_metric
    self._sign = -1 if best_mode == 'max' else 1
    self._thread = concurrent.futures.ThreadPoolExecutor(1, 'checkpoint')
    self._pending: concurrent.futures.Future | None = None
    self._opened: Checkpoint | None = None

  def save(
    self,
    step: int,
    state: Any,
    metadata: Mapping[str, Any],
    metrics: Mapping[str, float] | None = None,
    files: Mapping[str, bytes] | None = None,
  ) -> None:
    """Saves in the background; returns once the arrays are off the devices.

    Waits for the save before, if that is still in flight, and raises what it
    raised. A checkpoint of the same step is replaced once this one is there.

    Args:
      step: The number of steps taken.
      state: A pytree of `jax.Array`s and NumPy arrays; may be given away
        afterwards.
      metadata: What to know of the run, as JSON types.
      metrics: Evaluation results after this step.
      files: Further files, plain names to content, to lie in the folder.

    Raises:
      UserError: The folder cannot be written (no space, no permission).
    """
    self.wait()
    self._opened = None
    texts = {METADATA: json.dumps(dict(metadata), indent=1).encode()}
    for name, data in (files or {}).items():
      if name in (STATE, METADATA, manifest.NAME) or '/' in name:
        raise ValueError(f'{name!r} cannot name a file of a checkpoint')
      texts[name] = data
    facts = {
      'step': int(step),
      'metrics': {
        name: float(value) if math.isfinite(value) else None
        for name, value in (metrics or {}).items()
      },
      'versions': {
        'shared_bert': shared_bert.__version__,
        **{name: importlib.metadata.version(name) for name in _PACKAGES},
      },
      'leaves': state_io.leaf_types(state),
    }
    saving = self.directory / f'{int(step)}.saving'

    def begin() -> None:
      with _mendable(saving):
        step_folders.remove(saving)
        saving.mkdir(parents=True)
        for name, data in texts.items():
          manifest.write_file(saving / name, data)

    processes.on_first(begin)
    with _mendable(saving):
      written = state_io.start_save(saving / STATE, state)
    self._pending = self._thread.submit(self._finish, written, saving, facts)

  def wait(self) -> None:
    """Waits until the save in flight, if any, is published.

    Raises:
      UserError: It could not be written; the checkpoints before it are kept.
    """
    pending, self._pending = self._pending, None
    if pending is not None:
      failure = None
      try:
        pending.result()
      except UserError as error:
        failure = error
      processes.agree(failure)

  def close(self) -> None:
    """Waits as `wait` does and ends the background thread."""
    try:
      self.wait()
    finally:
      self._thread.shutdown()

  def open(self, step: int) -> Checkpoint:
    """Opens the checkpoint of a step, verified.

    Args:
      step: Which one.

    Returns:
      The checkpoint.

    Raises:
      UserError: It is not there or is damaged.
    """
    self.wait()
    for found in step_folders.folders(self.directory):
      if found.step == step and found.suffix != '.saving':
        self._opened = step_folders.open_named(found.path)
        return self._opened
    raise UserError(f'there is no checkpoint {self.directory / str(step)}.')

  def open_latest(self) -> Checkpoint | None:
    """Opens the newest intact checkpoint; says which newer ones are not.

    Returns:
      The checkpoint, verified, or None without one.
    """
    self.wait()
    self._opened = None

    def find() -> str:
      self._opened = step_folders.open_newest(self.directory)
      return str(self._opened.path) if self._opened else ''

    # One process chooses: on a shared disk another may see an older folder.
    path = processes.on_first(find)
    if path and self._opened is None:
      self._opened = step_folders.open_named(pathlib.Path(path))
    return self._opened

  def latest(self) -> int | None:
    """The step of the newest intact checkpoint; None without one."""
    newest = self.open_latest()
    return newest.step if newest else None

  def best(self) -> int | None:
    """The step of the best intact checkpoint; None without one."""
    self.wait()
    return processes.on_first(self._find_best)

  def best_found(self) -> dict[str, Any] | None:
    """`step` and `metrics` of the best intact checkpoint; None without one."""
    step = self.best()
    if step is None:
      return None
    return {'step': step, 'metrics': self.metrics(step)}

  def _find_best(self) -> int | None:
    published = step_folders.published(self.directory)
    for step in self._best_first(published):
      try:
        self._opened = step_folders.open_intact(published[step].path)
        return step
      except manifest.Damaged as error:
        step_folders.pass_over(published[step].path, error)
    return None

  def metadata(self, step: int) -> dict[str, Any]:
    """The metadata of a step, which is verified unless it was opened last."""
    return self._at(step).metadata

  def metrics(self, step: int) -> dict[str, float | None]:
    """The metrics of a step, which is verified unless it was opened last."""
    return self._at(step).metrics

  def restore(self, step: int, abstract_state: Any) -> Any:
    """Verifies and loads the state of a step: `Checkpoint.load`.

    Args:
      step: Which one.
      abstract_state: What to load into.

    Returns:
      The state.

    Raises:
      UserError: It is not there, damaged, or does not fit.
    """
    return self.open(step).load(abstract_state)

  def _at(self, step: int) -> Checkpoint:
    if self._opened is not None and self._opened.step == step:
      return self._opened
    return self.open(step)

  def _finish(self, written, saving: pathlib.Path, facts: dict) -> None:
    """Publishes what Orbax has written; runs in the background thread."""
    with _mendable(saving):
      written()
      if not processes.is_first():
        return
      manifest.write(saving, facts)
      final = saving.with_suffix('')
      if final.exists():
        # Set aside, not removed: it stands for the step until the next rename.
        aside = saving.with_suffix('.old')
        step_folders.remove(aside)
        final.rename(aside)
      saving.rename(final)
      manifest.sync_folder(self.directory)
      self._remove_dispensable(facts['step'])

  def _remove_dispensable(self, step: int) -> None:
    """Removes what the checkpoint of `step`, now published, makes needless.

    Checkpoints of later steps stay: the run passed them over as damaged when
    it resumed, or was told to go back, and will replace them on its way.
    """
    published = step_folders.published(self.directory)
    later = {number for number in published if number > step}
    last = sorted(published.keys() - later)[-self._keep_last :]
    best = self._best_first(published)[:1]
    kept = {published[number].path for number in (*later, *last, *best)}
    intact = {found.path for found in published.values()}
    for found in step_folders.folders(self.directory):
      # A half-written folder younger than this process may be another's.
      stale = found.path.stat().st_mtime < _PROCESS_START
      replaced = found.suffix == '.old' or found.path in intact
      if found.path not in kept and (replaced or stale):
        step_folders.remove(found.path)

  def _best_first(
    self, published: Mapping[int, step_folders.Found]
  ) -> list[int]:
    scores = {
      step: found.manifest['metrics'].get(self._best_metric)
      for step, found in published.items()
    }
    scored = [step for step, score in scores.items() if score is not None]
    return sorted(scored, key=lambda step: (self._sign * scores[step], step))


def open_checkpoint(path: str | pathlib.Path) -> Checkpoint:
  """Opens a checkpoint for reading.

  Args:
    path: The folder of one step, or a `checkpoints` folder or a workdir, of
      which the newest intact checkpoint is taken.

  Returns:
    The checkpoint, verified.

  Raises:
    UserError: There is none, or the one named is damaged.
  """
  path = workdir.checkpoint_folder(path)
  if (path / manifest.NAME).exists() or (path / STATE).exists():
    return step_folders.open_named(path)
  directory = path / 'checkpoints'
  newest = step_folders.open_newest(directory if directory.is_dir() else path)
  if newest is None:
    several = sorted(path.glob('**/seed-*/checkpoints'))
    if several:
      raise UserError(
        f'{path} holds several runs, each with its own checkpoints: name one '
        f'of them, such as {several[0].parent}.'
      )
    raise UserError(
      f'there is no intact checkpoint in {path}: {workdir.ACCEPTED}.'
    )
  return newest


@contextlib.contextmanager
def _mendable(saving: pathlib.Path) -> Iterator[None]:
  """Frees the disk after a failed save and says what the user can mend."""
  try:
    yield
  except Exception as error:
    if processes.is_first():
      shutil.rmtree(saving, ignore_errors=True)
    if isinstance(error, OSError):
      reason = error.strerror or str(error)
    elif match := _FILE_ERROR.search(str(error)):
      reason = match[1].strip()
    else:
      raise
    raise UserError(
      f'the checkpoint {saving.with_suffix("")} could not be saved: {reason}. '
      'Those before it are kept: mend this and start again.'
    ) from error
