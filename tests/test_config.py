"""Configs: each one builds, and what cannot work is refused by name."""

import importlib.util
import pathlib
import subprocess
import sys

import pytest

from shared_bert import config as config_lib
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
  if config.job == 'finetune':
    config.data.glue_dir = 'glue'
    config.init_from = 'runs/pretrain'
  return config


@pytest.mark.parametrize('path', CONFIGS, ids=lambda p: p.stem)
def test_every_config_builds_and_is_valid(path):
  config_lib.validate(complete(load(path.stem)))


@pytest.mark.parametrize('task', [t for t in TASKS if t != 'ax'])
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


@pytest.mark.parametrize('key', ['data.glue_dir', 'init_from'])
def test_fine_tuning_says_what_it_cannot_do_without(key):
  config = complete(load('cola'))
  section = config.data if key.startswith('data') else config
  section[key.split('.')[-1]] = ''
  with pytest.raises(UserError, match=key.replace('.', r'\.')):
    config_lib.validate(config)


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
