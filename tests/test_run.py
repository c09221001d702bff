"""The run: exact resume, non-finite losses, initial parameters, logs."""

import json
import os
import signal
import time

import jax
import numpy as np
import pytest

from shared_bert.errors import Preempted, UserError
from shared_bert.training.checkpoint import Checkpoints, open_checkpoint
from tests import tiny


def metrics(workdir):
  rows = [
    json.loads(line)
    for line in (workdir / 'metrics.jsonl').read_text().splitlines()
  ]
  return [
    {k: v for k, v in row.items() if k != 'stall' and 'per_second' not in k}
    for row in rows
  ]


def arrays(workdir, step):
  """Every array of a checkpoint: parameters, optimiser, window, step."""
  found = open_checkpoint(workdir / 'checkpoints' / str(step))
  return jax.device_get(found.load(tiny.abstract_state()))


def stop_at(step, number=signal.SIGTERM):
  def make_batch(at):
    if at == step:
      os.kill(os.getpid(), number)
    return tiny.batch(at)

  return make_batch


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT])
def test_an_interrupted_run_ends_bit_for_bit_where_a_whole_one_does(
  tmp_path, number
):
  whole, parts = tmp_path / 'whole', tmp_path / 'parts'
  tiny.run(whole)
  # Step 3 is in the middle of a log window of 2.
  with pytest.raises(Preempted, match='step 3 of 6'):
    tiny.run(parts, make_batch=stop_at(2, number))
  assert Checkpoints(parts / 'checkpoints').latest() == 3
  tiny.run(parts)
  jax.tree.map(
    np.testing.assert_array_equal, arrays(whole, 6), arrays(parts, 6)
  )
  assert metrics(whole) == metrics(parts)


def test_a_run_killed_after_its_log_forgets_what_it_must_redo(tmp_path):
  whole, parts = tmp_path / 'whole', tmp_path / 'parts'
  tiny.run(whole, checkpoint_every=3, log_every=1)

  class Killed(BaseException):
    pass

  def die(at):
    if at == 5:
      raise Killed
    return tiny.batch(at)

  with pytest.raises(Killed):
    tiny.run(parts, checkpoint_every=3, log_every=1, make_batch=die)
  # Half a line, as a machine leaves it that loses power.
  with (parts / 'metrics.jsonl').open('a') as file:
    file.write('{"step": 5, "spl')
  assert metrics_steps(parts)[-1] > 3
  tiny.run(parts, checkpoint_every=3, log_every=1)
  assert metrics(whole) == metrics(parts)
  jax.tree.map(
    np.testing.assert_array_equal, arrays(whole, 6), arrays(parts, 6)
  )


def metrics_steps(workdir):
  lines = (workdir / 'metrics.jsonl').read_text().splitlines()
  return [json.loads(line)['step'] for line in lines if line.endswith('}')]


def test_a_loss_that_is_not_finite_stops_with_the_last_good_checkpoint(
  tmp_path,
):
  def make_batch(at):
    batch = tiny.batch(at)
    if at == 4:
      batch['weights'] = batch['weights'] * np.nan
    return batch

  with pytest.raises(UserError, match='last good checkpoint is step 4'):
    tiny.run(tmp_path, checkpoint_every=2, make_batch=make_batch)
  saved = arrays(tmp_path, 4)
  assert all(np.isfinite(x).all() for x in jax.tree.leaves(saved['params']))


def test_other_data_is_not_resumed(tmp_path):
  with pytest.raises(Preempted):
    tiny.run(tmp_path, make_batch=stop_at(2))
  with pytest.raises(UserError, match='another data fingerprint'):
    tiny.run(tmp_path, data_fingerprint='other')


def test_a_run_starts_from_the_parameters_of_another(tmp_path):
  tiny.run(tmp_path / 'first')
  first = arrays(tmp_path / 'first', 6)['params']
  # The first step of a warm-up has a learning rate of 0: it changes nothing.
  stop = stop_at(0)
  with pytest.raises(Preempted):
    tiny.run(
      tmp_path / 'second',
      seed=1,
      init_from=str(tmp_path / 'first'),
      make_batch=stop,
    )
  second = arrays(tmp_path / 'second', 1)['params']
  jax.tree.map(np.testing.assert_array_equal, first, second)
  with pytest.raises(Preempted):
    tiny.run(tmp_path / 'fresh', seed=1, make_batch=stop)
  fresh = arrays(tmp_path / 'fresh', 1)['params']
  assert (fresh['transform']['kernel'] != first['transform']['kernel']).any()


def test_the_last_step_is_saved_and_old_checkpoints_go(tmp_path):
  tiny.run(tmp_path, checkpoint_every=1)
  kept = sorted(p.name for p in (tmp_path / 'checkpoints').iterdir())
  assert kept == ['5', '6']


def test_a_slow_disk_changes_nothing_but_the_time(tmp_path, monkeypatch):
  fast, slow = tmp_path / 'fast', tmp_path / 'slow'
  tiny.run(fast, checkpoint_every=1)
  at_once, waits = os.fsync, []

  def sync_slowly(descriptor):
    # Ten times what a step takes: each save is still under way at the next.
    time.sleep(0.2)
    waits.append(descriptor)
    at_once(descriptor)

  monkeypatch.setattr(os, 'fsync', sync_slowly)
  with pytest.raises(Preempted, match='step 3 of 6'):
    tiny.run(slow, checkpoint_every=1, make_batch=stop_at(2))
  # What it said is saved, is: the signal came amidst a save.
  assert Checkpoints(slow / 'checkpoints').latest() == 3
  tiny.run(slow, checkpoint_every=1)
  assert len(waits) > 10
  jax.tree.map(np.testing.assert_array_equal, arrays(fast, 6), arrays(slow, 6))
  assert metrics(fast) == metrics(slow)
