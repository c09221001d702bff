"""A run compiles few functions of rows, each once for each shape."""

import collections

import jax
import pytest

from shared_bert.finetune import finetune
from shared_bert.pretrain import pretrain
from tests.tiny_jobs import finetune_config, pretrain_config

# Functions of rows: a step, an evaluation, and a look at the attention of some.
OF_ROWS = ('jit(train_step)', 'jit(<lambda>)', 'jit(look)')


def _compiled(job, config, workdir, caplog):
  """How often a job in a fresh process would compile each function.

  `jax.log_compiles` tells of every compilation, also where the program is then
  found in a cache on the disk.
  """
  jax.clear_caches()
  caplog.clear()
  with jax.log_compiles():
    job(config, workdir)
  return collections.Counter(
    message.split()[1]
    for message in caplog.messages
    if message.startswith('Compiling ')
  )


def _of_rows(compiled):
  return {name: compiled[name] for name in OF_ROWS}


def test_pre_training_compiles_three_functions_of_rows_and_each_once(
  text, pretrained, tmp_path, caplog
):
  del pretrained  # the corpus is prepared by then
  once = _compiled(
    pretrain, pretrain_config(text, steps=2), tmp_path / 'once', caplog
  )
  assert _of_rows(once) == dict.fromkeys(OF_ROWS, 1)
  # What evaluates, saves and goes on compiles nothing again.
  config = pretrain_config(text, steps=6)
  config.train.eval_every, config.train.checkpoint_every = 2, 1
  assert _compiled(pretrain, config, tmp_path / 'often', caplog) == once


def test_fine_tuning_compiles_three_functions_of_rows_and_each_once(
  glue, pretrained, tmp_path, caplog
):
  # CoLA has a test split, of rows without labels.
  config = finetune_config('cola', glue, pretrained)
  once = _compiled(finetune, config, tmp_path / 'once', caplog)
  assert _of_rows(once) == dict.fromkeys(OF_ROWS, 1)
  config.train.epochs = 3.0
  config.train.eval_every, config.train.checkpoint_every = 1, 2
  assert _compiled(finetune, config, tmp_path / 'often', caplog) == once


@pytest.mark.parametrize(
  ('data', 'steps', 'evaluations'),
  [
    # Rows have three lengths, these two and 16.
    ({'packing': False, 'length_buckets': (10, 12)}, 3, 3),
    # Batches of 16 have three numbers of rows at most, evaluations one.
    ({'seq_len': 32}, 3, 1),
  ],
  ids=['cut to lengths', 'packed'],
)
def test_fine_tuning_compiles_once_for_each_shape_of_rows(
  data, steps, evaluations, glue, pretrained, tmp_path, caplog
):
  config = finetune_config('cola', glue, pretrained)
  config.data.update(data)
  config.train.epochs = 3.0
  counts = _of_rows(_compiled(finetune, config, tmp_path / 'run', caplog))
  step, outputs, look = (counts[name] for name in OF_ROWS)
  assert 1 <= step <= steps
  assert 1 <= outputs <= evaluations
  assert look == 1
