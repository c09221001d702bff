"""Damage, full disks and kills cost at most the save they hit."""

import hashlib
import os
import pathlib
import random
import resource
import subprocess
import sys
import time

import jax.numpy as jnp
import numpy as np
import pytest

from shared_bert.errors import UserError
from shared_bert.training import manifest, state_io
from shared_bert.training.checkpoint import Checkpoints, open_checkpoint
from tests.process_group import free_port
from tests.tiny_state import (
  abstract_of,
  assert_same,
  names_in,
  save_states,
  shapes,
  state_of,
)

_ROOT = pathlib.Path(__file__).parents[1]


_DAMAGE = {
  'flipped bit': lambda data: data[:-1] + bytes([data[-1] ^ 1]),
  'flipped first': lambda data: bytes([data[0] ^ 16]) + data[1:],
  'truncated': lambda data: data[:-1],
  'emptied': lambda data: b'',
  'extra byte': lambda data: data + b'\n',
  'missing': None,
}


@pytest.fixture(scope='module')
def two_checkpoints(tmp_path_factory):
  directory = tmp_path_factory.mktemp('two')
  save_states(directory, [1, 2])
  return directory


@pytest.mark.parametrize('damage', _DAMAGE.values(), ids=_DAMAGE)
def test_damage_to_any_file_is_named_and_passed_over(
  two_checkpoints, capsys, damage
):
  files = [
    path for path in (two_checkpoints / '2').rglob('*') if path.is_file()
  ]
  assert len(files) > 10
  for path in files:
    whole = path.read_bytes()
    if damage is None:
      path.unlink()
    elif whole:
      path.write_bytes(damage(whole))
    elif damage(b'12') == b'12\n':
      path.write_bytes(b'\n')
    else:
      continue  # An empty file cannot be cut or flipped.
    assert Checkpoints(two_checkpoints).latest() == 1, path
    line = capsys.readouterr().err
    assert line.count('\n') == 1
    assert f'{two_checkpoints / "2"}:' in line
    assert str(path) in line
    with pytest.raises(UserError, match='damaged') as error:
      Checkpoints(two_checkpoints).restore(2, shapes())
    assert str(path) in str(error.value)
    with pytest.raises(UserError, match='damaged'):
      open_checkpoint(two_checkpoints / '2')
    path.write_bytes(whole)
  assert Checkpoints(two_checkpoints).latest() == 2
  assert not capsys.readouterr().err


def test_a_flipped_bit_anywhere_is_named_and_passed_over(
  two_checkpoints, capsys
):
  random_ = random.Random(0)
  files = [p for p in (two_checkpoints / '2').rglob('*') if p.is_file()]
  for path in files:
    whole = path.read_bytes()
    for _ in range(8 if whole else 0):
      damaged = bytearray(whole)
      damaged[random_.randrange(len(whole))] ^= 1 << random_.randrange(8)
      path.write_bytes(damaged)
      assert Checkpoints(two_checkpoints).latest() == 1, path
      assert str(path) in capsys.readouterr().err
    path.write_bytes(whole)
  assert Checkpoints(two_checkpoints).latest() == 2


@pytest.mark.parametrize('name', ['../outside', '/etc/hostname', 'link'])
def test_a_manifest_that_leads_out_of_its_folder_is_not_followed(
  tmp_path, capsys, name
):
  save_states(tmp_path, [1, 2])
  folder = tmp_path / '2'
  (tmp_path / 'outside').write_text('a secret')
  (folder / 'link').symlink_to(tmp_path / 'outside')
  facts = manifest.read(folder)
  outside = (folder / name).resolve()
  facts['files'][name] = {
    'size': outside.stat().st_size,
    'sha256': hashlib.sha256(outside.read_bytes()).hexdigest(),
  }
  manifest.write_file(folder / manifest.NAME, manifest._encode(facts))
  assert Checkpoints(tmp_path).latest() == 1
  assert 'leads out of the checkpoint' in capsys.readouterr().err


def test_a_clock_that_jumps_loses_no_checkpoint(tmp_path):
  # Folders that seem to come from the past or the future, as after a clock
  # was set: neither takes a published checkpoint away.
  for step, years in ((1, -3), (2, 3), (3, -3)):
    save_states(tmp_path, [step], keep_last=3)
    moved = time.time() + years * 31_557_600
    os.utime(tmp_path / str(step), (moved, moved))
  assert names_in(tmp_path) == ['1', '2', '3']
  assert Checkpoints(tmp_path).latest() == 3


def test_tool_that_rewrites_the_manifest_is_noticed(tmp_path, capsys):
  save_states(tmp_path, [1])
  path = tmp_path / '1' / 'manifest.json'
  path.write_text(path.read_text().replace('"step": 1', '"step":  1'))
  assert Checkpoints(tmp_path).latest() is None
  assert 'is not what was written' in capsys.readouterr().err


