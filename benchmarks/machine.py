"""What the benchmarks say of the machine, and how they write what they found.

Nothing but Python is imported: some set up JAX's environment after this.
"""

import importlib.metadata
import json
import os
import pathlib
import platform
import time
from collections.abc import Sequence
from typing import Any


def facts(packages: Sequence[str]) -> dict[str, Any]:
  """The date, the machine, and versions of packages, None of what is absent."""
  return {
    'date': time.strftime('%Y-%m-%d'),
    'cpus': os.cpu_count(),
    'processor': _processor(),
    'platform': platform.platform(),
    'python': platform.python_version(),
    'versions': {name: _version(name) for name in packages},
  }


def _version(package: str) -> str | None:
  try:
    return importlib.metadata.version(package)
  except importlib.metadata.PackageNotFoundError:
    return None


def _processor() -> str:
  cpuinfo = pathlib.Path('/proc/cpuinfo')
  lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
  names = [x.partition(':')[2].strip() for x in lines if 'model name' in x]
  return next(iter(names), platform.machine())


def finish(output: pathlib.Path, told: dict[str, Any], page: str) -> None:
  """Prints a page, and writes it beside all that was measured.

  Args:
    output: of the JSON; the page goes into the same name with `.md`.
    told: what was measured.
    page: of it, Markdown.
  """
  print(page, end='')
  output.write_text(json.dumps(told, indent=2) + '\n')
  output.with_suffix('.md').write_text(page)
