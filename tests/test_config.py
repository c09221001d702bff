"""Configs: each one builds, and its open settings are filled in."""

import importlib.util
import pathlib

import pytest

from shared_bert import recipes, validation
from shared_bert.data.glue_tasks import TASKS

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
  validation.validate(complete(load(path.stem)))


@pytest.mark.parametrize('task', [t for t in TASKS if not TASKS[t].trained_as])
def test_every_task_has_a_config_of_its_name(task):
  assert load(task).data.task == task
  assert load('glue', f'task={task}').data.task == task


def test_the_argument_sets_size_and_attention():
  config = load('pretrain', 'size=tiny,attention=pairwise')
  assert (config.model.size, config.model.attention) == ('tiny', 'pairwise')


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