@pytest.mark.parametrize(
  ('mode', 'scores', 'best', 'kept'),
  [
    ('max', [0.1, 0.9, 0.5, 0.9, 0.2], 2, ['2', '4', '5']),
    ('min', [0.1, 0.9, 0.5, 0.9, 0.2], 1, ['1', '4', '5']),
    ('max', [np.nan, 0.1, np.inf, None, None], 2, ['2', '4', '5']),
    ('max', [0.1, None, None, None, 0.2], 5, ['4', '5']),
    ('max', [None, None, None, None, None], None, ['4', '5']),
  ],
)
def test_last_few_and_the_best_are_kept(tmp_path, mode, scores, best, kept):
  leaf = {'params': jnp.zeros(2)}
  for step, score in enumerate(scores, 1):
    # Each step in a run of its own: what is best is read from the disk.
    checkpoints = Checkpoints(tmp_path, 2, 'dev/f1', mode)
    metrics = {} if score is None else {'dev/f1': score, 'dev/loss': -step}
    checkpoints.save(step, leaf, {}, metrics)
    checkpoints.close()
  assert names_in(tmp_path) == kept
  assert checkpoints.best() == best
  assert checkpoints.latest() == len(scores)


def test_damaged_best_is_passed_over(tmp_path, capsys):
  checkpoints = Checkpoints(tmp_path, 3, 'f1')
  for step, score in ((1, 0.3), (2, 0.9), (3, 0.5)):
    checkpoints.save(step, {'params': jnp.zeros(2)}, {}, {'f1': score})
  checkpoints.close()
  (tmp_path / '2' / 'metadata.json').unlink()
  assert checkpoints.best() == 3
  assert str(tmp_path / '2' / 'metadata.json') in capsys.readouterr().err


def test_unfinished_save_does_not_count_though_it_be_whole(tmp_path):
  checkpoints = Checkpoints(tmp_path, 1, 'f1')
  for step, score in ((1, 0.9), (2, 0.3), (3, 0.6)):
    checkpoints.save(step, {'params': jnp.zeros(2)}, {}, {'f1': score})
  checkpoints.close()
  (tmp_path / '1').rename(tmp_path / '1.saving')
  assert checkpoints.best() == 3
  (tmp_path / '3').rename(tmp_path / '3.saving')
  assert checkpoints.latest() is None


def test_damaged_later_checkpoint_does_not_displace_the_newest(tmp_path):
  save_states(tmp_path, [10, 30])
  (tmp_path / '30' / 'vocab.txt').write_bytes(b'')
  save_states(tmp_path, [20], keep_last=1)
  assert names_in(tmp_path) == ['20', '30']
  assert Checkpoints(tmp_path).latest() == 20
  save_states(tmp_path, [30], keep_last=1)
  assert names_in(tmp_path) == ['30']
  assert_same(open_checkpoint(tmp_path).load(shapes()), state_of(30))


def test_same_step_is_replaced_and_never_absent(tmp_path):
  checkpoints = Checkpoints(tmp_path)
  checkpoints.save(5, state_of(1), {'take': 1})
  assert checkpoints.metadata(5) == {'take': 1}
  # As if killed when the old one was set aside and the new not yet in place.
  checkpoints.wait()
  (tmp_path / '5').rename(tmp_path / '5.old')
  assert checkpoints.latest() == 5
  assert_same(checkpoints.restore(5, shapes()), state_of(1))
  for take in (2, 3):
    checkpoints.save(5, state_of(take), {'take': take})
    assert checkpoints.metadata(5) == {'take': take}
    assert_same(checkpoints.restore(5, shapes()), state_of(take))
    assert names_in(tmp_path) == ['5']
  checkpoints.close()


def test_saves_in_quick_succession_are_all_kept(tmp_path):
  checkpoints = Checkpoints(tmp_path, keep_last=4)
  states = {step: {'w': jnp.full((1 << 19,), step)} for step in range(1, 5)}
  for step, state in states.items():
    checkpoints.save(step, state, {})
  assert checkpoints.latest() == 4
  checkpoints.close()
  for step, state in states.items():
    assert_same(checkpoints.restore(step, abstract_of(state)), state)


def test_leftovers_go_at_the_next_save_and_not_before(tmp_path, capsys):
  save_states(tmp_path, [1])
  leftovers = ['2.saving', '3', '4.saving', 'notes']
  for name in leftovers:
    (tmp_path / name / 'state.orbax-checkpoint-tmp').mkdir(parents=True)
    if name != '4.saving':  # That one is another process's, just begun.
      os.utime(tmp_path / name, (time.time() - 9999,) * 2)
  assert Checkpoints(tmp_path).latest() == 1
  told = capsys.readouterr().err.splitlines()
  assert [line.split(':')[0].split('/')[-1] for line in told] == [
    '4.saving',
    '3',
    '2.saving',
  ]
  assert names_in(tmp_path) == ['1', *leftovers]
  save_states(tmp_path, [2])
  assert names_in(tmp_path) == ['1', '2', '4.saving', 'notes']


