"""The jobs, from text files to leaderboard files, on tiny real data."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from tensorboard.backend.event_processing import event_accumulator

from shared_bert import config as config_lib
from shared_bert.finetune import finetune
from shared_bert.pretrain import pretrain
from shared_bert.training.checkpoint import open_checkpoint

ROOT = pathlib.Path(__file__).parents[1]
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


@pytest.fixture(scope='module')
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


@pytest.fixture(scope='module')
def pretrained(text, tmp_path_factory):
  workdir = tmp_path_factory.mktemp('pretrain')
  pretrain(pretrain_config(text), workdir)
  return workdir


@pytest.fixture(scope='module')
def glue(tmp_path_factory):
  """CoLA, MNLI and STS-B in the official layout, a few rows each."""
  folder = tmp_path_factory.mktemp('glue')

  def write(name, rows):
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    path.write_text('\n'.join('\t'.join(row) for row in rows))

  def cola(seed, count):
    return [
      ('src', str(i % 2), '', s) for i, s in enumerate(sentences(count, seed))
    ]

  write('CoLA/train.tsv', cola(1, 40))
  write('CoLA/dev.tsv', cola(2, 21))
  test = [(str(i), s) for i, s in enumerate(sentences(19, 3))]
  write('CoLA/test.tsv', [('index', 'sentence'), *test])

  def pairs(seed, count, target_column, targets):
    both = zip(sentences(count, seed), sentences(count, seed + 1), strict=True)
    return [
      ('index', 'sentence1', 'sentence2', target_column),
      *(
        (str(i), a, b, targets[i % len(targets)])
        for i, (a, b) in enumerate(both)
      ),
    ]

  labels = ('gold_label', ('entailment', 'neutral', 'contradiction'))
  write('MNLI/train.tsv', pairs(4, 40, *labels))
  write('MNLI/dev_matched.tsv', pairs(6, 20, *labels))
  write('MNLI/dev_mismatched.tsv', pairs(8, 10, *labels))
  scores = ('score', [f'{k}.0' for k in range(6)])
  write('STS-B/train.tsv', pairs(10, 40, *scores))
  write('STS-B/dev.tsv', pairs(12, 20, *scores))
  return folder


def finetune_config(task, glue, pretrained):
  config = shrink(config_lib.finetune_defaults(), epochs=1.0)
  config.data.update({'task': task, 'glue_dir': str(glue), 'seq_len': 16})
  config.data.length_buckets = (16,)
  config.data.eval_batch_size = 16
  config.init_from = str(pretrained)
  return config


def lines(workdir):
  return [
    json.loads(line)
    for line in (workdir / 'metrics.jsonl').read_text().splitlines()
  ]


def test_pretraining_reports_and_keeps_what_it_promises(pretrained):
  results = json.loads((pretrained / 'results.json').read_text())
  assert set(results['metrics']['heldout']) == {
    'loss',
    'accuracy',
    'perplexity',
  }
  assert [(r['step'], r['split']) for r in lines(pretrained)] == [
    (0, 'token_attention_entropy'),
    (2, 'train'),
    (4, 'train'),
    (4, 'heldout'),
    (4, 'token_attention_entropy'),
  ]
  assert (open_checkpoint(pretrained).path / 'vocab.txt').is_file()


def test_a_complete_run_does_nothing_when_started_again(
  text, pretrained, capsys
):
  before = {p: p.stat().st_mtime_ns for p in pretrained.rglob('*.json*')}
  pretrain(pretrain_config(text), pretrained)
  assert 'nothing to do' in capsys.readouterr().out
  config = pretrained / 'config.json'
  after = {p: p.stat().st_mtime_ns for p in pretrained.rglob('*.json*')}
  del before[config], after[config]
  assert before == after


def test_fine_tuning_scores_every_row_and_writes_the_leaderboards_file(
  glue, pretrained, tmp_path
):
  config = finetune_config('cola', glue, pretrained)
  config.tensorboard = True
  results = finetune(config, tmp_path)
  assert results['examples'] == {'train': 40, 'dev': 21, 'test': 19}
  assert -1 <= results['metrics']['dev']['matthews'] <= 1
  rows = (tmp_path / 'predictions' / 'CoLA.tsv').read_text().splitlines()
  assert rows[0] == 'index\tprediction'
  assert [row.split('\t')[0] for row in rows[1:]] == list(map(str, range(19)))
  seen = event_accumulator.EventAccumulator(str(tmp_path))
  seen.Reload()
  assert 'dev/matthews' in seen.PluginTagToContent('scalars')
  assert 'dev/confusion' in seen.PluginTagToContent('images')
  assert 'd_v/layer_00' in seen.PluginTagToContent('histograms')


def test_mnli_is_scored_matched_and_mismatched_in_one_run(
  glue, pretrained, tmp_path, capsys
):
  results = finetune(finetune_config('mnli', glue, pretrained), tmp_path)
  assert set(results['metrics']) == {'dev_matched', 'dev_mismatched'}
  shown = capsys.readouterr().out
  assert 'mnli test_matched: skipped, there is no' in shown


def test_a_regression_task_reports_both_correlations(
  glue, pretrained, tmp_path
):
  results = finetune(finetune_config('stsb', glue, pretrained), tmp_path)
  assert set(results['metrics']['dev']) == {'pearson', 'spearman'}


def start(text, workdir):
  """The pre-training job as a process of its own, on one device."""
  config = pretrain_config(text, steps=40)
  assert config.data.corpus == ''
  flags = [
    f'--config.{key}={value}'
    for key, value in {
      **{f'model.{k}': v for k, v in SMALL.items()},
      'tensorboard': False,
      'data.text': config.data.text,
      'data.dir': config.data.dir,
      'data.vocab_size': 60,
      'data.seq_len': 16,
      'train.steps': 40,
      'train.batch_size': 16,
      'train.warmup_steps': 4,
      'train.log_every': 3,
      'train.checkpoint_every': 4,
    }.items()
  ]
  return subprocess.Popen(
    [
      sys.executable,
      '-m',
      'shared_bert.main',
      '--config=configs/pretrain.py',
      f'--workdir={workdir}',
      *flags,
    ],
    cwd=ROOT,
    env=os.environ | {'JAX_NUM_CPU_DEVICES': '1'},
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
  )


def finish(process):
  output, _ = process.communicate(timeout=300)
  assert process.returncode == 0, output
  return output


def leaves(workdir):
  found = open_checkpoint(workdir)
  assert found.step == 40
  return jax.tree.leaves(found.load_params())


def test_a_run_killed_outright_ends_where_an_undisturbed_one_does(
  text, pretrained, tmp_path
):
  del pretrained  # the corpus is prepared by then
  whole, parts = tmp_path / 'whole', tmp_path / 'parts'
  finish(start(text, whole))
  process = start(text, parts)
  deadline = time.monotonic() + 200
  while not (parts / 'checkpoints' / '8').exists():
    if process.poll() is not None or time.monotonic() > deadline:
      break
    time.sleep(0.005)
  process.send_signal(signal.SIGKILL)
  process.communicate()
  assert not (parts / 'results.json').exists()
  assert 'resuming from step' in finish(start(text, parts))
  jax.tree.map(np.testing.assert_array_equal, leaves(whole), leaves(parts))
  speeds = ('_per_second',)
  assert [
    {k: v for k, v in row.items() if not k.endswith(speeds)}
    for row in lines(whole)
  ] == [
    {k: v for k, v in row.items() if not k.endswith(speeds)}
    for row in lines(parts)
  ]


def test_every_module_imports_without_tensorflow():
  code = (
    'import sys, importlib, pkgutil, shared_bert\n'
    'for m in pkgutil.walk_packages(shared_bert.__path__, "shared_bert."):\n'
    '  importlib.import_module(m.name)\n'
    'assert "tensorflow" not in sys.modules\n'
  )
  subprocess.run([sys.executable, '-c', code], check=True, timeout=120)
