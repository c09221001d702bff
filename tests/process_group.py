"""Several real processes of the command, which train as one."""

import dataclasses
import os
import pathlib
import socket
import subprocess
import sys

_ROOT = pathlib.Path(__file__).parents[1]
_SECONDS = 300  # after which a process is killed


def free_port() -> int:
  """A port of loopback that nobody listens on."""
  with socket.socket() as probe:
    probe.bind(('127.0.0.1', 0))
    return probe.getsockname()[1]


@dataclasses.dataclass(frozen=True)
class Ended:
  """How a process ended: its exit code, and what it wrote."""

  code: int
  out: str
  err: str


class ProcessGroup:
  """`python -m shared_bert.main` several times, joined by its flags."""

  def __init__(self, arguments: list[str], processes: int, devices: int):
    """Starts them.

    Args:
      arguments: of each.
      processes: how many.
      devices: CPU devices of each.
    """
    port = free_port()
    several = lambda number: [  # noqa: E731
      f'--coordinator=127.0.0.1:{port}',
      f'--num_processes={processes}',
      f'--process_id={number}',
    ]
    self.processes = [
      subprocess.Popen(
        [
          sys.executable,
          '-m',
          'shared_bert.main',
          *arguments,
          *(several(number) if processes > 1 else []),
        ],
        cwd=_ROOT,
        env=os.environ | {'JAX_NUM_CPU_DEVICES': str(devices)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
      )
      for number in range(processes)
    ]

  def ended(self) -> list[Ended]:
    """Waits for all of them; kills those that hang."""
    try:
      outputs = [p.communicate(timeout=_SECONDS) for p in self.processes]
    finally:
      for process in self.processes:
        process.kill()
    return [
      Ended(process.returncode, *output)
      for process, output in zip(self.processes, outputs, strict=True)
    ]
