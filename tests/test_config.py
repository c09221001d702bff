"""Configs: each one builds, and its open settings are filled in."""

import importlib.util
import pathlib

import pytest

from shared_bert import config as config_lib
from shared_bert import recipes, validation
from shared_bert.data.glue_tasks import TASKS
from shared_bert.errors import UserError

ROOT = pathlib.Path(__file__).parents[1]
# tests/test_study.py has that of the study.
CONFIGS = sorted(
  set((ROOT / 'configs').glob('*.py')) - {ROOT / 'configs/study.py'}
)


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
  if config.get('init_from') is None and config.job == 'pretrain':
    config.init_from = 'bert'
  if config.job == 'robustness':
    config.init_from = 'runs/cola'
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
  assert config.train.epochs == 20.0
  large = recipes.fill_in(load('qnli', f'size={size}'))
  assert large.train.epochs == {'tiny': 4.0, 'base': 3.0}[size]
  assert config.train.learning_rate == 7e-5  # what is set stays

  by_steps = load('mrpc')
  by_steps.train.steps = 10
  assert recipes.fill_in(by_steps).train.epochs is None
  assert by_steps.train.learning_rate == 2e-5


@pytest.mark.parametrize('recipe', ['bert', 'cramming', 'symmetric2024'])
@pytest.mark.parametrize(
  'budget', ['', ',steps=3000', ',tokens=1e9', ',hours=0.5']
)
def test_every_recipe_can_have_any_budget(recipe, budget):
  config = complete(load('pretrain', f'recipe={recipe}{budget}'))
  validation.validate(shorter(config) if 'steps' in budget else config)
  course = config_lib.course_of(config, (config.data.seq_len,), 1000)
  assert (course.steps is None) == (
    'hours' in budget or (recipe == 'cramming' and not budget)
  )


def shorter(config):
  """Warm-up steps are of the whole recipe."""
  if config.train.warmup_steps:
    config.train.warmup_steps = 100
  return config


def test_a_recipe_that_is_not_there_is_refused():
  with pytest.raises(UserError, match='bert, cramming, symmetric2024'):
    load('pretrain', 'recipe=roberta')


# What cannot be, by what is set: keys of `train`, corpora, words of the error.
REFUSED = {
  'two budgets': ({'hours': 1.0}, 'a', 'train.hours=1 both say how long'),
  'steps of a clock': (
    {'steps': None, 'hours': 1.0},
    'a',
    'set train.warmup_ratio',
  ),
  'no budget': ({'steps': None, 'warmup_steps': None}, 'a', 'or train.hours'),
  'a share too few': ({'stage_shares': (1.0,)}, 'a,b', 'has 1 values'),
  'shares of no stages': ({'stage_shares': (0.5, 0.5)}, 'a', 'names 1'),
  'too many shares': ({'stage_shares': (0.9, 0.2)}, 'a,b', 'add up to 1'),
  'no shares': ({}, 'a,b,c', 'set train.stage_shares'),
  'no corpus': ({}, 'a,,b', 'folder without a name'),
  'epochs of what': (
    {'steps': None, 'epochs': 1.0},
    'a,b',
    'of which of 2 corpora',
  ),
  'half a ramp': ({'ramp_batch_size': 8}, 'a', 'set both'),
  'a ramp downwards': (
    {'ramp_batch_size': 512, 'ramp_ratio': 0.1},
    'a',
    'below the batch that it grows to, 256',
  ),
  'a ramp too long': (
    {'ramp_batch_size': 8, 'ramp_ratio': 0.95},
    'a,b',
    'ends after the first stage',
  ),
  'unequal parts of a stage': (
    {'stage_batch_sizes': (256, 64), 'stage_accumulations': (1, 3)},
    'a,b',
    'in stage 1',
  ),
  'an unknown optimiser': ({'optimizer': 'adam'}, 'a', 'lion, muon'),
  'a decay after the end': (
    {'schedule': 'wsd', 'decay_ratio': 1.0},
    'a',
    'train.decay_ratio=1',
  ),
}


@pytest.mark.parametrize('name', REFUSED)
def test_training_that_cannot_be_is_refused(name):
  train, corpus, words = REFUSED[name]
  config = load('pretrain')
  config.data.corpus = corpus
  config.train.update(train)
  with pytest.raises(UserError, match=words):
    validation.validate(config)
