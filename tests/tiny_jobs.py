"""Jobs small enough for a test: text, GLUE files, a pre-trained checkpoint."""

import json
import os
import signal

import jax
import numpy as np
import pytest

from shared_bert import config as config_lib
from shared_bert.data.glue_tasks import TASKS
from shared_bert.errors import Preempted
from shared_bert.pretrain import pretrain
from shared_bert.training import mesh as mesh_lib

WORDS = (
  'the a cat dog bird tree sees likes big small red old runs sings'.split()
)
SMALL = {
  'num_layers': 1,
  'hidden_size': 16,
  'num_heads': 2,
  'intermediate_size': 32,
  'max_positions': 32,
}
UNEVEN_STEPS = 6


def sentences(count, seed, length=6):
  rng = np.random.default_rng(seed)
  return [' '.join(rng.choice(WORDS, length)) for _ in range(count)]


def shrink(config, **train):
  config.model.update(SMALL)
  config.tensorboard = False
  config.train.update(
    {'batch_size': 16, 'log_every': 2, 'checkpoint_every': 0} | train
  )
  return config


@pytest.fixture(scope='session')
def text(tmp_path_factory):
  path = tmp_path_factory.mktemp('text') / 'documents.txt'
  documents = ['\n'.join(sentences(4, seed)) for seed in range(300)]
  path.write_text('\n\n'.join(documents) + '\n')
  return path


def pretrain_config(text, steps=4):
  config = shrink(config_lib.pretrain_defaults(), steps=steps)
  config.data.text = str(text)
  config.data.dir = str(text.parent / 'data')
  config.data.vocab_size = 60
  config.data.seq_len = 16
  return config


@pytest.fixture(scope='session')
def pretrained(text, tmp_path_factory):
  workdir = tmp_path_factory.mktemp('pretrain')
  pretrain(pretrain_config(text), workdir)
  return workdir


def _label(task, row):
  if task.is_regression:
    return f'{row % 6}.0'
  return task.labels_in_files[row % len(task.labels_in_files)]


def write_glue(folder, tasks, absent=()):
  """Writes tasks in the official layout, a few rows a split.

  Train has 40 rows, dev 21, test 19, without a newline at the end.
  """
  sizes = {'train': 40, 'dev': 21, 'test': 19}
  for name in tasks:
    task = TASKS[name]
    for split, (file, *_) in task.splits.items():
      if (name, split) in absent:
        continue
      labelled = split not in task.test_splits
      columns = task.headerless.get(split) or (
        'index',
        *task.text_columns,
        *([task.label_column] if labelled else []),
      )
      count = sizes[split.partition('_')[0]]
      texts = [
        sentences(count, len(name) + len(split) + k)
        for k in range(len(task.text_columns))
      ]
      lines = [] if split in task.headerless else ['\t'.join(columns)]
      for row in range(count):
        values = dict.fromkeys(columns, 'x') | {'index': str(row)}
        values[task.label_column] = _label(task, row)
        for column, text in zip(task.text_columns, texts, strict=True):
          values[column] = text[row]
        lines.append('\t'.join(values[column] for column in columns))
      path = folder / task.folder / file
      path.parent.mkdir(parents=True, exist_ok=True)
      path.write_text('\n'.join(lines))
  return folder


@pytest.fixture(scope='session')
def glue(tmp_path_factory):
  """CoLA, MNLI without test sets, and STS-B, in the official layout."""
  return write_glue(
    tmp_path_factory.mktemp('glue'),
    ('cola', 'mnli', 'stsb'),
    absent=(
      ('mnli', 'test_matched'),
      ('mnli', 'test_mismatched'),
      ('stsb', 'test'),
    ),
  )


@pytest.fixture(scope='session')
def all_of_glue(tmp_path_factory):
  """Every task, the diagnostic set with and without labels among them."""
  return write_glue(tmp_path_factory.mktemp('all_of_glue'), TASKS)


def finetune_config(task, glue, pretrained):
  config = shrink(config_lib.finetune_defaults(), epochs=1.0)
  config.data.update({'source': 'local', 'task': task, 'seq_len': 16})
  config.data.glue_dir = str(glue)
  config.data.length_buckets = (16,)
  config.data.eval_batch_size = 16
  config.init_from = str(pretrained)
  return config


@pytest.fixture(scope='session')
def uneven_files(tmp_path_factory):
  """Texts of one to 26 words, many short; to the keys that name them."""
  folder = tmp_path_factory.mktemp('texts')
  rng = np.random.default_rng(5)
  for name, count in (('train', 60), ('dev', 33)):
    lines = []
    for number in range(count):
      length = int(np.clip(rng.lognormal(1.8, 0.7), 1, 26))
      text = ' '.join(rng.choice(WORDS, length))
      lines.append(json.dumps({'sentence': text, 'label': 'ab'[number % 2]}))
    (folder / f'{name}.jsonl').write_text('\n'.join(lines))
  return {
    'source': 'files',
    'train_file': str(folder / 'train.jsonl'),
    'dev_file': str(folder / 'dev.jsonl'),
  }


def uneven_config(uneven_files, pretrained, dropout=0.0, **data):
  """Of six steps on these, each logged, with an evaluation after the third."""
  config = shrink(
    config_lib.finetune_defaults(), steps=UNEVEN_STEPS, log_every=1
  )
  config.model.hidden_dropout = config.model.attention_dropout = dropout
  config.train.update({'eval_every': 3, 'learning_rate': 1e-3})
  config.data.update({**uneven_files, 'seq_len': 32})
  config.data.update({'length_buckets': (16, 24), 'eval_batch_size': 8, **data})
  config.init_from = str(pretrained)
  return config


def logged(workdir):
  """What was logged, but for the speeds."""
  rows = (workdir / 'metrics.jsonl').read_text().splitlines()
  return [
    {k: v for k, v in json.loads(row).items() if 'second' not in k}
    for row in rows
  ]


def on_one_device(patch):
  patch.setattr(mesh_lib, 'find_devices', lambda: jax.devices()[:1])


def interrupted(job, rows, monkeypatch):
  """Runs a job until it is told to stop, as its third batch is made."""
  make = rows.__call__

  def told(self, step):
    if step == 2:
      os.kill(os.getpid(), signal.SIGTERM)
    return make(self, step)

  with monkeypatch.context() as patch:
    patch.setattr(rows, '__call__', told)
    with pytest.raises(Preempted):
      job()
