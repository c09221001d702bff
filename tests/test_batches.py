"""Batches: pure in the step, whole epochs, exact trimming, clean threads."""

import threading
import time

import numpy as np
import pytest

from shared_bert.data import batches


def _arrays(num_rows=23, seq_len=16):
  rng = np.random.default_rng(0)
  # Short rows and long ones alike, so that every bucket has its turn.
  lengths = np.ceil(seq_len ** rng.random(num_rows)).astype(np.int32)
  segment_ids = (np.arange(seq_len) < lengths[:, None]).astype(np.int32)
  return {
    'input_ids': rng.integers(1, 99, (num_rows, seq_len)) * segment_ids,
    'segment_ids': segment_ids,
    'label': np.arange(num_rows, dtype=np.int32),
    'lengths': lengths,
  }


@pytest.fixture(params=['table', 'cipher'])
def _both_shuffles(request, monkeypatch):
  """Runs a test on the shuffle of small data sets and on that of large."""
  if request.param == 'cipher':
    monkeypatch.setattr(batches, '_TABLE_ROWS', 0)


@pytest.mark.usefixtures('_both_shuffles')
def test_every_epoch_visits_every_row_once_in_a_new_order():
  rows, epochs = batches.epoch_rows(37, seed=5, start=0, count=37 * 4)
  np.testing.assert_array_equal(epochs, np.repeat(np.arange(4), 37))
  orders = rows.reshape(4, 37)
  for order in orders:
    np.testing.assert_array_equal(np.sort(order), np.arange(37))
  assert len({tuple(order) for order in orders}) == 4


@pytest.mark.usefixtures('_both_shuffles')
def test_the_sequence_is_random_access():
  whole, whole_epochs = batches.epoch_rows(10, seed=1, start=0, count=60)
  for start in (0, 3, 17, 49):
    rows, epochs = batches.epoch_rows(10, seed=1, start=start, count=11)
    np.testing.assert_array_equal(rows, whole[start : start + 11])
    np.testing.assert_array_equal(epochs, whole_epochs[start : start + 11])


@pytest.mark.usefixtures('_both_shuffles')
def test_seed_and_epoch_are_not_confused():
  # With seed + epoch as the seed, seed 1 would replay epoch 1 of seed 0.
  later, _ = batches.epoch_rows(50, seed=0, start=50, count=50)
  other, _ = batches.epoch_rows(50, seed=1, start=0, count=50)
  assert (later != other).any()


def test_the_order_is_the_same_in_every_release():
  # Guards the promise that a resumed run sees the rows it would have seen.
  rows, _ = batches.epoch_rows(1000, seed=0, start=998, count=4)
  assert rows.tolist() == [26, 530, 7, 720]
  rows, _ = batches.epoch_rows(2**21, seed=0, start=2**21 - 2, count=4)
  assert rows.tolist() == [1137674, 1856422, 1918873, 163112]


def test_shuffle_has_no_favourite_places():
  # 400 epochs of 8 rows: each row is expected 50 times in each place.
  rows, _ = batches.epoch_rows(8, seed=2, start=0, count=8 * 400)
  counts = np.stack(
    [np.bincount(place, minlength=8) for place in rows.reshape(400, 8).T]
  )
  # Chi-squared with 49 degrees of freedom: 99.9 % lie below 85.4.
  assert ((counts - 50) ** 2 / 50).sum() < 85.4


def test_one_row_and_bad_requests():
  rows, epochs = batches.epoch_rows(1, seed=0, start=5, count=3)
  assert rows.tolist() == [0, 0, 0]
  assert epochs.tolist() == [5, 6, 7]
  with pytest.raises(ValueError, match='0 rows'):
    batches.epoch_rows(0, seed=0, start=0, count=1)


def test_batches_are_consecutive_and_straddle_epochs():
  rows = batches.Rows(_arrays(), batch_size=8, seed=3)
  expected, epochs = batches.epoch_rows(23, seed=3, start=0, count=40)
  steps = [4, 0, 2, 1, 3]  # any order of asking
  made = {step: rows(step) for step in steps}
  joined = np.concatenate([made[step]['row_id'] for step in range(5)])
  np.testing.assert_array_equal(joined, expected)
  np.testing.assert_array_equal(
    np.concatenate([made[step]['epoch'] for step in range(5)]), epochs
  )
  assert set(made[2]['epoch']) == {0, 1}
  for batch in made.values():
    np.testing.assert_array_equal(batch['label'], batch['row_id'])
    assert batch['row_id'].dtype == batch['epoch'].dtype == np.int32
    assert batch['input_ids'].shape == (8, 16)


def test_a_batch_may_exceed_the_data_set():
  batch = batches.Rows(_arrays(3), batch_size=8, seed=0)(0)
  assert sorted(np.bincount(batch['row_id'])) == [2, 3, 3]
  np.testing.assert_array_equal(batch['epoch'], [0, 0, 0, 1, 1, 1, 2, 2])


