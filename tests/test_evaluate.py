"""Evaluating checkpoints, dry runs, profiles and early stopping."""

import copy
import json

import pytest

from shared_bert import validation
from shared_bert.errors import UserError
from shared_bert.evaluate import evaluate
from shared_bert.finetune import finetune
from shared_bert.pretrain import pretrain
from shared_bert.training.run import Options
from tests.tiny_jobs import finetune_config, pretrain_config, write_glue


def evaluation_of(config, checkpoint, **data):
  config = copy.deepcopy(config)
  config.job = 'eval'
  config.init_from = str(checkpoint)
  config.data.update(data)
  validation.validate(config)
  return config


@pytest.fixture(scope='module')
def finetuned(glue, pretrained, tmp_path_factory):
  """A finished CoLA run: its config, workdir and results."""
  workdir = tmp_path_factory.mktemp('finetuned')
  config = finetune_config('cola', glue, pretrained)
  return config, workdir, finetune(config, workdir)


@pytest.fixture(scope='module')
def own_scores(glue, pretrained, tmp_path_factory):
  """A finished run on scores in a file: its config, workdir and results."""
  folder = tmp_path_factory.mktemp('own')
  (folder / 'scores.csv').write_text(
    'sentence,label\n' + ''.join(f'the cat {n},{n / 8}\n' for n in range(24))
  )
  config = finetune_config('cola', glue, pretrained)
  config.data.update(
    {
      'source': 'files',
      'glue_dir': '',
      'train_file': str(folder / 'scores.csv'),
      'dev_file': str(folder / 'scores.csv'),
      'regression': True,
    }
  )
  validation.validate(config)
  return config, folder / 'run', finetune(config, folder / 'run')


def test_evaluating_a_checkpoint_gives_the_numbers_of_its_training(
  finetuned, tmp_path
):
  config, workdir, trained = finetuned
  config = evaluation_of(config, workdir)
  config.model.attention = 'standard'  # the checkpoint's counts, not this
  results = evaluate(config, tmp_path)
  assert results['metrics'] == trained['metrics']
  assert results['attention'] == 'shared'
  ours, theirs = (
    (folder / 'predictions' / 'CoLA.tsv').read_bytes()
    for folder in (tmp_path, workdir)
  )
  assert ours == theirs
  assert not (tmp_path / 'checkpoints').exists()
  # Nor is anything said of a model that was not evaluated.
  said = json.loads((tmp_path / 'config.json').read_text())
  assert 'model' not in said and 'vocab_size' not in said['data']
  said = json.loads((workdir / 'config.json').read_text())
  assert 'model' in said and 'vocab_size' not in said['data']


def test_evaluated_rows_are_as_long_as_those_trained_on(finetuned, tmp_path):
  config, workdir, trained = finetuned
  longer = evaluation_of(config, workdir, seq_len=32)
  assert evaluate(longer, tmp_path)['metrics'] == trained['metrics']


def test_scores_of_own_files_need_no_flag_to_be_evaluated(own_scores, tmp_path):
  config, workdir, trained = own_scores
  again = evaluation_of(config, workdir, regression=False, train_file='')
  assert evaluate(again, tmp_path)['metrics'] == trained['metrics']
  assert trained['metrics']['dev']['loss'] > 0


def test_any_split_can_be_evaluated_without_the_others(finetuned, tmp_path):
  config, workdir, _ = finetuned
  results = evaluate(
    evaluation_of(config, workdir, splits=('train',)), tmp_path
  )
  assert results['examples'] == {'train': 40}
  assert set(results['metrics']) == {'train'}
  with pytest.raises(UserError, match='data.splits names dev_matched'):
    evaluate(
      evaluation_of(config, workdir, splits=('dev_matched',)), tmp_path / 'b'
    )


def test_a_dev_set_alone_is_enough_to_evaluate_on(finetuned, tmp_path):
  config, workdir, trained = finetuned
  only = write_glue(tmp_path / 'glue', ('cola',))
  (only / 'CoLA' / 'train.tsv').unlink()
  results = evaluate(
    evaluation_of(config, workdir, glue_dir=str(only)), tmp_path / 'run'
  )
  assert results['examples']['dev'] == trained['examples']['dev']


def test_a_task_with_other_labels_is_refused(finetuned, tmp_path):
  config, workdir, _ = finetuned
  with pytest.raises(UserError, match='trained on unacceptable, acceptable'):
    evaluate(evaluation_of(config, workdir, task='mnli'), tmp_path)


def test_a_pretrained_checkpoint_has_the_held_out_loss_of_its_training(
  text, pretrained, tmp_path
):
  results = evaluate(evaluation_of(pretrain_config(text), pretrained), tmp_path)
  trained = json.loads((pretrained / 'results.json').read_text())
  assert results['metrics'] == trained['metrics']


def test_a_checkpoint_of_the_other_job_is_refused(text, finetuned, tmp_path):
  _, workdir, _ = finetuned
  with pytest.raises(UserError, match='is a checkpoint of job=finetune'):
    evaluate(evaluation_of(pretrain_config(text), workdir), tmp_path)


def test_a_dry_run_takes_one_step_but_plans_them_all(
  glue, pretrained, tmp_path, capsys
):
  config = finetune_config('cola', glue, pretrained)
  results = finetune(config, tmp_path, Options(dry_run=True))
  assert results['steps'] == 1
  assert results['examples']['dev'] == config.data.eval_batch_size
  assert 'steps       2 of 16 rows' in capsys.readouterr().out


def test_a_profile_of_the_named_steps_is_written(text, tmp_path):
  config = pretrain_config(text)
  pretrain(config, tmp_path, Options.of_flags(False, '2:3'))
  assert list((tmp_path / 'plugins' / 'profile').rglob('*.xplane.pb'))


@pytest.mark.parametrize('text', ['3', '3:2', '0:4', 'a:b', '1:2:3'])
def test_a_profile_of_no_steps_is_refused(text):
  with pytest.raises(UserError, match='START:STOP'):
    Options.of_flags(False, text)


def test_early_stopping_ends_a_run_that_no_longer_gains(
  glue, pretrained, tmp_path, capsys
):
  config = finetune_config('cola', glue, pretrained)
  config.train.update({'steps': 40, 'eval_every': 2, 'early_stopping': 2})
  config.train.learning_rate = 0.0  # nothing changes, so nothing is better
  results = finetune(config, tmp_path)
  assert results['steps'] == 6
  assert results['best']['step'] == 2
  assert 'stopped early' in capsys.readouterr().out
