"""Starts are quick: help and refusals come without JAX."""

import resource
import subprocess
import sys

import pytest

from tests.bad_input import ROOT

PRETRAIN = '--config=configs/pretrain.py:size=tiny'
TOY = (PRETRAIN, '--config.data.source=toy')
LOCAL = ('--config=configs/cola.py', '--config.data.source=local')
# What a command answers at once.
AT_ONCE = {
  **{
    f'{command} {flag}': (command, flag)
    for command in ('main', 'plan', 'prepare', 'export', 'predict')
    for flag in ('--help', '--no_such_flag=1')
  },
  **{
    f'{command} {flag}': (command, *TOY, flag)
    for command in ('main', 'plan')
    for flag in (
      '--config.no_such_key=1',
      '--config.train.steps=many',
      '--config.seed=-1',
      '--config.model.dtype=float64',
      '--config.train.optimizer=adm',
      '--config.train.schedule=linea',
    )
  },
  **{
    f'main {" ".join(flags)}': ('main', '--workdir=none', *flags)
    for flags in (
      ('--config=configs/none.py',),
      (PRETRAIN, '--config.data.corpus=none'),
      (PRETRAIN, '--config.data.text=none/*.txt'),
      (PRETRAIN, '--config.data.text=README.md', '--config.data.vocab=none'),
      (*TOY, '--config.init_from=none'),
      (*LOCAL, '--config.data.glue_dir=none'),
      (*LOCAL, '--config.data.glue_dir=.', '--config.data.task=all'),
      (
        '--config=configs/own.py',
        '--config.data.train_file=none.csv',
        '--config.data.dev_file=none.csv',
      ),
    )
  },
}
_PRINT = "print({'jax', 'flax', 'clu', 'tensorflow'} & sys.modules.keys())"
_RUN = f"""import runpy, sys
try:
  runpy.run_module(sys.argv[1], run_name='__main__', alter_sys=True)
finally:
  {_PRINT}
"""


@pytest.mark.parametrize('case', AT_ONCE)
def test_help_and_refusals_do_without_jax(case):
  command, *flags = AT_ONCE[case]
  before = resource.getrusage(resource.RUSAGE_CHILDREN)
  done = subprocess.run(
    # As `python -m`, with a look at what it imported.
    [sys.executable, '-c', _RUN, f'shared_bert.{command}', *flags],
    cwd=ROOT,
    capture_output=True,
    text=True,
    timeout=300,
  )
  after = resource.getrusage(resource.RUSAGE_CHILDREN)
  assert done.returncode == ('--help' not in flags), done.stderr
  assert done.stdout.splitlines()[-1] == 'set()'
  # Of the processor: the clock counts what else a machine does.
  seconds = sum(
    after_ - before_ for after_, before_ in zip(after[:2], before[:2], strict=1)
  )
  assert seconds < 2


def test_the_package_is_imported_without_what_is_slow():
  done = subprocess.run(
    [sys.executable, '-c', 'import shared_bert, sys\n' + _PRINT],
    cwd=ROOT,
    capture_output=True,
    text=True,
    check=True,
  )
  assert done.stdout == 'set()\n'
