"""Configs: each one builds, and what cannot work is refused by name."""

import importlib.util
import pathlib
import subprocess
import sys

import pytest

from shared_bert import config as config_lib
from shared_bert import recipes
from shared_bert.data.glue_tasks import TASKS
from shared_bert.errors import UserError

ROOT = pathlib.Path(__file__).parents[1]
CONFIGS = sorted((ROOT / 'configs').glob('*.py'))


def load(name, arg=None):
  spec = importlib.util.spec_from_file_location(
    name, ROOT / 'configs' / f'{name}.py'
  )
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module.get_config(arg)


def complete(config):
  """Sets what only the user can know."""
  if config.job == 'pretrain' and config.data.source == 'text':
    config.data.corpus = 'corpus'
  if config.job == 'finetune' and config.data.source == 'files':
    config.data.train_file, config.data.dev_file = 'train.csv', 'dev.csv'
  return config


@pytest.mark.parametrize('path', CONFIGS, ids=lambda p: p.stem)
def test_every_config_builds_and_is_valid(path):
  config_lib.validate(complete(load(path.stem)))


@pytest.mark.parametrize('task', [t for t in TASKS if not TASKS[t].trained_as])
def test_every_task_has_a_config_of_its_name(task):
  assert load(task).data.task == task
  assert load('glue', f'task={task}').data.task == task


def test_the_argument_sets_size_and_attention():
  config = load('pretrain', 'size=tiny,attention=pairwise')
  assert (config.model.size, config.model.attention) == ('tiny', 'pairwise')


@pytest.mark.parametrize('arg', ['sise=tiny', 'size', 'tiny'])
def test_an_unknown_argument_is_refused_with_those_there_are(arg):
  with pytest.raises(UserError, match='size='):
    load('pretrain', arg)


IMPOSSIBLE = {
  'train.batch_size': (0, 'train.batch_size=0'),
  'train.accumulation': (3, 'train.accumulation=3'),
  'train.learning_rate': (-1.0, 'train.learning_rate'),
  'train.steps': (0, 'train.steps'),
  'train.clip_norm': (-0.5, 'train.clip_norm'),
  'model.attention': ('share', 'model.attention'),
  'model.size': ('huge', 'model.size'),
  'model.hidden_dropout': (1.0, 'model.hidden_dropout'),
  'model.num_heads': (5, 'model.num_heads'),
  'data.mask_ratio': (1.5, 'data.mask_ratio'),
  'data.seq_len': (1024, 'data.seq_len'),
  'data.source': ('tape', 'data.source'),
  'data.text': ('*.txt', 'data.corpus'),
  'job': ('sing', 'job'),
}


@pytest.mark.parametrize('key', IMPOSSIBLE)
def test_what_cannot_work_is_refused_by_the_name_of_its_key(key):
  value, message = IMPOSSIBLE[key]
  config = complete(load('pretrain', 'size=tiny'))
  with config.unlocked():
    *parents, last = key.split('.')
    section = config
    for parent in parents:
      section = section[parent]
    section[last] = value
  with pytest.raises(UserError, match=message.replace('.', r'\.')):
    config_lib.validate(config)


# Changes to configs/cola.py that cannot work, and the key that is named.
IMPOSSIBLE_FOR_TASKS = {
  'local files without a folder': ({'data.source': 'local'}, 'data.glue_dir'),
  'a folder that is not read': ({'data.glue_dir': 'glue'}, 'data.source=local'),
  'own data without files': ({'data.source': 'files'}, 'data.train_file'),
  'own data that is not read': (
    {'data.train_file': 'a.csv'},
    'data.source=files',
  ),
  'no column': ({'data.text_columns': ()}, 'data.text_columns'),
  'three columns': ({'data.text_columns': ('a', 'b', 'c')}, 'text_columns'),
  'an unknown task': ({'data.task': 'coal'}, "'coal'"),
  'a seed twice': ({'seeds': (1, 1)}, 'seeds'),
  'no MNLI run': ({'from_mnli': True}, 'from_mnli'),
  'nothing to evaluate': ({'job': 'eval'}, 'init_from'),
  'evaluating many': (
    {'job': 'eval', 'init_from': 'runs/x', 'data.task': 'all'},
    'job=eval',
  ),
  'negative patience': ({'train.early_stopping': -1}, 'early_stopping'),
  'no epochs': ({'train.epochs': 0.0}, 'train.epochs'),
  'unsorted buckets': ({'data.length_buckets': (64, 32)}, 'length_buckets'),
}


@pytest.mark.parametrize('case', IMPOSSIBLE_FOR_TASKS)
def test_fine_tuning_says_what_it_cannot_do(case):
  changes, message = IMPOSSIBLE_FOR_TASKS[case]
  config = load('cola')
  with config.unlocked():
    config.update_from_flattened_dict(changes)
  with pytest.raises(UserError, match=message):
    config_lib.validate(config)


@pytest.mark.parametrize('size', ['tiny', 'base'])
def test_open_settings_are_those_of_task_and_size(size):
  config = load('mrpc', f'size={size}')
  config.train.learning_rate = 7e-5
  recipes.fill_in(config)
  assert config.train.epochs == {'tiny': 4.0, 'base': 5.0}[size]
  assert config.train.learning_rate == 7e-5  # what is set stays

  by_steps = load('mrpc')
  by_steps.train.steps = 10
  assert recipes.fill_in(by_steps).train.epochs is None
  assert by_steps.train.learning_rate == 2e-5


@pytest.mark.parametrize(
  ('flags', 'words'),
  [
    (['--config=configs/pretrain.py', '--config.train.stepz=3'], 'stepz'),
    (['--config=configs/pretrain.py', '--config.train.steps=x'], 'steps'),
    (['--config=configs/nothing.py'], 'nothing.py'),
    (['--config=configs/pretrain.py:size=9'], "model.size='9'"),
    (['--confg=configs/pretrain.py'], 'confg'),
    (['--config=configs/pretrain.py', 'extra'], 'extra'),
    ([], '--config='),
  ],
)
def test_a_wrong_flag_is_a_sentence_and_exit_code_1(flags, words):
  done = subprocess.run(
    [sys.executable, '-m', 'shared_bert.main', *flags],
    cwd=ROOT,
    capture_output=True,
    text=True,
    timeout=120,
  )
  assert done.returncode == 1, done.stderr
  assert words in done.stderr
  assert 'Traceback' not in done.stderr
  assert len(done.stderr.strip().splitlines()) <= 3
