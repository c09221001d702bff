"""Sets and files of other domains in a study of several tasks."""

import pytest

from shared_bert.errors import UserError
from shared_bert.study import __main__ as command
from shared_bert.study import cells, settings


@pytest.fixture
def config():
  made = settings.study_defaults()
  made.models, made.closer_models = ('standard',), ()
  made.tasks = ('cola', 'sst2', 'mrpc')
  made.pretrain.data.update({'source': 'toy', 'seq_len': 32})
  made.pretrain.train.steps = 4
  return made


def outside_of(config, task, workdir):
  settings.validate(config)
  (cell, *_) = (c for c in cells.cells_of(config) if c.task == task)
  return cells.robustness_config(config, cell, workdir).outside


def test_a_file_is_read_by_the_models_of_its_task_alone(config, tmp_path):
  config.robustness.outside.files = ('sst2=a=b.csv', 'cola=c.csv')
  assert outside_of(config, 'sst2', tmp_path).files == ('a=b.csv',)
  assert outside_of(config, 'cola', tmp_path).files == ('c.csv',)


def test_a_named_set_is_no_demand_on_models_of_other_tasks(config, tmp_path):
  config.robustness.outside.update({'dir': 'ood', 'sets': ('amazon_books',)})
  assert outside_of(config, 'sst2', tmp_path).sets == ('amazon_books',)
  # All sets of the folder are read where none is named.
  assert outside_of(config, 'cola', tmp_path).dir == ''


@pytest.mark.parametrize(
  ('files', 'sets', 'words'),
  [
    (('new.csv',), (), "say whose models read it, such as 'cola=new.csv'"),
    (('mnli=new.csv',), (), 'tasks has no mnli'),
    ((), ('snli',), "names 'snli', which models of mnli read"),
  ],
)
def test_what_no_model_reads_is_refused_at_once(config, files, sets, words):
  outside = {'files': files, 'sets': sets, 'dir': 'ood' if sets else ''}
  config.robustness.outside.update(outside)
  with pytest.raises(UserError, match=words):
    settings.validate(config)


def test_one_task_needs_no_name_before_its_file(config, tmp_path):
  config.tasks, config.robustness.outside.files = ('sst2',), ('new.csv',)
  assert outside_of(config, 'sst2', tmp_path).files == ('new.csv',)


def test_files_are_read_before_the_first_cell(config, tmp_path):
  config.tasks, config.finetune.data.source = ('sst2',), 'toy'
  path = tmp_path / 'new.csv'
  config.robustness.outside.files = (str(path),)
  config.robustness.data.text_columns = ('sentence',)
  path.write_text('sentence,label\nwell done,1\n')
  command._check_outside(config)
  path.write_text('sentence,label\nwell done,5\n')
  with pytest.raises(UserError, match="new.csv, line 2: the label '5'"):
    command._check_outside(config)
  config.robustness.outside.update({'files': (), 'dir': str(tmp_path / 'odd')})
  with pytest.raises(UserError, match='is not a folder that is there'):
    command._check_outside(config)
