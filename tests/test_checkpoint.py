"""What is saved comes back whole and bit for bit, in any sharding."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from shared_bert.errors import UserError
from shared_bert.training.checkpoint import Checkpoints, open_checkpoint
from tests.tiny_state import (
  FILES,
  METADATA,
  abstract_of,
  assert_same,
  save_states,
  shapes,
  sharding_over,
  state_of,
)


@pytest.fixture(scope='module')
def two_checkpoints(tmp_path_factory):
  directory = tmp_path_factory.mktemp('two')
  save_states(directory, [1, 2])
  return directory


@pytest.mark.devices
def test_state_comes_back_bit_for_bit_in_its_sharding(tmp_path, caplog):
  state = state_of(3, devices=jax.device_count())
  checkpoints = Checkpoints(tmp_path)
  checkpoints.save(3, state, METADATA)
  assert checkpoints.latest() == 3
  restored = checkpoints.restore(3, abstract_of(state))
  checkpoints.close()
  assert_same(restored, state)
  for ours, theirs in zip(
    jax.tree.leaves(restored), jax.tree.leaves(state), strict=True
  ):
    assert ours.sharding == theirs.sharding
  assert not caplog.records


@pytest.mark.devices
@pytest.mark.parametrize(('before', 'after'), [(8, 1), (1, 8), (8, 2), (2, 4)])
def test_state_comes_back_on_another_number_of_devices(tmp_path, before, after):
  if jax.device_count() < 8:
    pytest.skip('needs 8 devices')
  state = state_of(3, before)
  checkpoints = Checkpoints(tmp_path)
  checkpoints.save(3, state, {})
  abstract = abstract_of(state_of(0, after))
  restored = checkpoints.restore(3, abstract)
  checkpoints.close()
  assert_same(restored, state)
  kernel = restored['params']['encoder']['kernel']
  assert len(kernel.sharding.device_set) == after
  assert kernel.sharding == abstract['params']['encoder']['kernel'].sharding


def test_leaf_without_sharding_comes_back_as_numpy(tmp_path):
  save_states(tmp_path, [3])
  restored = open_checkpoint(tmp_path).load(shapes())
  assert {type(leaf) for leaf in jax.tree.leaves(restored)} == {np.ndarray}
  assert_same(restored, state_of(3))


def test_buffers_may_be_given_away_once_save_returns(tmp_path):
  overwrite = jax.jit(
    lambda tree: jax.tree.map(lambda x: x * 0 - 1, tree), donate_argnums=0
  )
  size = 1 << 20
  host = np.arange(size)
  device = jnp.arange(size, dtype=jnp.float32)
  checkpoints = Checkpoints(tmp_path)
  checkpoints.save(1, {'host': host, 'device': device}, {})
  host[:] = -1
  for _ in range(3):
    device = overwrite(device)
  device.block_until_ready()
  restored = checkpoints.restore(
    1, {'host': host, 'device': jax.ShapeDtypeStruct((size,), jnp.float32)}
  )
  checkpoints.close()
  np.testing.assert_array_equal(restored['host'], np.arange(size))
  np.testing.assert_array_equal(
    restored['device'], np.arange(size, dtype=np.float32)
  )


def test_parameters_alone_come_back_without_knowing_their_shapes(tmp_path):
  # Layers that are not scanned are a dictionary with numbers as keys.
  layers = {
    'layers': {i: {'w': jnp.full((2,), i, jnp.bfloat16)} for i in (0, 1)}
  }
  checkpoints = Checkpoints(tmp_path)
  checkpoints.save(1, {'params': layers, 'step': jnp.int32(1)}, {})
  checkpoints.close()
  loaded = open_checkpoint(tmp_path).load_params()
  expected = {'layers': {str(i): layers['layers'][i] for i in (0, 1)}}
  assert_same(loaded, expected)
  assert_same(open_checkpoint(tmp_path).load_params(layers), layers)


@pytest.mark.devices
def test_parameters_alone_come_back_in_a_sharding(tmp_path):
  save_states(tmp_path, [3])
  abstract = abstract_of(state_of(0, jax.device_count()))['params']
  params = open_checkpoint(tmp_path).load_params(abstract)
  assert_same(params, state_of(3)['params'])
  assert params['encoder']['kernel'].sharding == sharding_over(
    jax.device_count(), 'data'
  )
  del abstract['head']
  with pytest.raises(UserError, match='params/head/scale .* extra'):
    open_checkpoint(tmp_path).load_params(abstract)


def test_checkpoint_tells_what_it_was_told(tmp_path):
  checkpoints = Checkpoints(tmp_path / 'checkpoints')
  checkpoints.save(
    4,
    state_of(4),
    METADATA,
    {'dev/f1': 0.5, 'dev/mcc': np.nan},
    FILES,
  )
  assert checkpoints.open_latest().metadata == METADATA
  assert checkpoints.metadata(4) == METADATA
  assert checkpoints.metrics(4) == {'dev/f1': 0.5, 'dev/mcc': None}
  checkpoints.close()
  step_folder = tmp_path / 'checkpoints' / '4'
  for path in (tmp_path, tmp_path / 'checkpoints', step_folder):
    checkpoint = open_checkpoint(path)
    assert checkpoint.step == 4
    assert checkpoint.path == step_folder
    assert checkpoint.metadata == METADATA
    assert checkpoint.metrics == {'dev/f1': 0.5, 'dev/mcc': None}
    assert checkpoint.versions['jax'] == jax.__version__
    assert checkpoint.leaves['params/encoder/bias'] == 'bfloat16[8]'
    for name, data in FILES.items():
      assert (checkpoint.path / name).read_bytes() == data


def test_checkpoint_may_be_moved(tmp_path):
  save_states(tmp_path / 'here', [3])
  (tmp_path / 'here').rename(tmp_path / 'there')
  assert_same(
    open_checkpoint(tmp_path / 'there').load(shapes()),
    state_of(3),
  )


@pytest.mark.parametrize(
  ('path', 'words'),
  [
    ('', 'no intact checkpoint in'),
    ('nowhere', 'nowhere is not there: name'),
    ('checkpoints', 'no intact checkpoint in'),
  ],
)
def test_nothing_to_open_is_told(tmp_path, path, words):
  (tmp_path / 'checkpoints').mkdir()
  with pytest.raises(UserError, match=words):
    open_checkpoint(tmp_path / path)
  assert Checkpoints(tmp_path / path).latest() is None
  with pytest.raises(UserError, match='no checkpoint .*/7'):
    Checkpoints(tmp_path / path).restore(7, {})


_MISFITS = {
  'shape': (
    {'table': np.zeros(6, np.int32)},
    r'table has another shape, int32\[5\] there and int32\[6\] here',
  ),
  'dtype': (
    {'table': np.zeros(5, np.uint32)},
    r'table has another dtype, int32\[5\] there and uint32\[5\] here',
  ),
  'missing': (
    {'tables': np.zeros(6, np.int32)},
    r'tables \(int32\[6\]\) is missing',
  ),
  'extra': ({'table': None}, r'table \(int32\[5\]\) is extra'),
}


@pytest.mark.parametrize(('change', 'fault'), _MISFITS.values(), ids=_MISFITS)
def test_state_that_does_not_fit_is_refused_by_leaf(
  two_checkpoints, change, fault
):
  wanted = shapes()
  head = wanted['params']['head'] | change
  wanted = wanted | {'params': wanted['params'] | {'head': head}}
  with pytest.raises(UserError, match=f'does not fit.* params/head/{fault}'):
    Checkpoints(two_checkpoints).restore(2, wanted)


def test_other_optimizer_is_refused_by_leaf(two_checkpoints):
  params = shapes()['params']
  state = jax.eval_shape(optax.sgd(0.1, momentum=0.9).init, params)
  with pytest.raises(
    UserError, match='opt_state/0/trace/.* is missing'
  ) as error:
    Checkpoints(two_checkpoints).restore(2, shapes() | {'opt_state': state})
  assert 'more' in str(error.value)


def test_leaf_that_is_no_array_is_refused(tmp_path):
  with pytest.raises(TypeError, match='params/rate is a float'):
    Checkpoints(tmp_path).save(1, {'params': {'rate': 0.1}}, {})


@pytest.mark.parametrize('name', ['manifest.json', 'state', '../vocab.txt'])
def test_file_cannot_replace_our_own(tmp_path, name):
  with pytest.raises(ValueError, match='cannot name a file'):
    Checkpoints(tmp_path).save(1, state_of(1), {}, files={name: b''})


@pytest.mark.parametrize('bad', [{'keep_last': 0}, {'best_mode': 'least'}])
def test_impossible_retention_is_refused(tmp_path, bad):
  with pytest.raises(UserError, match=next(iter(bad))):
    Checkpoints(tmp_path, **bad)
