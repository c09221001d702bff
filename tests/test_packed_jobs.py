"""Fine-tuning jobs on packed rows: numbers of padded ones, exact resume."""

import json
import shutil

import jax
import numpy as np
import pytest

from shared_bert.data import batches
from shared_bert.data.packed_batches import PackedRows
from shared_bert.finetune import finetune
from shared_bert.training.checkpoint import open_checkpoint
from tests.tiny_jobs import (
  UNEVEN_STEPS,
  interrupted,
  logged,
  on_one_device,
  uneven_config,
)


def assert_same_numbers(one, other):
  """Losses, accuracies, norms and metrics, of all steps and of the results."""
  ours, theirs = logged(one), logged(other)
  assert [(r['step'], r['split']) for r in ours] == [
    (r['step'], r['split']) for r in theirs
  ]
  kept = ('loss', 'accuracy', 'gradient_norm', 'examples', 'learning_rate')
  compared = 0
  for mine, its in zip(ours, theirs, strict=True):
    for name in kept:
      assert (name in mine) == (name in its)
      if name in mine:
        assert mine[name] == pytest.approx(its[name], rel=1e-5), name
        compared += 1
  assert compared > 2 * UNEVEN_STEPS
  results = [
    json.loads((w / 'results.json').read_text())['metrics']['dev']
    for w in (one, other)
  ]
  assert results[0] == pytest.approx(results[1], rel=1e-5)


def arrays(workdir):
  """All parameters of the last step."""
  found = open_checkpoint(workdir)
  assert found.step == UNEVEN_STEPS
  return found.load_params()


def assert_same_bits(one, other):
  jax.tree.map(np.testing.assert_array_equal, arrays(one), arrays(other))
  unlike = ('stall',)
  ours, theirs = (
    [{k: v for k, v in row.items() if k not in unlike} for row in logged(w)]
    for w in (one, other)
  )
  assert ours == theirs


@pytest.fixture(scope='module')
def packed(uneven_files, pretrained, tmp_path_factory):
  """A run on packed rows and all devices, without dropout."""
  workdir = tmp_path_factory.mktemp('packed')
  finetune(uneven_config(uneven_files, pretrained), workdir)
  return workdir


def test_a_packed_job_logs_and_reports_the_numbers_of_a_padded_one(
  uneven_files, pretrained, packed, tmp_path
):
  assert json.loads((packed / 'config.json').read_text())['data']['packing']
  finetune(uneven_config(uneven_files, pretrained, packing=False), tmp_path)
  assert_same_numbers(packed, tmp_path)


def test_a_packed_job_on_eight_devices_has_the_numbers_of_one(
  uneven_files, pretrained, packed, tmp_path, monkeypatch
):
  on_one_device(monkeypatch)
  finetune(uneven_config(uneven_files, pretrained), tmp_path)
  assert_same_numbers(packed, tmp_path)


def test_an_interrupted_packed_job_ends_bit_for_bit_where_a_whole_one_does(
  uneven_files, pretrained, tmp_path, monkeypatch
):
  on_one_device(monkeypatch)
  whole, parts = tmp_path / 'whole', tmp_path / 'parts'
  config = uneven_config(uneven_files, pretrained, dropout=0.1)
  interrupted(lambda: finetune(config, parts), PackedRows, monkeypatch)
  finetune(config, parts)
  finetune(config, whole)
  assert_same_bits(whole, parts)


def test_a_job_that_began_with_one_example_a_row_goes_on_so_to_the_bit(
  uneven_files, pretrained, tmp_path, monkeypatch
):
  on_one_device(monkeypatch)
  whole, parts, old = (tmp_path / name for name in ('whole', 'parts', 'old'))
  config = uneven_config(uneven_files, pretrained, dropout=0.1, packing=False)
  interrupted(lambda: finetune(config, parts), batches.Rows, monkeypatch)
  # As of a version that knew no other rows.
  shutil.copytree(parts, old)
  known = json.loads((old / 'config.json').read_text())
  del known['data']['packing']
  (old / 'config.json').write_text(json.dumps(known))
  finetune(config, whole)
  config.data.packing = None
  for workdir in (parts, old):
    finetune(config, workdir)
    assert_same_bits(whole, workdir)
    known = json.loads((workdir / 'config.json').read_text())
    assert known['data']['packing'] is False
