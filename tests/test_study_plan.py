"""The hours of a study, by each budget that a pre-training can have."""

import pytest

from shared_bert.data import toy
from shared_bert.study import cells, plan, settings

# On the whole machine: a step in pre-training, and what a cell has besides.
STEP, BESIDES = 2.0, 10.0


@pytest.fixture
def config():
  made = settings.study_defaults()
  made.models, made.closer_models, made.tasks = ('standard',), (), ()
  made.pretrain.data.update({'source': 'toy', 'seq_len': 32})
  made.pretrain.train.batch_size = 16
  return made


def planned(config, workdir):
  """Seconds of the pre-training of a study."""
  settings.validate(config)
  timed = {'seconds': [1.0, STEP, 9.0], 'rows': 16, 'seq_len': 32}
  found = {'models': {'standard': {'pretrain': timed}}, 'tasks': {}}
  (cell,) = cells.cells_of(config)
  made = plan.make(config, workdir, found)
  assert made.hours == pytest.approx(
    made.seconds[cell.name] / config.workers / 3600
  )
  return made.seconds[cell.name]


@pytest.mark.parametrize('workers', [1, 2])
def test_workers_that_share_the_machine_share_no_clock(
  config, workers, tmp_path
):
  config.pretrain.train.hours, config.workers = 1.0, workers
  assert planned(config, tmp_path) == 3600 + workers * BESIDES


def test_epochs_are_planned_by_the_rows_of_the_corpus(config, tmp_path):
  config.pretrain.train.epochs = 3.0
  rows = len(toy.toy_corpus(32).train)
  steps = round(3 * rows / 16)
  assert steps > 3
  assert planned(config, tmp_path) == steps * STEP + BESIDES


def test_evaluations_under_noise_are_planned(config, tmp_path):
  config.tasks, config.finetune_seeds = ('mnli',), (0,)
  config.pretrain.train.steps = 7
  timed = {'seconds': [STEP], 'rows': 4, 'seq_len': 16}
  found = {
    'models': {'standard': {'pretrain': timed, 'finetune': timed}},
    'tasks': {'mnli': {'train': 64, 'dev': 32, 'tokens': 8.0}},
  }
  seconds = []
  for kinds in ((), ('characters', 'embedding')):
    config.robustness.noise.kinds = kinds
    config.robustness.noise.levels = (0.0, 0.1, 0.2, 0.4)
    made = plan.make(config, tmp_path, found)
    seconds.append(made.seconds[made.cells[-1].name])
  # One without noise and six with, each of a third of a step's arithmetic.
  one = 32 * 8 / 3 * STEP / (4 * 16)
  assert seconds[1] - seconds[0] == pytest.approx(7 * one)


def test_steps_and_tokens_are_planned_without_the_corpus(config, tmp_path):
  config.pretrain.data.update({'source': 'text', 'corpus': 'not there'})
  config.pretrain.train.steps = 7
  assert planned(config, tmp_path) == 7 * STEP + BESIDES
  config.pretrain.train.steps = None
  config.pretrain.train.tokens = 5.0 * 16 * 32
  assert planned(config, tmp_path) == 5 * STEP + BESIDES
