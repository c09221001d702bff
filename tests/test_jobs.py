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
from tensorboard.backend.event_processing import event_accumulator

from shared_bert.finetune import finetune
from shared_bert.pretrain import pretrain
from shared_bert.training.checkpoint import open_checkpoint
from tests.tiny_jobs import SMALL, finetune_config, pretrain_config

ROOT = pathlib.Path(__file__).parents[1]


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
  assert set(results['metrics']['dev']) == {'pearson', 'spearman', 'loss'}


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
  speeds = ('_per_second', 'stall')
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
