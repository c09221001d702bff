"""A batch that spoils the loss: the run stops, or skips it and goes on."""

import json
import shutil

import jax
import numpy as np
import pytest

from shared_bert.errors import UserError
from shared_bert.training.checkpoint import open_checkpoint
from tests import tiny

BAD = 3  # the step, from 0, whose batch has a weight that is no number


def batch(*bad):
  """The tiny batches, some of them spoilt."""

  def make(step):
    rows = tiny.batch(step)
    if step in bad:
      rows['weights'][0, 0] = np.nan
    return rows

  return make


def losses(workdir):
  rows = map(json.loads, (workdir / 'metrics.jsonl').read_text().splitlines())
  return {r['step']: r['loss'] for r in rows if r['split'] == 'train'}


def params_of(workdir, step):
  checkpoint = open_checkpoint(workdir / 'checkpoints' / str(step))
  return jax.tree.leaves(checkpoint.load_params())


REWIND = {'on_nonfinite': 'rewind', 'max_rewinds': 2}


def test_a_run_stops_at_a_loss_that_is_not_finite(tmp_path):
  with pytest.raises(UserError, match='no longer finite by step 4'):
    tiny.run(tmp_path, make_batch=batch(BAD), checkpoint_every=1)
  kept = {p.name for p in (tmp_path / 'checkpoints').iterdir()}
  assert kept == {'2', '3'}


def test_a_spoilt_batch_is_skipped_as_if_its_step_had_done_nothing(
  tmp_path, capsys
):
  run = {'checkpoint_every': 1, 'log_every': 1, **REWIND}
  tiny.run(tmp_path, make_batch=batch(BAD), keep_checkpoints=9, **run)
  assert 'batch skipped, 1 of at most 2' in capsys.readouterr().out
  for before, after in ((3, 4),):
    jax.tree.map(
      np.testing.assert_array_equal,
      params_of(tmp_path, before),
      params_of(tmp_path, after),
    )
  changed = zip(params_of(tmp_path, 4), params_of(tmp_path, 5), strict=True)
  assert any((a != b).any() for a, b in changed)
  assert all(map(np.isfinite, losses(tmp_path).values()))


def test_without_a_spoilt_batch_nothing_is_changed_by_looking(tmp_path):
  run = {'log_every': 1}
  tiny.run(tmp_path / 'stop', **run)
  tiny.run(tmp_path / 'rewind', **run, **REWIND)
  plain, watched = losses(tmp_path / 'stop'), losses(tmp_path / 'rewind')
  assert plain.keys() == watched.keys()
  np.testing.assert_allclose(
    list(plain.values()), list(watched.values()), rtol=1e-6
  )


def test_a_run_that_skipped_a_batch_is_resumed_exactly(tmp_path):
  run = {'checkpoint_every': 1, 'log_every': 1, 'make_batch': batch(BAD)}
  whole, parts = tmp_path / 'whole', tmp_path / 'parts'
  tiny.run(whole, keep_checkpoints=9, **run, **REWIND)
  shutil.copytree(whole, parts)
  for step in (5, 6):
    shutil.rmtree(parts / 'checkpoints' / str(step))
  tiny.run(parts, keep_checkpoints=9, **run, **REWIND)
  jax.tree.map(
    np.testing.assert_array_equal, params_of(whole, 6), params_of(parts, 6)
  )
  assert losses(whole) == losses(parts)


def test_more_spoilt_batches_than_allowed_stop_the_run(tmp_path):
  with pytest.raises(UserError, match='no longer finite by step 5'):
    tiny.run(tmp_path, make_batch=batch(1, 2, 4), checkpoint_every=1, **REWIND)
