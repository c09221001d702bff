"""What the whole repository promises: its shape, its scripts, its version."""

import ast
import os
import pathlib
import re
import signal
import subprocess
import sys
import time

import pytest

import shared_bert

_ROOT = pathlib.Path(__file__).parents[1]
_PACKAGE = _ROOT / 'shared_bert'
_MODULES = sorted(_PACKAGE.rglob('*.py'))
_SCRIPTS = [*sorted((_ROOT / 'launch').glob('*.sh')), _ROOT / '.ci' / 'run']

# What the files of a folder may import of `shared_bert`, besides themselves.
# Commands and jobs, which lie in the package itself, may import everything.
_MAY_IMPORT = {
  'model': {'errors'},
  'data': {'errors', 'tensorflow_cpu'},
  'training': {'errors', 'model', 'tensorflow_cpu'},
  'interop': {'errors', 'model', 'data', 'training', 'tensorflow_cpu'},
}


def _imported_parts(path: pathlib.Path) -> set[str]:
  """First name below `shared_bert` of all that a file imports."""
  names = []
  for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
    if isinstance(node, ast.Import):
      names += [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom):
      assert not node.level, f'{path}: imports are by full name'
      names += [f'{node.module}.{alias.name}' for alias in node.names]
  parts = [name.split('.') for name in names]
  return {p[1] for p in parts if p[0] == 'shared_bert' and len(p) > 1}


def _name(path: pathlib.Path) -> str:
  return path.relative_to(_ROOT).as_posix()


def test_files_are_short_enough_to_read():
  lengths = {
    _name(path): len(path.read_text(encoding='utf-8').splitlines())
    for path in _MODULES
  }
  assert not {name: n for name, n in lengths.items() if n > 400}


@pytest.mark.parametrize('folder', _MAY_IMPORT)
def test_imports_run_one_way(folder):
  allowed = _MAY_IMPORT[folder] | {folder, '__version__'}
  for path in sorted((_PACKAGE / folder).rglob('*.py')):
    forbidden = _imported_parts(path) - allowed
    assert not forbidden, f'{_name(path)} imports {sorted(forbidden)}'


def test_import_check_sees_every_spelling(tmp_path):
  path = tmp_path / 'module.py'
  path.write_text(
    'import shared_bert.data.glue\n'
    'from shared_bert import training\n'
    'def late():\n'
    '  from shared_bert.model.config import BertConfig\n'
  )
  assert _imported_parts(path) == {'data', 'training', 'model'}


def test_imports_leave_tensorflow_and_beam_alone():
  # In a process of its own: other tests may have imported them.
  names = [
    '.'.join(path.relative_to(_ROOT).with_suffix('').parts)
    for path in _MODULES
    if path.stem not in ('__init__', '__main__')
  ]
  code = (
    'import importlib, sys\n'
    f'for name in {names}:\n'
    '  importlib.import_module(name)\n'
    '  assert not {"tensorflow", "apache_beam"} & sys.modules.keys(), name\n'
  )
  result = subprocess.run(
    [sys.executable, '-c', code],
    cwd=_ROOT,
    capture_output=True,
    text=True,
    check=False,
  )
  assert not result.returncode, result.stderr


@pytest.mark.parametrize('script', _SCRIPTS, ids=_name)
def test_script_is_valid_bash_and_executable(script):
  result = subprocess.run(
    ['bash', '-n', str(script)], capture_output=True, text=True, check=False
  )
  assert not result.returncode, result.stderr
  assert script.stat().st_mode & 0o111


def test_restart_runs_again_after_75_and_passes_other_codes_on(tmp_path):
  restart = _ROOT / 'launch' / 'restart.sh'
  # Preempted twice, then a mistake of the user's.
  command = f'echo x >> {tmp_path}/runs; [ $(wc -l < {tmp_path}/runs) -gt 2 ]'
  result = subprocess.run(
    ['bash', str(restart), 'bash', '-c', f'({command}) && exit 1; exit 75'],
    env={'RESTART_SECONDS': '0', 'PATH': '/usr/bin:/bin'},
    capture_output=True,
    text=True,
    check=False,
  )
  assert result.returncode == 1, result.stderr
  assert (tmp_path / 'runs').read_text() == 'x\n' * 3


def test_restart_gives_up_on_a_command_that_only_aborts(tmp_path):
  restart = _ROOT / 'launch' / 'restart.sh'
  command = f'echo x >> {tmp_path}/runs; exit 134'
  result = subprocess.run(
    ['bash', str(restart), 'bash', '-c', command],
    env={'RESTART_SECONDS': '0', 'PATH': '/usr/bin:/bin'},
    capture_output=True,
    text=True,
    check=False,
  )
  assert result.returncode == 134, result.stderr
  assert (tmp_path / 'runs').read_text() == 'x\n' * 4


def test_restart_that_is_told_to_stop_while_it_waits_does_not_start_again(
  tmp_path,
):
  restart = _ROOT / 'launch' / 'restart.sh'
  command = f'echo x >> {tmp_path}/runs; exit 75'
  run = subprocess.Popen(
    ['bash', str(restart), 'bash', '-c', command],
    env={'RESTART_SECONDS': '60', 'PATH': '/usr/bin:/bin'},
    stderr=subprocess.PIPE,
    text=True,
    start_new_session=True,
  )
  with run:
    assert 'starting again' in run.stderr.readline()
    time.sleep(0.2)  # until it sleeps
    os.killpg(run.pid, signal.SIGTERM)
    assert run.wait(30) == 75
  assert (tmp_path / 'runs').read_text() == 'x\n'


def test_nothing_that_is_read_is_run_but_configs():
  # What would run its input: `command_line.py` alone, for configs.
  runs = re.compile(
    r'\b(c?pickle|marshal|shelve|dill|joblib|runpy)\b|\byaml\.|\bnp\.load\b|'
    r'allow_pickle|torch\.load|(?<![\w.])(eval|exec)\('
  )
  found = {
    path.name
    for path in (_ROOT / 'shared_bert').rglob('*.py')
    for line in path.read_text(encoding='utf-8').splitlines()
    if runs.search(line)
  }
  assert found == {'command_line.py'}


def test_citation_has_the_version_of_the_package():
  citation = (_ROOT / 'CITATION.cff').read_text(encoding='utf-8')
  found = re.search(r'^version: (\S+)$', citation, re.MULTILINE)
  assert found
  assert found[1] == shared_bert.__version__


def test_changelog_knows_the_version_of_the_package():
  changelog = (_ROOT / 'CHANGELOG.md').read_text(encoding='utf-8')
  assert re.search(rf'\b{re.escape(shared_bert.__version__)}\b', changelog)
