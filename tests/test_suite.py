"""Several runs as one: tasks, seeds, averages, the submission."""

import json
import zipfile

import pytest

from shared_bert import config as config_lib
from shared_bert import suite as suite_lib
from shared_bert import validation
from shared_bert.data.glue_tasks import TASKS
from shared_bert.errors import UserError
from shared_bert.suite import suite, summarise
from shared_bert.training.checkpoint import open_checkpoint
from tests.tiny_jobs import finetune_config


def test_means_and_spread_are_those_of_the_runs():
  runs = [{'dev': {'accuracy': value}} for value in (0.5, 0.6, 0.7)]
  found = summarise(runs)['dev']['accuracy']
  assert found['mean'] == pytest.approx(0.6)
  assert found['sd'] == pytest.approx(0.1)
  assert found['runs'] == 3


def test_seeds_by_list_are_runs_of_their_own_and_not_repeated(
  glue, pretrained, tmp_path, capsys
):
  config = finetune_config('cola', glue, pretrained)
  config.seeds = (3, 4)
  results = suite(config, tmp_path)
  by_seed = {
    seed: json.loads(
      (tmp_path / 'cola' / f'seed-{seed}' / 'results.json').read_text()
    )['metrics']
    for seed in (3, 4)
  }
  values = [m['dev']['accuracy'] for m in by_seed.values()]
  summary = results['tasks']['cola']['summary']['dev']['accuracy']
  assert summary['mean'] == pytest.approx(sum(values) / 2)
  assert 'mean' in capsys.readouterr().out
  suite(config, tmp_path)
  assert capsys.readouterr().out.count('nothing to do') == 2


def test_all_of_glue_gives_both_averages_and_a_whole_submission(
  all_of_glue, pretrained, tmp_path, capsys
):
  config = finetune_config('all', all_of_glue, pretrained)
  config.from_mnli = True
  results = suite(config, tmp_path)
  out = capsys.readouterr().out
  assert set(results['tasks']) == {
    name for name, task in TASKS.items() if not task.trained_as
  }
  averages = results['averages']['0']
  assert averages['leaderboard']['missing'] == []
  assert averages['nine_number']['value'] is not None
  assert 'leaderboard average' in out and 'nine-number average' in out
  with zipfile.ZipFile(tmp_path / 'submission.zip') as archive:
    assert set(archive.namelist()) == {
      file for task in TASKS.values() for file in task.prediction_files.values()
    }
  # The labelled diagnostic rows are scored by the model of MNLI.
  mnli = results['tasks']['mnli']['metrics']['0']
  assert -1 <= mnli['diagnostic']['matthews'] <= 1
  for task in suite_lib.STARTED_FROM_MNLI:
    run = json.loads((tmp_path / task / 'seed-0' / 'config.json').read_text())
    assert run['init_from'] == str(tmp_path / 'mnli' / 'seed-0')


def test_a_missing_task_is_known_before_the_first_one_is_trained(
  glue, pretrained, tmp_path
):
  config = finetune_config('all', glue, pretrained)
  with pytest.raises(UserError, match='no files of sst2 .* rte') as refused:
    suite(config, tmp_path)
  assert [path.name for path in tmp_path.iterdir()] == ['.lock']
  there = str(refused.value).rpartition('--config.data.task=')[2].rstrip('.')
  assert validation.validate(finetune_config(there, glue, pretrained)) is None
  assert config_lib.tasks_of(finetune_config(there, glue, pretrained)) == [
    'cola',
    'stsb',
    'mnli',
  ]


def test_some_tasks_are_trained_without_the_others(
  glue, pretrained, tmp_path, capsys
):
  config = finetune_config('cola,stsb', glue, pretrained)
  results = suite(config, tmp_path)
  assert list(results['tasks']) == ['cola', 'stsb']
  assert 'not all numbers are there' in capsys.readouterr().out
  # The folder of them all is not the checkpoint of one.
  with pytest.raises(UserError, match=r'several runs.* such as .*/seed-0'):
    open_checkpoint(tmp_path)
