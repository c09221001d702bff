"""What a study does where what a cell needs is gone, or never came about."""

import pytest

from shared_bert.study import cells, records, settings, work
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
