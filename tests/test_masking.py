"""Masking: BERT's counts and shares, and masks that belong to the row."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from shared_bert.data import masking

VOCAB_SIZE = 1000
MASK_ID = 4
SPECIAL = (0, 1, 2, 3, 4)
OPTIONS = {
  'num_predictions': 20,
  'ratio': 0.15,
  'mask_id': MASK_ID,
  'random_ids': (5, VOCAB_SIZE),
}


def _rows(num_rows=504, seq_len=128, full=False):
  """[CLS] tokens [SEP] padding, of many lengths; few shapes, few compiles."""
  rng = np.random.default_rng(0)
  ids = rng.integers(5, VOCAB_SIZE, (num_rows, seq_len)).astype(np.int32)
  lengths = rng.integers(3, seq_len + 1, num_rows)
  if full:
    lengths[:] = seq_len
  ids[:, 0] = 2
  ids[np.arange(num_rows), lengths - 1] = 3
  ids[np.arange(seq_len) >= lengths[:, None]] = 0
  return jnp.asarray(ids)


@jax.jit
def _mask(ids, seed=0, epoch=0, row_id=None):
  if row_id is None:
    row_id = jnp.arange(len(ids))
  keys = masking.row_keys(seed, jnp.full(len(ids), epoch), row_id)
  maskable = masking.maskable_tokens(ids, SPECIAL)
  return masking.mask_tokens(keys, ids, maskable, **OPTIONS)


def test_counts_are_exact_in_every_row():
  ids = _rows()
  masked = _mask(ids)
  maskable = np.isin(ids, SPECIAL, invert=True).sum(1)
  expected = [min(20, max(1, round(0.15 * m))) for m in maskable.tolist()]
  assert len(set(expected)) > 15
  np.testing.assert_array_equal(masked['masked_weights'].sum(1), expected)


def test_only_maskable_tokens_are_touched():
  ids = np.asarray(_rows())
  masked = jax.device_get(_mask(ids))
  changed = masked['input_ids'] != ids
  assert not changed[np.isin(ids, SPECIAL)].any()
  chosen = np.zeros_like(changed)
  for row, (positions, weights) in enumerate(
    zip(masked['masked_positions'], masked['masked_weights'], strict=True)
  ):
    used = positions[weights == 1]
    assert (np.diff(used) > 0).all(), 'ascending, so never twice'
    chosen[row, used] = True
  assert not (changed & ~chosen).any()
  assert not chosen[np.isin(ids, SPECIAL)].any()


def test_labels_are_the_tokens_that_were_there():
  ids = np.asarray(_rows())
  masked = jax.device_get(_mask(ids))
  used = masked['masked_weights'] == 1
  there = np.take_along_axis(ids, masked['masked_positions'], axis=1)
  np.testing.assert_array_equal(masked['masked_labels'][used], there[used])
  assert not masked['masked_labels'][~used].any()
  assert not masked['masked_positions'][~used].any()
  # Used slots come first.
  assert (np.diff(masked['masked_weights'], axis=1) <= 0).all()


def test_shapes_and_dtypes():
  masked = _mask(_rows())
  shapes = {name: (a.shape, a.dtype.name) for name, a in masked.items()}
  assert shapes == {
    'input_ids': ((504, 128), 'int32'),
    'masked_positions': ((504, 20), 'int32'),
    'masked_labels': ((504, 20), 'int32'),
    'masked_weights': ((504, 20), 'float32'),
  }


def test_shares_are_80_10_10():
  ids = np.asarray(_rows(4032, full=True))
  masked = jax.device_get(_mask(ids))
  used = masked['masked_weights'] == 1
  shown = np.take_along_axis(
    masked['input_ids'], masked['masked_positions'], axis=1
  )[used]
  labels = masked['masked_labels'][used]
  assert abs((shown == MASK_ID).mean() - 0.8) < 0.01
  # A random id equals the token in one case of 995.
  assert abs((shown == labels).mean() - 0.1 - 0.1 / 995) < 0.01
  random = (shown != MASK_ID) & (shown != labels)
  assert abs(random.mean() - 0.1) < 0.01
  assert shown[random].min() >= 5
  assert shown[random].max() < VOCAB_SIZE
  # Replacements spread over the range: their mean is within 5 sigma.
  sigma = 995 / np.sqrt(12 * random.sum())
  assert abs(shown[random].mean() - (5 + VOCAB_SIZE - 1) / 2) < 5 * sigma


def test_every_position_is_as_likely():
  masked = jax.device_get(_mask(_rows(4032, full=True)))
  used = masked['masked_weights'] == 1
  counts = np.bincount(masked['masked_positions'][used], minlength=128)
  assert counts[0] == counts[127] == 0
  share = counts[1:127] / 4032
  # 19 of 126 tokens; 5 sigma of a share over 4,032 rows is 0.028.
  assert abs(share.mean() - 19 / 126) < 1e-9
  assert np.abs(share - 19 / 126).max() < 0.029


def test_masks_depend_on_seed_epoch_and_row_only():
  ids = _rows()
  whole = _mask(ids, 7, 3)
  order = np.random.default_rng(1).integers(0, len(ids), len(ids))
  part = _mask(ids[order], 7, 3, jnp.asarray(order))
  for name, values in part.items():
    np.testing.assert_array_equal(values, whole[name][order])
  again = _mask(ids, 7, 3)
  np.testing.assert_array_equal(again['input_ids'], whole['input_ids'])
  for other in (_mask(ids, 8, 3), _mask(ids, 7, 4), _mask(ids, 3, 7)):
    differs = (other['input_ids'] != whole['input_ids']).any(axis=1)
    assert differs.mean() > 0.95


def test_the_masks_are_pinned():
  # Guards the promise that a resumed run sees the masks it would have seen.
  masked = _mask(jnp.full((504, 128), 9, jnp.int32))
  assert masked['masked_positions'][1, :5].tolist() == [13, 15, 22, 27, 28]


def test_padding_does_not_change_the_masks():
  ids = jnp.asarray(np.where(np.arange(128) < 40, _rows(full=True), 0))
  whole, cut = _mask(ids), _mask(ids[:, :64])
  for name in ('masked_positions', 'masked_labels', 'masked_weights'):
    np.testing.assert_array_equal(whole[name], cut[name])
  np.testing.assert_array_equal(whole['input_ids'][:, :64], cut['input_ids'])


@pytest.mark.devices
def test_many_devices_draw_the_same_masks():
  if len(jax.devices()) < 2:
    pytest.skip('needs more than one device')
  ids = _rows()
  mesh = jax.make_mesh(
    (len(jax.devices()),), ('data',), (jax.sharding.AxisType.Auto,)
  )
  spec = jax.sharding.PartitionSpec('data')
  spread = jax.device_put(ids, jax.sharding.NamedSharding(mesh, spec))
  for name, values in _mask(spread).items():
    np.testing.assert_array_equal(values, _mask(ids)[name])


def test_rows_without_anything_to_mask_stay_as_they_are():
  # Also with more slots than tokens.
  ids = jnp.asarray([[2, 3, 0, 0], [2, 9, 3, 0]], jnp.int32)
  masked = _mask(ids)
  assert masked['masked_positions'].shape == (2, 20)
  np.testing.assert_array_equal(masked['input_ids'][0], ids[0])
  np.testing.assert_array_equal(masked['masked_weights'].sum(1), [0, 1])
  np.testing.assert_array_equal(masked['masked_labels'][:, 0], [0, 9])


def test_default_slots_are_bert_s():
  assert masking.default_num_predictions(128, 0.15) == 20
  assert masking.default_num_predictions(512, 0.15) == 77
  assert masking.default_num_predictions(100, 0.07) == 7
  assert masking.default_num_predictions(3, 0.15) == 1
