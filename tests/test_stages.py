"""Pre-training in stages: several corpora, each with rows of its length."""

import json

import jax
import numpy as np
import pytest

from shared_bert import validation
from shared_bert.errors import UserError
from shared_bert.prepare import prepare_text
from shared_bert.pretrain import pretrain
from shared_bert.training.checkpoint import open_checkpoint
from shared_bert.training.run import Options
from tests.tiny_jobs import pretrain_config


@pytest.fixture(scope='module')
def corpora(text, tmp_path_factory):
  """Two of one vocabulary, rows of 16 and of 32 tokens."""
  folder = tmp_path_factory.mktemp('corpora')
  short = prepare_text(
    str(text), str(folder), vocab='', vocab_size=60, seq_len=16
  )
  long = prepare_text(
    str(text), str(folder), vocab=str(short), vocab_size=60, seq_len=32
  )
  return str(short), str(long)


def staged(text, corpora, **train):
  config = pretrain_config(text, steps=6)
  config.data.text = ''
  config.data.corpus = ', '.join(corpora)
  config.data.seq_len = 32
  config.train.update(
    {'stage_shares': (0.5, 0.5), 'stage_batch_sizes': (16, 8)} | train
  )
  validation.validate(config)
  return config


def lines(workdir):
  rows = (workdir / 'metrics.jsonl').read_text().splitlines()
  return [json.loads(row) for row in rows]


def test_two_corpora_are_two_stages_and_each_is_evaluated_at_its_length(
  text, corpora, tmp_path, capsys
):
  config = staged(text, corpora, eval_every=3, checkpoint_every=1)
  results = pretrain(config, tmp_path / 'run')
  shown = capsys.readouterr().out
  assert 'to 3: 16 rows of 16 tokens' in shown
  assert 'to 6: 8 rows of 32 tokens' in shown
  splits = {
    step: [r['split'] for r in lines(tmp_path / 'run') if r['step'] == step]
    for step in (3, 6)
  }
  # Not of a length whose positions the model has not met.
  assert 'heldout_16' in splits[3] and 'heldout_32' not in splits[3]
  assert {'heldout_16', 'heldout_32'} <= set(splits[6])
  assert set(results['metrics']) == {'heldout_16', 'heldout_32'}
  assert results['training_seconds'] < results['seconds']
  train = [r for r in lines(tmp_path / 'run') if r['split'] == 'train']
  for row in train:
    np.testing.assert_allclose(
      row['perplexity'], np.exp(row['loss']), rtol=1e-6
    )
    assert row['teraflops_per_second'] >= 0 and 0 <= row['stall'] <= 1
    assert 'utilisation' not in row  # of CPUs nobody knows the peak


def test_a_dry_run_goes_through_every_stage(text, corpora, tmp_path):
  config = staged(text, corpora, ramp_batch_size=8, ramp_ratio=0.1)
  results = pretrain(config, tmp_path, Options(dry_run=True))
  assert results['steps'] == 3
  assert set(results['metrics']) == {'heldout_16', 'heldout_32'}


def test_the_first_stage_of_a_run_is_a_run_on_its_corpus(
  text, corpora, tmp_path
):
  both = staged(text, corpora, checkpoint_every=3, schedule='constant')
  both.train.keep_checkpoints = 9
  alone = staged(text, corpora, schedule='constant')
  alone.data.corpus, alone.data.seq_len = corpora[0], 16
  alone.train.update({'steps': 3, 'warmup_steps': 0})
  alone.train.update({'stage_shares': (), 'stage_batch_sizes': ()})
  both.train.warmup_steps = 0
  pretrain(both, tmp_path / 'both')
  pretrain(alone, tmp_path / 'alone')
  params = [
    open_checkpoint(tmp_path / name / 'checkpoints' / '3').load_params()
    for name in ('both', 'alone')
  ]
  jax.tree.map(np.testing.assert_array_equal, *params)


def test_stages_of_two_vocabularies_are_refused(text, corpora, tmp_path):
  other = prepare_text(
    str(text), str(tmp_path), vocab='', vocab_size=40, seq_len=32
  )
  config = staged(text, (corpora[0], str(other)))
  with pytest.raises(UserError, match='have different vocabularies'):
    pretrain(config, tmp_path / 'run')
