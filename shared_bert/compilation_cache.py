"""Compiled programs, kept from one start to the next.

JAX writes what took long to compile into a folder and reads it there the next
time: the same program, so the same numbers. A program that is read is run, so
the folder is its user's alone. JAX is imported late, for --help's sake.
"""

import errno
import os
import pathlib
import sys
from typing import Any

from shared_bert.training import processes

# Unless the environment has others.
_SETTINGS = {
  # Bytes of all programs, the least recently used go first. A training step
  # takes one megabyte or two.
  'jax_compilation_cache_max_size': 2**30,
  # Evaluations and initialisation too; what takes less is not worth a file.
  'jax_persistent_cache_min_compile_time_secs': 0.1,
}
# What JAX's cache takes a lock on, and how long that may last.
_LOCK, _LOCK_SECONDS = '.lockfile', 10


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
    _remove_halves(folder)
  # Without `filelock`, or on a file system without locks.
  except (OSError, ImportError, NotImplementedError) as error:
    why = getattr(error, 'strerror', None) or error
    print(
      f'compiled programs are not kept: {folder} cannot be used ({why}). Name '
      'another folder by JAX_COMPILATION_CACHE_DIR, or set '
      'JAX_ENABLE_COMPILATION_CACHE=false.',
      file=sys.stderr,
    )
    return
  for name, value in _SETTINGS.items():
    if name.upper() not in os.environ:
      jax.config.update(name, value)
  jax.config.update('jax_compilation_cache_dir', str(folder))


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


def _remove_halves(folder: pathlib.Path) -> None:
  """Removes what a process that was killed had begun to write.

  JAX writes KEY-cache and then KEY-atime, and never a KEY-cache that is there:
  half a one would be read in vain at each start, and the absence of its
  KEY-atime keeps every later program from being written (jax-ml/jax#39880).

  Raises:
    OSError: if the folder cannot be written, or is held by another process.
    ImportError: without `filelock`, which JAX takes for this.
    NotImplementedError: on a file system without locks.
  """
  import filelock

  with filelock.FileLock(folder / _LOCK, timeout=_LOCK_SECONDS):
    for program in folder.glob('*-cache'):
      used = program.with_name(program.name.removesuffix('cache') + 'atime')
      if not used.exists():
        program.unlink(missing_ok=True)