def test_place_that_cannot_be_written_is_told(tmp_path):
  (tmp_path / 'file').write_bytes(b'')
  checkpoints = Checkpoints(tmp_path / 'file' / 'checkpoints')
  with pytest.raises(UserError, match=r'checkpoints/1 .*: Not a directory'):
    checkpoints.save(1, state_of(1), {})
  checkpoints.close()


def test_full_disk_is_told_and_the_last_checkpoint_kept(
  tmp_path, caplog, capfd
):
  large = {'params': jnp.arange(1 << 21)}
  checkpoints = Checkpoints(tmp_path)
  checkpoints.save(1, state_of(1), {})
  checkpoints.wait()
  limits = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 22, limits[1]))
  try:
    with pytest.raises(UserError, match='/2 could not .*: File too large'):
      checkpoints.save(2, large, {})
      checkpoints.save(3, state_of(3), {})
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
  # Told once, by us: neither the log nor the terminal has Orbax's tracebacks.
  assert not caplog.records
  assert capfd.readouterr() == ('', '')
  assert names_in(tmp_path) == ['1']
  assert_same(checkpoints.restore(1, shapes()), state_of(1))
  checkpoints.save(3, large, {})
  assert checkpoints.latest() == 3
  checkpoints.close()


def test_orbax_fails_at_once_where_it_cannot_make_its_folder(tmp_path):
  (tmp_path / 'file').write_bytes(b'')
  with pytest.raises(NotADirectoryError):
    state_io.start_save(tmp_path / 'file' / 'state', {'w': jnp.zeros(2)})


_SAVE_FOREVER = """
import sys, time
import jax.numpy as jnp
from shared_bert.training import state_io
from shared_bert.training.checkpoint import Checkpoints
checkpoints = Checkpoints(sys.argv[1])
step = checkpoints.latest() or 0
while True:
  step += 1
  checkpoints.save(step, {'w': jnp.full((300_000,), step)}, {'step': step})
  if step % 2:
    checkpoints.wait()
    print(step, flush=True)
"""


def _save_and_kill(directory, rounds, seed):
  generator = random.Random(seed)
  for _ in range(rounds):
    process = subprocess.Popen(
      [sys.executable, '-c', _SAVE_FOREVER, str(directory)],
      stdout=subprocess.PIPE,
      env={**os.environ, 'PYTHONPATH': str(_ROOT), 'JAX_NUM_CPU_DEVICES': '1'},
    )
    first = process.stdout.readline()
    time.sleep(generator.uniform(0, 0.4))
    process.kill()
    saved = int((first + process.communicate()[0]).split()[-1])
    checkpoint = open_checkpoint(directory)
    assert checkpoint.step >= saved
    assert checkpoint.metadata == {'step': checkpoint.step}
    loaded = checkpoint.load({'w': np.zeros(300_000, np.int32)})
    np.testing.assert_array_equal(loaded['w'], checkpoint.step)
    assert len(names_in(directory)) <= 5


def test_killed_while_saving_loses_nothing_that_was_saved(tmp_path):
  _save_and_kill(tmp_path, rounds=3, seed=0)


@pytest.mark.slow
def test_killed_while_saving_many_times(tmp_path):
  _save_and_kill(tmp_path, rounds=25, seed=1)


_PROCESS = """
import sys
from shared_bert.training import processes
processes.join(f'localhost:{sys.argv[2]}', 2, int(sys.argv[3]), None)
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from shared_bert.training import state_io
from shared_bert.training.checkpoint import Checkpoints
mesh = jax.make_mesh((4,), ('data',), (jax.sharding.AxisType.Auto,))
sharding = NamedSharding(mesh, PartitionSpec('data'))
values = np.arange(8, dtype=np.float32)
array = jax.make_array_from_callback((8,), sharding, lambda i: values[i])
checkpoints = Checkpoints(sys.argv[1])
for step in (1, 2, 3):
  checkpoints.save(step, {'w': array}, {'step': step}, {'f1': step})
assert checkpoints.latest() == 3
target = jax.ShapeDtypeStruct((8,), jnp.float32, sharding=sharding)
loaded = checkpoints.restore(3, {'w': target})['w']
for shard in loaded.addressable_shards:
  np.testing.assert_array_equal(shard.data, values[shard.index])
checkpoints.close()
"""


@pytest.mark.slow
def test_two_processes_write_one_checkpoint(tmp_path):
  port = free_port()
  env = {**os.environ, 'PYTHONPATH': str(_ROOT), 'JAX_NUM_CPU_DEVICES': '2'}
  processes = [
    subprocess.Popen(
      [sys.executable, '-c', _PROCESS, str(tmp_path), str(port), str(rank)],
      env=env,
    )
    for rank in range(2)
  ]
  assert [process.wait(120) for process in processes] == [0, 0]
  assert names_in(tmp_path) == ['2', '3']
  loaded = open_checkpoint(tmp_path).load({'w': np.zeros(8, np.float32)})
  np.testing.assert_array_equal(loaded['w'], np.arange(8))
