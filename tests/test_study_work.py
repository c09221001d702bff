"""What a study does where what a cell needs is gone, or never came about."""

import pytest

from shared_bert.study import (
  cells,
  families,
  findings,
  records,
  report,
  scores,
  settings,
  work,
)
from shared_bert.study.analysis import analyse
from shared_bert.training import workdir as workdir_lib
from tests.squad_files import write_random
from tests.tiny_jobs import pretrain_config, shrink, write_glue


@pytest.fixture
def config(text, pretrained, tmp_path):
  """A study of one model whose RTE begins with its MNLI."""
  del pretrained  # the corpus is prepared by then
  made = settings.study_defaults()
  pretrain = shrink(pretrain_config(text, steps=2), warmup_steps=0)
  made.pretrain.update(pretrain.to_dict())
  [corpus] = (text.parent / 'data').glob('corpus-*')
  made.pretrain.data.text, made.pretrain.data.corpus = '', str(corpus)
  made.pretrain.data.heldout_rows = 8
  shrink(made.finetune, steps=2)
  made.finetune.data.update({'seq_len': 16, 'length_buckets': (16,)})
  made.finetune.data.source = 'local'
  made.finetune.data.glue_dir = str(write_glue(tmp_path, ('mnli', 'rte')))
  made.finetune.from_mnli = True
  made.models, made.closer_models = ('standard',), ()
  made.tasks = ('mnli', 'rte')
  made.finetune_seeds, made.small_task_seeds = (0,), (0,)
  made.robustness.noise.kinds = ()
  made.keep_checkpoints = False
  settings.validate(made)
  return made


def test_a_start_that_is_gone_is_trained_again_and_so_is_what_it_began_with(
  config, tmp_path
):
  workdir = tmp_path / 'study'
  kept = records.Records(workdir)
  pretraining, mnli, rte = cells.cells_of(config)
  kept.put(pretraining, {'loss': 1.0})
  kept.put(mnli, {'learning_rate': 3e-4, 'metrics': {}})
  # Of MNLI the checkpoint was removed, and of the pre-training all.
  (workdir / mnli.name).mkdir(parents=True)
  (workdir / mnli.name / 'results.json').write_text('{"job": "finetune"}')
  work.work(config, workdir)
  found = records.Records(workdir)
  assert 'accuracy' in found.get(rte.name)['metrics']['dev']
  assert found.get(pretraining.name)['loss'] == 1.0
  assert not found.get(mnli.name)['metrics']
  for cell, is_kept in ((pretraining, True), (mnli, True), (rte, False)):
    folder = workdir / cell.name
    assert (folder / 'results.json').exists()
    assert (folder / 'checkpoints').exists() == is_kept


def test_no_worker_waits_for_a_start_that_another_one_trains_again(
  config, tmp_path
):
  config.models = ('standard', 'shared')
  config.tasks, config.finetune.from_mnli = ('rte',), False
  workdir = tmp_path / 'study'
  kept = records.Records(workdir)
  first, second, *tunings = cells.cells_of(config)
  for cell in (first, second):
    kept.put(cell, {'loss': 1.0})
  one, other = tunings
  with workdir_lib.alone(work._lock(workdir, first.name)):
    assert not work._try([one], config, workdir, kept)
    assert work._try([other], config, workdir, kept)
  assert kept.get(one.name) is None
  assert 'accuracy' in kept.get(other.name)['metrics']['dev']


def test_a_checkpoint_of_mnli_is_kept_for_tasks_that_may_be_added(
  config, tmp_path
):
  config.tasks = ('mnli',)
  _, mnli = cells.cells_of(config)
  checkpoints = tmp_path / mnli.name / 'checkpoints'
  checkpoints.mkdir(parents=True)
  work._clean_up(mnli, config, tmp_path)
  assert checkpoints.exists()
  config.finetune.from_mnli = False
  work._clean_up(mnli, config, tmp_path)
  assert not checkpoints.exists()


def test_models_of_squad_get_noise_and_no_sets_of_other_domains(
  config, tmp_path
):
  shrink(config.squad2, steps=2)
  file = str(write_random(tmp_path / 'squad.json', 9, 'v2.0'))
  config.squad2.data.update({'train_file': file, 'dev_file': file})
  config.squad2.data.update({'seq_len': 16, 'length_buckets': (16,)})
  config.squad2.data.dev_questions = 7
  config.tasks, config.finetune.from_mnli = ('squad2',), False
  config.robustness.noise.kinds = ('characters', 'embedding')
  config.robustness.noise.levels = (0.0, 0.5)
  config.robustness.outside.dir = str(tmp_path)  # for models of GLUE
  settings.validate(config)
  workdir = tmp_path / 'study'
  work.work(config, workdir)
  kept = records.Records(workdir)
  _, cell = cells.cells_of(config)
  squad = kept.get(cell.name)
  measured = squad['robustness']
  assert squad['examples']['dev'] == 7 and measured['outside'] == {}
  curves = measured['noise']['curves']['dev']
  assert list(curves) == ['characters', 'embedding']
  for found in curves.values():
    assert found['metric'] == 'f1'
    assert found['values'][0] == pytest.approx(squad['metrics']['dev']['f1'])
  # What the report compares is in per cent, like the scores without noise.
  score = squad['metrics']['dev']['f1']
  run = scores.Run('standard', 'squad2', (0, 0), score, {}, None, False, squad)
  under = families.noise_of(run)['characters']
  change = under['noise'] - curves['characters']['values'][0]
  assert under['noise_change'] == pytest.approx(change)
  # Without noise there is nothing to measure of it.
  config.robustness.noise.kinds = ()
  assert not settings.measures_robustness(config, 'squad2')
  assert settings.measures_robustness(config, 'rte')


@pytest.mark.parametrize('together', [False, True])
def test_a_grid_of_which_no_rate_trained_fails_what_waits_and_nothing_else(
  config, tmp_path, together
):
  config.learning_rates, config.seeds_together = (1e-4, 3e-4), together
  config.finetune.from_mnli, config.tasks = False, ('rte',)
  config.small_task_seeds = (0, 1, 2)
  settings.validate(config)
  kept = records.Records(tmp_path)
  pretraining, *tries, second, third = cells.cells_of(config)
  kept.put(pretraining, {'loss': 1.0, 'accuracy': 0.5, 'metrics': {}})
  for cell in tries:
    kept.put(cell, {'failed': 'the loss is no longer finite'})
  work.work(config, tmp_path)
  for cell in (second, third):
    why = records.Records(tmp_path).get(cell.name)['failed']
    assert why.startswith('no rate of learning_rates trained to an end: ')
  found = findings.collect(config, tmp_path)
  assert [record['seed'] for record in found['finetune']] == [1, 2]
  assert [record['seed'] for record in found['tries']] == [0, 0]
  text = report.markdown(analyse(found), {})
  assert 'fine-tuning seed 1 failed: no rate of learning_rates' in text


def test_what_began_with_a_model_that_failed_says_so_before_its_grid(
  config, tmp_path
):
  config.learning_rates, config.finetune_seeds = (1e-4, 3e-4), (0, 1)
  settings.validate(config)
  kept = records.Records(tmp_path)
  pretraining, *others = cells.cells_of(config)
  kept.put(pretraining, {'failed': 'the loss is no longer finite'})
  work.work(config, tmp_path)
  for cell in others:
    why = records.Records(tmp_path).get(cell.name)['failed']
    assert why == f'{pretraining.name} failed'
  found = findings.collect(config, tmp_path)
  assert 'failed' in report.markdown(analyse(found), {})
