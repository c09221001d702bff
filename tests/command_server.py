"""Runs commands as `python -m` does, in forks of one process.

Importing JAX and the rest takes seconds, a wrong flag none. So everything but
the commands themselves is imported once, and each request is a fork, made
before any device is touched, which then runs the command's module as
`__main__` and leaves as a process leaves.
"""

import ctypes
import dataclasses
import gc
import importlib
import json
import os
import pathlib
import pkgutil
import resource
import runpy
import selectors
import signal
import subprocess
import sys

_COMMANDS = (
  'shared_bert.main',
  'shared_bert.plan',
  'shared_bert.prepare',
  'shared_bert.export',
  'shared_bert.predict',
)
_ROOT = pathlib.Path(__file__).parents[1]
_SECONDS = 300  # after which a command is killed


@dataclasses.dataclass(frozen=True)
class Done:
  """How a command ended.

  Attributes:
    code: its exit code; negative for a signal.
    out: what it wrote to stdout.
    err: what it wrote to stderr.
  """

  code: int
  out: str
  err: str


class CommandServer:
  """Runs commands one after another; to be used as a context manager."""

  def __init__(self, environment: dict[str, str]):
    """Starts the process.

    Args:
      environment: variables set for it besides those of this process.
    """
    self._process = subprocess.Popen(
      [sys.executable, '-m', 'tests.command_server'],
      cwd=_ROOT,
      env=os.environ | environment,
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      text=True,
    )

  def __enter__(self) -> 'CommandServer':
    return self

  def __exit__(self, *_) -> None:
    self._process.communicate()

  def run(self, command: str, *argv: str, **settings) -> Done:
    """Runs `python -m shared_bert.COMMAND ARGV` in the root of the repository.

    Args:
      command: `main`, `plan` or `prepare`.
      *argv: its arguments.
      **settings: `devices=False` for a JAX that finds no device;
        `largest_file`, the bytes that fit a file; `humble=True` for a user
        for whom permissions count, which for root they do not; `mute=True`
        for one whose stdout is closed.

    Returns:
      How it ended.
    """
    request = {'module': f'shared_bert.{command}', 'argv': argv, **settings}
    self._process.stdin.write(json.dumps(request) + '\n')
    self._process.stdin.flush()
    return Done(**json.loads(self._process.stdout.readline()))


def _serve() -> dict:
  """Answers requests; returns one, in the process that is to run it."""
  for line in sys.stdin:
    pipes = [os.pipe(), os.pipe()]
    child = os.fork()
    if not child:
      os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
      for number, (_, writer) in enumerate(pipes, 1):
        os.dup2(writer, number)
      sys.stdout = open(1, 'w', closefd=False)
      sys.stderr = open(2, 'w', buffering=1, closefd=False)
      return json.loads(line)
    said = {}
    with selectors.DefaultSelector() as selector:
      for reader, writer in pipes:
        os.close(writer)
        said[reader] = b''
        selector.register(reader, selectors.EVENT_READ)
      while selector.get_map():
        for key, _ in selector.select():
          data = os.read(key.fd, 2**16)
          said[key.fd] += data
          if not data:
            selector.unregister(key.fd)
            os.close(key.fd)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    out, err = (text.decode() for text in said.values())
    print(json.dumps({'code': code, 'out': out, 'err': err}), flush=True)
  sys.exit()


def _run(
  module, argv, devices=True, largest_file=None, humble=False, mute=False
):
  """Runs a command and leaves."""
  signal.alarm(_SECONDS)
  if not devices:
    importlib.import_module('jax').config.update('jax_platforms', 'absent')
  if largest_file is not None:
    # Or what was compiled would be kept for the next command, cut off.
    jax = importlib.import_module('jax')
    jax.config.update('jax_enable_compilation_cache', False)
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))
  if humble and not os.geteuid():
    # Linux's capset(2), version 3: root without any capability.
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    if ctypes.CDLL(None).capset(header, (ctypes.c_uint32 * 6)()):
      sys.exit('capset failed')
  if mute:
    os.close(1)
    sys.stdout = None  # as Python starts then
  sys.argv = [module, *argv]
  runpy.run_module(module, run_name='__main__', alter_sys=True)


if __name__ == '__main__':
  importlib.import_module('ml_collections.config_flags')
  _package = [str(_ROOT / 'shared_bert')]
  for _found in pkgutil.walk_packages(_package, 'shared_bert.'):
    # A package's command defines flags that others have too.
    if not (_found.name in _COMMANDS or _found.name.endswith('.__main__')):
      importlib.import_module(_found.name)
  # A fork that ends does not look through all of this for garbage.
  gc.collect()
  gc.freeze()
  _run(**_serve())
