"""Compiled programs, kept from one start to the next.

JAX writes what took long to compile into a folder and reads it there the next
time: the same program, so the same numbers. A program that is read is run, so
the folder is its user's alone, and what is not as it was written is removed
before JAX looks: JAX checks nothing, and where zstandard is installed changed
bytes become another program. JAX is imported late, for --help's sake.
"""

import contextlib
import errno
import hashlib
import os
import pathlib
import sys
import warnings
from collections.abc import Iterator
from typing import Any

from shared_bert.training import processes

# Unless the environment has others.
_SETTINGS = {
  # Bytes of all programs, the least recently used go first. A step of
  # BERT-base takes a third of a megabyte on a CPU; to read all of them and see
  # that none has changed takes a quarter of a second.
  'jax_compilation_cache_max_size': 2**28,
  # Evaluations and initialisation too; what takes less is not worth a file.
  'jax_persistent_cache_min_compile_time_secs': 0.1,
}
# A program, and the time of its last use: JAX writes the one, then the other.
_PROGRAM, _USED = '-cache', '-atime'
# SHA-256 of a program: ours, written last.
_SEAL = '-sha256'
# What JAX's cache takes a lock on, and how long that may last.
_LOCK, _LOCK_SECONDS = '.lockfile', 10
# Told by JAX once it has compiled a program and written it, or read one.
_COMPILED = '/jax/core/compile/backend_compile_duration'
# `filelock` is absent, or the file system has no locks.
_UNUSABLE = (OSError, ImportError, NotImplementedError)


def keep_programs() -> None:
  """Lets JAX keep what this process compiles; to be called before it does.

  What the environment says stays: `JAX_COMPILATION_CACHE_DIR` names another
  folder, with JAX's own settings, and `JAX_ENABLE_COMPILATION_CACHE=false`
  keeps nothing. Where the folder cannot be used, nothing is kept and a line
  says so. Nor is it by several processes: one that finds a program and one
  that compiles it may wait for each other, where they tune GPU kernels
  together, so their folder must be one that all see, and only the user knows
  of such a one.
  """
  import jax

  settings: Any = jax.config  # which are no attributes to a type checker
  if (
    not settings.jax_enable_compilation_cache
    or settings.jax_compilation_cache_dir is not None
    or processes.count() > 1
  ):
    return
  folder = _folder()
  try:
    _own(folder)
    _remove_damaged(folder)
  except _UNUSABLE as error:
    _say_unusable(folder, error)
    return
  for name, value in _SETTINGS.items():
    if name.upper() not in os.environ:
      jax.config.update(name, value)
  jax.config.update('jax_compilation_cache_dir', str(folder))
  # JAX has one for each program. What they tell of is seen to below.
  warnings.filterwarnings(
    'ignore', 'Error (reading|writing) persistent compilation cache entry'
  )
  jax.monitoring.register_event_duration_secs_listener(_Sealer(folder))


def _folder() -> pathlib.Path:
  """Where a user's caches lie, by the XDG Base Directory Specification."""
  base = os.environ.get('XDG_CACHE_HOME', '')
  if not os.path.isabs(base):  # to be ignored, as the specification says
    base = os.path.expanduser('~/.cache')
  return pathlib.Path(base) / 'shared_bert' / 'xla'


def _own(folder: pathlib.Path) -> None:
  """Makes the folder, and sees that nobody else can put programs there.

  Raises:
    OSError: if it cannot be made, or others can.
  """
  if not folder.is_absolute():
    raise FileNotFoundError(errno.ENOENT, 'there is no home folder')
  folder.parent.parent.mkdir(parents=True, exist_ok=True)
  for path in (folder.parent, folder):
    path.mkdir(mode=0o700, exist_ok=True)
    found = path.stat()
    if found.st_uid != os.geteuid() or found.st_mode & 0o022:
      raise PermissionError(
        errno.EPERM, f'{path} belongs to others, or they can write there'
      )


def _say_unusable(folder: pathlib.Path, error: Exception) -> None:
  why = getattr(error, 'strerror', None) or error
  print(
    f'compiled programs are not kept: {folder} cannot be used ({why}). Name '
    'another folder by JAX_COMPILATION_CACHE_DIR, or set '
    'JAX_ENABLE_COMPILATION_CACHE=false.',
    file=sys.stderr,
  )


@contextlib.contextmanager
def _locked(folder: pathlib.Path) -> Iterator[None]:
  """Nobody else reads or writes programs meanwhile.

  Raises:
    OSError: if the folder cannot be written, or another process does not let
      go of it.
    ImportError: without `filelock`, which JAX takes for this.
    NotImplementedError: on a file system without locks.
  """
  import filelock

  with filelock.FileLock(folder / _LOCK, timeout=_LOCK_SECONDS):
    yield


def _beside(program: pathlib.Path, ending: str) -> pathlib.Path:
  """Another file of a program."""
  return program.with_name(program.name.removesuffix(_PROGRAM) + ending)


def _digest(program: pathlib.Path) -> str:
  with program.open('rb') as file:
    return hashlib.file_digest(file, 'sha256').hexdigest()


def _remove_damaged(folder: pathlib.Path) -> None:
  """Removes what is not as it was written, and what was not written whole.

  JAX never writes a program that is there: half of one, of a process that was
  killed, would be read in vain at each start, and the absence of its time of
  use keeps every later one from being written (jax-ml/jax#39880).

  Raises:
    OSError, ImportError, NotImplementedError: as `_locked`.
  """
  with _locked(folder):
    for program in folder.glob(f'*{_PROGRAM}'):
      used, seal = _beside(program, _USED), _beside(program, _SEAL)
      if (
        used.exists()
        and seal.exists()
        and seal.read_bytes() == _digest(program).encode()
      ):
        continue
      program.unlink()
      used.unlink(missing_ok=True)
    for ending in (_USED, _SEAL):
      for rest in folder.glob(f'*{ending}'):
        program = rest.with_name(rest.name.removesuffix(ending) + _PROGRAM)
        if not program.exists():
          rest.unlink()


class _Sealer:
  """Hashes programs once JAX has written them; a listener of `jax.monitoring`.

  Where it cannot, this process keeps no more, so that one line tells of it.
  """

  def __init__(self, folder: pathlib.Path):
    self._folder: pathlib.Path | None = folder

  def __call__(self, event: str, duration_secs: float, **_: Any) -> None:
    """Called by JAX whenever something has taken time."""
    import jax

    settings: Any = jax.config
    least = settings.jax_persistent_cache_min_compile_time_secs
    folder = self._folder
    if event != _COMPILED or folder is None or duration_secs < least:
      return
    try:
      with _locked(folder):
        _seal(folder)
    except _UNUSABLE as error:
      self._folder = None
      _keep_no_more()
      _say_unusable(folder, error)


def _seal(folder: pathlib.Path) -> None:
  """Hashes what was written, and removes halves, as of a full disk."""
  for program in folder.glob(f'*{_PROGRAM}'):
    if not _beside(program, _USED).exists():
      program.unlink()
    elif not _beside(program, _SEAL).exists():
      _beside(program, _SEAL).write_text(_digest(program), 'ascii')


def _keep_no_more() -> None:
  """Ends JAX's keeping of programs in this process."""
  import jax
  from jax.experimental.compilation_cache import compilation_cache

  jax.config.update('jax_compilation_cache_dir', None)
  compilation_cache.reset_cache()
