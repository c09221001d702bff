"""Compiled programs are kept for the next start, and trusted only if whole."""

import os
import resource
import shutil
import stat
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache as of_jax

from shared_bert import compilation_cache
from shared_bert.training import processes
from shared_bert.training.checkpoint import open_checkpoint
from tests.bad_input import ROOT
from tests.tiny_jobs import SMALL

LEAST = 'jax_persistent_cache_min_compile_time_secs'


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
  environment.pop('JAX_COMPILATION_CACHE_DIR', None)
  done = subprocess.run(
    [
      *(sys.executable, '-m', 'shared_bert.main', f'--workdir={workdir}'),
      *('--config=configs/pretrain.py:size=tiny', '--config.data.source=toy'),
      *(f'--config.{key}={value}' for key, value in settings.items()),
    ],
    cwd=ROOT,
    env=environment,
    capture_output=True,
    text=True,
    timeout=600,
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
  for program in cache.glob('*-cache'):
    _flip(program)
  assert _train(tmp_path / 'damaged', **place) == ''
  assert _programs(cache).keys() == kept.keys()
  # A place that cannot be used is told, once, and the run goes on.
  (tmp_path / 'file').touch()
  place['XDG_CACHE_HOME'] = str(tmp_path / 'file')
  said = _train(tmp_path / 'without', **place)
  assert said.startswith('compiled programs are not kept:')
  assert said.count('\n') == 1
  cold, *others = (
    jax.tree.leaves(open_checkpoint(tmp_path / run).load_params())
    for run in ('cold', 'warm', 'damaged', 'without')
  )
  for other in others:
    jax.tree.map(np.testing.assert_array_equal, cold, other)


@pytest.fixture
def cache(tmp_path, monkeypatch):
  """Where programs would be kept, of a process that keeps none yet."""
  names = ('jax_compilation_cache_dir', *compilation_cache._SETTINGS)
  before = {name: getattr(jax.config, name) for name in names}
  for name in names:
    monkeypatch.delenv(name.upper(), raising=False)
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
  listeners = []
  register = jax.monitoring.register_event_duration_secs_listener
  monkeypatch.setattr(
    jax.monitoring,
    'register_event_duration_secs_listener',
    lambda listener: (listeners.append(listener), register(listener)),
  )
  _start_anew()
  yield tmp_path / 'cache' / 'shared_bert' / 'xla'
  for listener in listeners:
    jax.monitoring.unregister_event_duration_listener(listener)
  for name, value in before.items():
    jax.config.update(name, value)
  of_jax.reset_cache()


def _start_anew():
  """Forgets what a process has compiled, and where it is kept."""
  jax.config.update('jax_compilation_cache_dir', None)
  of_jax.reset_cache()
  jax.clear_caches()


@pytest.fixture
def all_kept(cache, monkeypatch):
  """The same, where also what compiles at once is kept."""
  monkeypatch.setenv(LEAST.upper(), '0')
  jax.config.update(LEAST, 0.0)
  return cache


def _sine(factor=1):
  """A function of its own for each factor, compiled and called."""

  def sine(x):
    return jnp.sin(x) * factor

  return float(jax.jit(sine)(np.float32(2.0)))


def _of_sines(cache, ending='cache'):
  return sorted(cache.glob(f'jit_sine*-{ending}'), key=os.path.getmtime)


def test_programs_are_kept_where_nobody_else_can_put_any(cache):
  compilation_cache.keep_programs()
  assert jax.config.jax_compilation_cache_dir == str(cache)
  assert jax.config.jax_compilation_cache_max_size == 2**28
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


def _flip(program):
  data = bytearray(program.read_bytes())
  data[len(data) // 2] ^= 1
  program.write_bytes(data)


def _cut(program):
  program.write_bytes(program.read_bytes()[:-100])


def _lose(ending):
  return lambda program: program.with_name(
    program.name.removesuffix('cache') + ending
  ).unlink()


@pytest.mark.parametrize(
  'harm',
  [_flip, _cut, _lose('atime'), _lose('sha256'), _lose('cache')],
  ids=['a bit', 'its end', 'time of use', 'hash', 'program'],
)
def test_a_program_that_is_not_as_it_was_written_is_compiled_anew(
  harm, all_kept, capsys
):
  compilation_cache.keep_programs()
  value = _sine()
  (program,) = _of_sines(all_kept)
  harm(program)
  _start_anew()
  compilation_cache.keep_programs()
  assert not [*_of_sines(all_kept, '*')]
  assert _sine() == value
  assert len(_of_sines(all_kept, '*')) == 3
  # And is then read as any other.
  _start_anew()
  compilation_cache.keep_programs()
  assert _of_sines(all_kept) == [program]
  assert _sine() == value
  assert capsys.readouterr().err == ''


def test_half_a_program_on_a_full_disk_is_removed(all_kept, capsys):
  compilation_cache.keep_programs()
  before = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (200, before[1]))
  try:
    value = _sine()
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
  assert value == np.float32(np.sin(np.float32(2.0)))
  assert not _of_sines(all_kept, '*')
  assert _sine(2) == 2 * value
  assert len(_of_sines(all_kept)) == 1
  assert capsys.readouterr().err == ''


def test_a_folder_that_is_lost_is_told_of_once(all_kept, capsys):
  compilation_cache.keep_programs()
  _sine()
  shutil.rmtree(all_kept)
  all_kept.touch()
  assert _sine(2) == 2 * _sine()
  assert _sine(4) == 4 * _sine()
  said = capsys.readouterr().err
  assert said.startswith('compiled programs are not kept:')
  assert said.count('\n') == 1


def test_programs_stay_within_their_room_on_the_disk(all_kept, monkeypatch):
  most = 20_000
  monkeypatch.setitem(
    compilation_cache._SETTINGS, 'jax_compilation_cache_max_size', most
  )
  compilation_cache.keep_programs()
  for factor in range(30):
    _sine(factor)
    sizes = [path.stat().st_size for path in all_kept.glob('*-cache')]
    assert sum(sizes) <= most
  left = _of_sines(all_kept)
  assert 1 <= len(left) < 30
  # What is used last stays; what is beside those that went, goes with a start.
  _start_anew()
  compilation_cache.keep_programs()
  assert _of_sines(all_kept) == left
  assert len(_of_sines(all_kept, 'sha256')) == len(left)


_TWENTY = """
import jax
from shared_bert import compilation_cache
compilation_cache.keep_programs()
for n in range(20):
  print(float(jax.jit(lambda x, n=n: jax.numpy.sin(x) * n)(2.0)))
"""


def test_processes_share_programs_at_the_same_time(all_kept, tmp_path):
  environment = os.environ | {
    'XDG_CACHE_HOME': str(tmp_path / 'cache'),
    # Room for some of them, so that they also remove each other's.
    'JAX_COMPILATION_CACHE_MAX_SIZE': '40000',
  }
  environment.pop('JAX_COMPILATION_CACHE_DIR', None)
  running = [
    subprocess.Popen(
      [sys.executable, '-W', 'error', '-c', _TWENTY],
      cwd=ROOT,
      env=environment,
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
    )
    for _ in range(3)
  ]
  said = [process.communicate(timeout=300) for process in running]
  assert said[0][0].count('\n') == 20
  assert said == [(said[0][0], '')] * 3
  programs = [*all_kept.glob('*-cache')]
  assert programs
  assert sum(path.stat().st_size for path in programs) <= 40_000