def test_buckets_cut_padding_only():
  arrays = _arrays()
  plain = batches.Rows(arrays, batch_size=2, seed=0)
  bucketed = batches.Rows(arrays, batch_size=2, seed=0, buckets=(4, 8))
  used = set()
  for step in range(60):
    whole, cut = plain(step), bucketed(step)
    length = cut['input_ids'].shape[1]
    used.add(length)
    longest = whole['lengths'].max()
    assert length == min(b for b in (4, 8, 16) if b >= longest)
    for name in ('input_ids', 'segment_ids'):
      np.testing.assert_array_equal(cut[name], whole[name][:, :length])
      assert not whole[name][:, length:].any()
    np.testing.assert_array_equal(cut['label'], whole['label'])
  assert used == {4, 8, 16}


def test_only_named_sequences_are_cut():
  arrays = {'x': np.ones((4, 6)), 'y': np.ones((4, 6))}
  lengths = np.array([2, 2, 2, 2])
  rows = batches.Rows(
    arrays, 2, 0, buckets=(3,), lengths=lengths, sequence_names=('x',)
  )
  assert rows(0)['x'].shape == (2, 3)
  assert rows(0)['y'].shape == (2, 6)


def test_narrow_integers_are_widened(tmp_path):
  np.save(tmp_path / 'rows.npy', np.full((5, 4), 65535, np.uint16))
  stored = np.load(tmp_path / 'rows.npy', mmap_mode='r')
  batch = batches.Rows({'input_ids': stored}, 2, 0)(0)
  assert batch['input_ids'].dtype == np.int32
  assert (batch['input_ids'] == 65535).all()
  assert type(batch['input_ids']) is np.ndarray


def test_bad_arrays_are_refused():
  with pytest.raises(ValueError, match='same number of rows'):
    batches.Rows({'a': np.ones(3), 'b': np.ones(4)}, 2, 0)
  with pytest.raises(ValueError, match='need `lengths`'):
    batches.Rows({'input_ids': np.ones((3, 4))}, 2, 0, buckets=(2,))
  with pytest.raises(ValueError, match='length of 5 exceeds 4'):
    batches.Rows(
      {'input_ids': np.ones((2, 4))}, 2, 0, (2,), lengths=np.array([1, 5])
    )
  with pytest.raises(ValueError, match='no batch'):
    batches.Rows({'a': np.ones((0, 4))}, 2, 0)


@pytest.mark.parametrize('sort', [False, True])
def test_evaluation_counts_every_row_exactly_once(sort):
  arrays = _arrays()
  lengths = arrays['lengths'] if sort else None
  made = list(batches.eval_batches(arrays, 5, buckets=(4, 8), lengths=lengths))
  assert len(made) == 5
  row_id = np.concatenate([batch['row_id'] for batch in made])
  weight = np.concatenate([batch['weight'] for batch in made])
  assert weight.dtype == np.float32
  assert weight.sum() == 23
  assert sorted(row_id[weight == 1]) == list(range(23))
  assert (row_id[weight == 0] == 0).all()
  if not sort:
    np.testing.assert_array_equal(row_id[:23], np.arange(23))
  else:
    order = np.argsort(arrays['lengths'], kind='stable')
    np.testing.assert_array_equal(row_id[:23], order)
    assert made[0]['input_ids'].shape == (5, 4)
  for batch in made:
    np.testing.assert_array_equal(batch['label'], batch['row_id'])
    length = batch['input_ids'].shape[1]
    assert length >= batch['lengths'].max()
    np.testing.assert_array_equal(
      batch['input_ids'], arrays['input_ids'][batch['row_id'], :length]
    )


def test_evaluation_of_nothing_is_no_batch():
  empty = {'input_ids': np.ones((0, 4), np.int32)}
  assert list(batches.eval_batches(empty, 5)) == []


def test_prefetch_keeps_order_and_places():
  made = list(
    batches.prefetch(lambda step: step, 3, 9, lambda batch: batch * 10)
  )
  assert made == [30, 40, 50, 60, 70, 80]
  assert list(batches.prefetch(lambda step: step, 3, 3, str)) == []
  assert _prefetch_threads() == []


def test_prefetch_works_ahead_but_not_further_than_depth():
  made = []
  source = batches.prefetch(
    lambda step: made.append(step) or step, 0, 50, lambda b: b, depth=2
  )
  assert next(source) == 0
  deadline = time.monotonic() + 5
  while len(made) < 4 and time.monotonic() < deadline:
    time.sleep(0.01)
  time.sleep(0.05)
  # One taken, two waiting, one in the thread's hands.
  assert made == [0, 1, 2, 3]
  source.close()
  assert _prefetch_threads() == []


@pytest.mark.parametrize('where', ['batch', 'place'])
def test_prefetch_raises_at_the_step_that_failed(where):
  def fail_at_two(step):
    if step == 2:
      raise RuntimeError('broken disk')
    return step

  def keep(value):
    return value

  functions = (fail_at_two, keep) if where == 'batch' else (keep, fail_at_two)
  source = batches.prefetch(functions[0], 0, 9, functions[1])
  assert [next(source), next(source)] == [0, 1]
  with pytest.raises(RuntimeError, match='broken disk'):
    next(source)
  assert _prefetch_threads() == []


def _prefetch_threads():
  return [t for t in threading.enumerate() if t.name == 'prefetch']
