"""Checkpoints, devices and settings that do not fit a run."""

import os
import shutil

import pytest

from shared_bert.errors import UserError
from shared_bert.interop import huggingface
from tests.bad_input import assert_refused, cola_flags, flipped, snapshot
from tests.test_interop import saved_model


@pytest.fixture(scope='module')
def flags(glue, pretrained):
  """Those of a run on CoLA: two steps."""
  return cola_flags(glue, pretrained)


def checkpoint_of(folder):
  (step,) = (folder / 'checkpoints').iterdir()
  return step


def some_array(folder):
  files = (checkpoint_of(folder) / 'state').rglob('*')
  return max((p for p in files if p.is_file()), key=lambda p: p.stat().st_size)


# What is done to a copy of the pre-trained workdir, what of it is named as
# init_from, and what the sentence must say.
CHECKPOINTS = {
  'none': (
    lambda folder: None,
    'none',
    'none is not there',
    'name a workdir',
  ),
  'a file': (lambda folder: None, 'config.json', 'is a file: name'),
  'a folder of something else': (
    lambda folder: shutil.rmtree(folder / 'checkpoints'),
    '',
    'no intact checkpoint',
    'name a workdir',
  ),
  'a flipped bit': (
    lambda folder: flipped(some_array(folder)),
    'checkpoints/4',
    'is damaged',
    'does not hold the bytes that were written',
    'Use another one',
  ),
  'a flipped bit in the only one': (
    lambda folder: flipped(some_array(folder)),
    '',
    'no intact checkpoint',
  ),
  'a missing file': (
    lambda folder: some_array(folder).unlink(),
    'checkpoints/4',
    'is missing',
  ),
  'half a manifest': (
    lambda folder: os.truncate(checkpoint_of(folder) / 'manifest.json', 50),
    'checkpoints/4',
    'manifest.json is not what was written',
  ),
  'no manifest': (
    lambda folder: (checkpoint_of(folder) / 'manifest.json').unlink(),
    'checkpoints/4',
    'manifest.json is missing',
  ),
  'another vocabulary': (
    lambda folder: flipped(checkpoint_of(folder) / 'vocab.txt'),
    'checkpoints/4',
    'vocab.txt does not hold the bytes',
  ),
  'half written': (
    lambda folder: checkpoint_of(folder).rename(
      folder / 'checkpoints' / '4.saving'
    ),
    '',
    'no intact checkpoint',
  ),
}


@pytest.mark.parametrize('case', CHECKPOINTS)
def test_a_damaged_checkpoint_is_not_started_from(
  case, commands, flags, pretrained, tmp_path
):
  change, name, *words = CHECKPOINTS[case]
  folder = tmp_path / 'pretrained'
  shutil.copytree(pretrained, folder)
  change(folder)
  before = snapshot(folder)
  argv = [*flags, f'--config.init_from={folder / name}']
  done = commands.run('main', *argv, f'--workdir={tmp_path / "run"}')
  assert_refused(done, [str(folder / name), *words])
  assert snapshot(folder) == before


def test_a_vocabulary_of_another_model_is_refused(tmp_path):
  # Tables are padded, so that a few words fewer are none the matter.
  huggingface.write(saved_model(vocab_size=1_000), tmp_path)
  assert huggingface.read(tmp_path).config.vocab_size == 1_000
  other = tmp_path / 'other'
  other.mkdir()
  huggingface.write(saved_model(vocab_size=2_000), other)
  with pytest.raises(UserError, match='has 50 tokens, and the .* knows 2,000'):
    huggingface.read(other)


@pytest.mark.parametrize(
  ('flag', 'words'),
  [
    ('--config.model.num_layers=2', ['float32[1, 16] there', '[2, 16] here']),
    ('--config.model.hidden_size=32', ['there and float32[']),
    ('--config.model.max_positions=64', ['encoder/embeddings/position']),
    ('--profile=900:901', ['--profile begins at step 900', 'the run has 2']),
  ],
)
def test_what_does_not_fit_is_refused_before_anything_is_compiled(
  flag, words, commands, flags, tmp_path
):
  done = commands.run('main', *flags, flag, f'--workdir={tmp_path}')
  if 'model' in flag:
    words = [*words, 'does not fit this model', 'Set model.size, model.atten']
  assert_refused(done, words, planned=True)
  assert not (tmp_path / 'metrics.jsonl').exists()


@pytest.mark.parametrize(
  ('flag', 'words'),
  [
    ('--config.model.attention=tied', ['has shared attention', 'not to tied']),
    (
      '--config.train.batch_size=3',
      ['cannot be shared equally by 2', '2 or 4'],
    ),
    ('--config.data.eval_batch_size=3', ['data.eval_batch_size=3', '2 or 4']),
    ('--config.train.accumulation=16', ['in 16 micro-batches: use 32']),
    ('--config.data.seq_len=2', ['length of 2 is too short', 'raise data.seq']),
    ('--config.train.warmup_steps=5', ['warm-up of 5 steps', 'train longer']),
  ],
)
def test_what_devices_and_data_cannot_do_is_refused_before_the_plan(
  flag, words, commands, flags, tmp_path
):
  done = commands.run('main', *flags, flag, f'--workdir={tmp_path}')
  assert_refused(done, words)


def test_a_machine_without_devices_is_told(commands, flags, tmp_path):
  done = commands.run('main', *flags, f'--workdir={tmp_path}', devices=False)
  assert_refused(done, ['no device to run on', 'JAX_PLATFORMS=cpu'])
