"""Starts are quick: what is not imported, kept programs, compiled once."""

import collections
import os
import resource
import stat
import subprocess
import sys

import jax
import numpy as np
import pytest

from shared_bert import compilation_cache
from shared_bert.pretrain import pretrain
from shared_bert.training import processes
from shared_bert.training.checkpoint import open_checkpoint
from tests.bad_input import ROOT
from tests.tiny_jobs import SMALL, pretrain_config

TOY = ('--config=configs/pretrain.py:size=tiny', '--config.data.source=toy')
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
}
_RUN = (
  'import runpy, sys\n'
  'try:\n'
  "  runpy.run_module(sys.argv[1], run_name='__main__', alter_sys=True)\n"
  'finally:\n'
  "  print({'jax', 'flax', 'clu', 'tensorflow'} & sys.modules.keys())\n"
)


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


def _train(workdir, **environment):
  """A run of a few steps as a process of its own; returns its stderr."""
  settings = {
    **{f'model.{k}': v for k, v in SMALL.items()},
    'data.seq_len': 16,
    'data.heldout_rows': 16,
    'tensorboard': False,
    'train.batch_size': 16,
    'train.steps': 4,
    'train.warmup_steps': 1,
    'train.checkpoint_every': 2,
  }
  environment = os.environ | {'JAX_NUM_CPU_DEVICES': '1'} | environment
  del environment['JAX_COMPILATION_CACHE_DIR']
  done = subprocess.run(
    [
      *(sys.executable, '-m', 'shared_bert.main', f'--workdir={workdir}', *TOY),
      *(f'--config.{key}={value}' for key, value in settings.items()),
    ],
    cwd=ROOT,
    env=environment,
    capture_output=True,
    text=True,
    timeout=300,
  )
  assert not done.returncode, done.stderr
  return done.stderr


def _programs(folder):
  return {p.name: p.stat().st_mtime_ns for p in folder.glob('*-cache')}


def test_runs_from_kept_programs_end_with_the_bits_of_the_first(tmp_path):
  cache = tmp_path / 'cache' / 'shared_bert' / 'xla'
  everything = {'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0'}
  place = {'XDG_CACHE_HOME': str(tmp_path / 'cache'), **everything}
  assert _train(tmp_path / 'cold', **place) == ''
  kept = _programs(cache)
  assert any(name.startswith('jit_train_step') for name in kept)
  assert _train(tmp_path / 'warm', **place) == ''
  assert _programs(cache) == kept
  # A place that cannot be used is told, once, and the run goes on.
  (tmp_path / 'file').touch()
  place['XDG_CACHE_HOME'] = str(tmp_path / 'file')
  said = _train(tmp_path / 'without', **place)
  assert said.startswith('compiled programs are not kept:')
  assert said.count('\n') == 1
  cold, warm, without = (
    jax.tree.leaves(open_checkpoint(tmp_path / run).load_params())
    for run in ('cold', 'warm', 'without')
  )
  jax.tree.map(np.testing.assert_array_equal, cold, warm)
  jax.tree.map(np.testing.assert_array_equal, cold, without)


@pytest.fixture
def cache(tmp_path, monkeypatch):
  """Where programs would be kept, of a process that keeps none yet."""
  names = ('jax_compilation_cache_dir', *compilation_cache._SETTINGS)
  before = {name: getattr(jax.config, name) for name in names}
  for name in names:
    monkeypatch.delenv(name.upper(), raising=False)
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
  jax.config.update('jax_compilation_cache_dir', None)
  yield tmp_path / 'cache' / 'shared_bert' / 'xla'
  for name, value in before.items():
    jax.config.update(name, value)


def test_programs_are_kept_where_nobody_else_can_put_any(cache):
  compilation_cache.keep_programs()
  assert jax.config.jax_compilation_cache_dir == str(cache)
  assert jax.config.jax_compilation_cache_max_size == 2**30
  for folder in (cache, cache.parent):
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


@pytest.mark.parametrize('open_to_others', ['xla', 'shared_bert'])
def test_a_folder_that_others_can_write_is_not_trusted(
  open_to_others, cache, capsys
):
  cache.mkdir(parents=True)
  (cache if open_to_others == 'xla' else cache.parent).chmod(0o777)
  compilation_cache.keep_programs()
  assert jax.config.jax_compilation_cache_dir is None
  said = capsys.readouterr()
  assert said.out == ''
  assert 'others, or they can write there' in said.err
  assert 'JAX_COMPILATION_CACHE_DIR' in said.err
  assert said.err.count('\n') == 1


def test_a_program_that_was_not_written_whole_goes(cache):
  cache.mkdir(parents=True, mode=0o700)
  for name in ('half-cache', 'whole-cache', 'whole-atime'):
    (cache / name).write_bytes(b'x' * 8)
  compilation_cache.keep_programs()
  assert {path.name for path in cache.glob('*-*')} == {
    'whole-cache',
    'whole-atime',
  }


@pytest.mark.parametrize('why', ['a folder of theirs', 'off', 'processes'])
def test_what_the_user_says_of_the_cache_stays(why, cache, monkeypatch):
  if why == 'a folder of theirs':
    jax.config.update('jax_compilation_cache_dir', 'theirs')
  if why == 'off':
    jax.config.update('jax_enable_compilation_cache', False)
  if why == 'processes':
    monkeypatch.setattr(processes, '_count', 2)
  before = jax.config.jax_compilation_cache_dir
  try:
    compilation_cache.keep_programs()
  finally:
    jax.config.update('jax_enable_compilation_cache', True)
  assert jax.config.jax_compilation_cache_dir == before
  assert not cache.exists()


def test_a_relative_cache_folder_is_ignored_for_the_usual(
  cache, monkeypatch, tmp_path
):
  del cache
  monkeypatch.setenv('XDG_CACHE_HOME', 'relative')
  monkeypatch.setenv('HOME', str(tmp_path))
  compilation_cache.keep_programs()
  usual = tmp_path / '.cache' / 'shared_bert' / 'xla'
  assert jax.config.jax_compilation_cache_dir == str(usual)
  assert usual.is_dir()


# Functions of rows: a step, an evaluation, and a look at the attention of some.
OF_ROWS = ('jit(train_step)', 'jit(<lambda>)', 'jit(look)')


def _compiled(job, config, workdir, caplog):
  """How often a job in a fresh process would compile each function.

  `jax.log_compiles` tells of every compilation, also where the program is then
  found in a cache on the disk.
  """
  jax.clear_caches()
  caplog.clear()
  with jax.log_compiles():
    job(config, workdir)
  return collections.Counter(
    message.split()[1]
    for message in caplog.messages
    if message.startswith('Compiling ')
  )


def _of_rows(compiled):
  return {name: compiled[name] for name in OF_ROWS}


def test_pre_training_compiles_three_functions_of_rows_and_each_once(
  text, pretrained, tmp_path, caplog
):
  del pretrained  # the corpus is prepared by then
  once = _compiled(
    pretrain, pretrain_config(text, steps=2), tmp_path / 'once', caplog
  )
  assert _of_rows(once) == dict.fromkeys(OF_ROWS, 1)
  # What evaluates, saves and goes on compiles nothing again.
  config = pretrain_config(text, steps=6)
  config.train.eval_every, config.train.checkpoint_every = 2, 1
  assert _compiled(pretrain, config, tmp_path / 'often', caplog) == once
