"""A run that starts from another attention starts from the same function."""

import dataclasses
import json

import pytest

from shared_bert.errors import UserError
from shared_bert.interop.saved import open_saved
from shared_bert.interop.starting import Imported, open_start
from shared_bert.model.config import ATTENTIONS
from shared_bert.pretrain import pretrain
from shared_bert.training.checkpoint import Checkpoints
from tests.test_interop import assert_same, outputs_of, saved_model
from tests.tiny_jobs import pretrain_config
from tests.tiny_model import token_rows


def keys_of(saved, **changes):
  """The `model` keys of a run with this model."""
  keys = dataclasses.asdict(saved.config) | {'size': 'tiny'} | changes
  del keys['vocab_size']
  return keys


def checkpoint_of(saved, folder):
  """A checkpoint of ours that holds this model; returns its folder."""
  checkpoints = Checkpoints(folder)
  checkpoints.save(
    1,
    {'params': saved.params},
    {
      'config': {
        'job': 'pretrain',
        'model': keys_of(saved),
        'data': {'seq_len': saved.seq_len},
      },
      'tokenizer_sha256': saved.tokenizer.sha256,
    },
    files=saved.tokenizer.files(),
  )
  checkpoints.close()
  return folder / '1'


def started(saved, start):
  """The model that a run has before its first step."""
  return dataclasses.replace(
    saved, params=start.load_params(), config=start.config
  )


def assert_the_same_function(saved, other):
  rows = token_rows()
  assert_same(
    outputs_of(saved, *rows), outputs_of(other, *rows), rows[2], saved.head
  )


@pytest.mark.parametrize(
  'attention', [a for a in ATTENTIONS if a != 'standard']
)
def test_a_checkpoint_starts_a_standard_run_as_the_function_it_is(
  attention, tmp_path
):
  saved = saved_model(attention=attention)
  path = checkpoint_of(saved, tmp_path)
  start = open_start(str(path), keys_of(saved, attention='standard'))
  assert_the_same_function(saved, started(saved, start))


def test_a_standard_checkpoint_is_fitted_to_shared_and_the_loss_is_said(
  tmp_path, capsys
):
  saved = saved_model(attention='standard')
  path = checkpoint_of(saved, tmp_path)
  keys = keys_of(saved, attention='shared')
  fitted = started(saved, open_start(str(path), keys))
  doing, *told = capsys.readouterr().out.splitlines()
  assert doing.startswith(f'fitting     shared attention to {path}')
  assert told[0].startswith(f'fitted      shared attention to {path}')
  assert told[1].split() == ['layer', 'query', 'key', 'value']
  assert len(told) == 2 + saved.config.num_layers and '%' in told[2]
  assert '0.0%' not in told[2].split()
  # Of full rank, three matrices are found again.
  keys |= {'role_bias': True, 'residual_rank': saved.config.hidden_size}
  whole = started(saved, open_start(str(path), keys))
  assert capsys.readouterr().out.split()[-3:] == ['0.0%'] * 3
  assert whole.config.residual_rank == 16 and not fitted.config.role_bias


@pytest.mark.parametrize(
  ('attention', 'more'),
  [
    ('tied', {}),
    ('shared', {'role_bias': True}),
    ('shared', {'role_bias': True, 'residual_rank': 2}),
  ],
)
def test_what_shared_attention_holds_is_fitted_exactly(
  attention, more, tmp_path
):
  saved = saved_model(attention=attention)
  path = checkpoint_of(saved, tmp_path)
  start = open_start(str(path), keys_of(saved, attention='shared', **more))
  assert_the_same_function(saved, started(saved, start))


@pytest.mark.parametrize('attention', ATTENTIONS)
def test_a_checkpoint_of_the_same_attention_is_taken_as_it_is(
  attention, tmp_path
):
  saved = saved_model(attention=attention, pre_norm=True)
  path = checkpoint_of(saved, tmp_path)
  # What only shared attention reads does not make it another.
  keys = keys_of(saved, role_bias=attention != 'shared')
  start = open_start(str(path), keys)
  assert not isinstance(start, Imported) and start.path == path


# Of the checkpoint and of the run, what differs from tiny shared BERT, and what
# the sentence must say.
REFUSED = {
  'tied': ({}, {'attention': 'tied'}, 'has shared attention.* not to tied'),
  'pairwise': (
    {'attention': 'standard'},
    {'attention': 'pairwise'},
    'has standard attention.* not to pairwise',
  ),
  'norms before': (
    {'pre_norm': True},
    {'attention': 'standard'},
    'trained with model.pre_norm=True.* set model.attention',
  ),
  'norms before, in the run': (
    {},
    {'attention': 'standard', 'pre_norm': True},
    'LayerNorms after each sub-layer: leave model.pre_norm=False',
  ),
  'other sizes': (
    {},
    {'attention': 'standard', 'num_layers': 3},
    'add --config.model.num_layers=2 ',
  ),
}


@pytest.mark.parametrize('case', REFUSED)
def test_what_cannot_be_brought_to_an_attention_is_refused(case, tmp_path):
  theirs, ours, words = REFUSED[case]
  saved = saved_model(**theirs)
  path = checkpoint_of(saved, tmp_path)
  with pytest.raises(UserError, match=words) as caught:
    open_start(str(path), keys_of(saved, **ours))
  assert f'init_from={path}' in str(caught.value)


def test_a_standard_run_goes_on_from_the_metrics_of_a_shared_one(
  text, pretrained, tmp_path, capsys
):
  config = pretrain_config(text, steps=1)
  config.init_from = str(pretrained)
  config.model.attention = 'standard'
  # So that after the step the model is what it started from.
  config.train.update({'learning_rate': 1e-12, 'weight_decay': 0.0})
  config.train.warmup_steps = 0
  results = pretrain(config, tmp_path)
  assert 'fresh       nothing; the rest is from' in capsys.readouterr().out
  before = json.loads((pretrained / 'results.json').read_text())['metrics']
  for name, value in before['heldout'].items():
    assert results['metrics']['heldout'][name] == pytest.approx(value, rel=1e-5)
  assert open_saved(tmp_path).config.attention == 'standard'
