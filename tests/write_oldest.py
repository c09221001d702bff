"""Writes `oldest.txt`, the lower bounds of `pyproject.toml` as constraints.

  python tests/write_oldest.py
  PIP_CONSTRAINT=tests/oldest.txt make test

The second command tests what the bounds promise. It wants a fresh `.venv` and
the oldest Python. Tools of the `dev` extra are not bound, but for what users
can have by an extra as well.
"""

import pathlib
import tomllib

from packaging.requirements import Requirement

PATH = pathlib.Path(__file__).with_name('oldest.txt')
PYPROJECT = PATH.parents[1] / 'pyproject.toml'
# Extras that `dev` installs as well.
_EXTRAS = ('parquet', 'zstd')


def constraints(pyproject: str) -> str:
  """The lower bounds of the dependencies, one a line.

  Args:
    pyproject: the content of `pyproject.toml`.

  Raises:
    ValueError: if a dependency has anything but one lower bound.
  """
  lines = ['# Written by tests/write_oldest.py.']
  project = tomllib.loads(pyproject)['project']
  extras = project.get('optional-dependencies', {})
  texts = [*project['dependencies']]
  for name in _EXTRAS:
    texts += extras.get(name, [])
  for text in texts:
    requirement = Requirement(text)
    bounds = list(requirement.specifier)
    if [bound.operator for bound in bounds] != ['>=']:
      raise ValueError(f'{text!r} should have one lower bound and no other')
    marker = f' ; {requirement.marker}' if requirement.marker else ''
    lines.append(f'{requirement.name}=={bounds[0].version}{marker}')
  return '\n'.join(lines) + '\n'


if __name__ == '__main__':
  PATH.write_text(constraints(PYPROJECT.read_text(encoding='utf-8')))
