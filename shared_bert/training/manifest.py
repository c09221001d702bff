"""The manifest that makes a folder a checkpoint: size and hash of its files.

Orbax reads some flipped bits, casts other dtypes and accepts damaged metadata
without a word, so every file is hashed after Orbax has committed and compared
before anything is loaded. A folder without a manifest is not a checkpoint.
"""

import contextlib
import hashlib
import json
import os
import pathlib
from collections.abc import Iterator
from typing import Any

NAME = 'manifest.json'
FORMAT = 1


class Damaged(Exception):
  """A folder is no intact checkpoint; the text names the file and the harm."""


def write(folder: pathlib.Path, facts: dict[str, Any]) -> None:
  """Hashes every file under a folder and writes the manifest beside them.

  Args:
    folder: The folder to vouch for. Nothing may write there any more.
    facts: What the manifest says besides, as JSON types (see `read`).

  Raises:
    OSError: A file cannot be read, or the manifest cannot be written.
  """
  files = {}
  for path in sorted(folder.rglob('*')):
    if path.is_file() and path != folder / NAME:
      files[path.relative_to(folder).as_posix()] = {
        'size': path.stat().st_size,
        'sha256': _sha256(path),
      }
  write_file(
    folder / NAME, _encode({**facts, 'format': FORMAT, 'files': files})
  )


def read(folder: pathlib.Path) -> dict[str, Any]:
  """Reads a manifest and checks it against its own hash, not yet the files.

  Args:
    folder: The folder that holds the manifest.

  Returns:
    The facts given to `write`, with `files` (`{name: {size, sha256}}`) and
    `format`.

  Raises:
    Damaged: There is no manifest, or it is not what was written.
  """
  path = folder / NAME
  with _readable(path):
    raw = path.read_bytes()
  try:
    facts = json.loads(raw)
  except ValueError as error:
    raise Damaged(f'{path} is not what was written') from error
  # Writing it again covers every byte, spaces and the hash itself included.
  if (
    not isinstance(facts, dict)
    or facts.pop('sha256', None) is None
    or _encode(facts) != raw
  ):
    raise Damaged(f'{path} is not what was written')
  if facts['format'] != FORMAT:
    raise Damaged(
      f'{path} has format {facts["format"]}, this version reads {FORMAT}'
    )
  return facts


def verify(folder: pathlib.Path) -> dict[str, Any]:
  """Compares every file of a folder with its manifest.

  Args:
    folder: The folder that holds the manifest.

  Returns:
    The manifest, as from `read`.

  Raises:
    Damaged: A file is missing, unreadable, or not what was written.
  """
  facts = read(folder)
  place = folder.resolve()
  for name in facts['files']:
    # A checkpoint may come from anybody: it is read in its folder alone.
    if not (folder / name).resolve().is_relative_to(place):
      raise Damaged(f'{folder / name} leads out of the checkpoint')
  # Sizes of all files first: cheap, and most damage is a file cut off.
  for name, wanted in facts['files'].items():
    path = folder / name
    with _readable(path):
      size = path.stat().st_size
    if size != wanted['size']:
      raise Damaged(f'{path} has {size} bytes instead of {wanted["size"]}')
  for name, wanted in facts['files'].items():
    path = folder / name
    with _readable(path):
      digest = _sha256(path)
    if digest != wanted['sha256']:
      raise Damaged(f'{path} does not hold the bytes that were written')
  return facts


def write_file(path: pathlib.Path, data: bytes) -> None:
  """Writes a file so that it is on disk whole or not there at all.

  Args:
    path: Where to; its folder must exist.
    data: The content.

  Raises:
    OSError: It cannot be written.
  """
  draft = path.with_name(path.name + '.tmp')
  with draft.open('wb') as file:
    file.write(data)
    file.flush()
    os.fsync(file.fileno())
  draft.rename(path)
  sync_folder(path.parent)


def sync_folder(folder: pathlib.Path) -> None:
  """Makes renames inside a folder last through a power cut."""
  descriptor = os.open(folder, os.O_RDONLY)
  try:
    os.fsync(descriptor)
  finally:
    os.close(descriptor)


@contextlib.contextmanager
def _readable(path: pathlib.Path) -> Iterator[None]:
  try:
    yield
  except FileNotFoundError:
    raise Damaged(f'{path} is missing') from None
  except OSError as error:
    raise Damaged(f'{path} cannot be read ({error.strerror})') from error


def _sha256(path: pathlib.Path) -> str:
  with path.open('rb') as file:
    return hashlib.file_digest(file, 'sha256').hexdigest()


def _encode(facts: dict[str, Any]) -> bytes:
  """Canonical JSON that carries the hash of itself under `sha256`."""
  body = json.dumps(facts, sort_keys=True)
  digest = hashlib.sha256(body.encode()).hexdigest()
  text = json.dumps({**facts, 'sha256': digest}, indent=1, sort_keys=True)
  return f'{text}\n'.encode()
