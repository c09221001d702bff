"""Which versions are supported: what is written and what is tested agree."""

import pathlib
import re
import tomllib

import pytest

from tests import write_oldest

ROOT = pathlib.Path(__file__).parents[1]
WORKFLOW = ROOT / '.github' / 'workflows' / 'tests.yml'
PYPROJECT = write_oldest.PYPROJECT.read_text(encoding='utf-8')


def test_oldest_versions_are_the_lower_bounds_of_pyproject():
  # If not: `python tests/write_oldest.py`.
  assert write_oldest.PATH.read_text() == write_oldest.constraints(PYPROJECT)


@pytest.mark.parametrize('bound', ['', '==1.0', '>=1.0,<2', '~=1.0'])
def test_a_dependency_without_a_plain_lower_bound_is_refused(bound):
  with pytest.raises(ValueError, match='lower bound'):
    write_oldest.constraints(f'[project]\ndependencies = ["jax{bound}"]\n')


def test_ci_runs_every_supported_python_and_the_oldest_with_oldest_packages():
  project = tomllib.loads(PYPROJECT)['project']
  supported = {
    found[1]
    for text in project['classifiers']
    if (found := re.search(r':: (3\.\d+)$', text))
  }
  workflow = WORKFLOW.read_text(encoding='utf-8')
  jobs = re.findall(r"\{python: '(3\.\d+)', bounds: (\w+)", workflow)
  assert {python for python, _ in jobs} == supported
  oldest = {python for python, bounds in jobs if bounds == 'oldest'}
  assert oldest == {project['requires-python'].removeprefix('>=')}
  assert write_oldest.PATH.relative_to(ROOT).as_posix() in workflow


def test_ci_uses_make_targets_and_extras_that_are_there():
  workflow = WORKFLOW.read_text(encoding='utf-8')
  makefile = (ROOT / 'Makefile').read_text(encoding='utf-8')
  targets = re.findall(r'run: make (\w+)', workflow)
  assert targets
  for target in targets:
    assert re.search(rf'^{target}:', makefile, re.MULTILINE), target
  extras = tomllib.loads(PYPROJECT)['project']['optional-dependencies']
  assert set(re.findall(r'extras: (\w+)', workflow)) <= extras.keys()
