"""Wrong workdirs and checkpoints, full disks: nothing saved is lost."""

import contextlib
import json
import shutil
import signal
import subprocess
import sys

import pytest

from tests.bad_input import (
  ROOT,
  assert_refused,
  cola_flags,
  flags_of,
  flipped,
  snapshot,
)
from tests.tiny_jobs import pretrain_config


@pytest.fixture(scope='module')
def flags(glue, pretrained):
  """Those of a run on CoLA: two steps."""
  return cola_flags(glue, pretrained)


@pytest.fixture(scope='module')
def finished(commands, flags, tmp_path_factory):
  """The workdir of that run, complete."""
  workdir = tmp_path_factory.mktemp('finished') / 'run'
  done = commands.run('main', *flags, f'--workdir={workdir}')
  assert done.code == 0, done.err
  return workdir


def written(name, data):
  return lambda workdir: (workdir / name).write_bytes(data)


def unfinished(workdir):
  (workdir / 'results.json').unlink()


def logged(damage):
  """An unfinished run whose log is damaged."""

  def change(workdir):
    unfinished(workdir)
    path = workdir / 'metrics.jsonl'
    path.write_bytes(damage(path.read_bytes()))

  return change


def log_is_a_folder(workdir):
  (workdir / 'metrics.jsonl').unlink()
  (workdir / 'metrics.jsonl').mkdir()


def checkpoints_are_a_file(workdir):
  shutil.rmtree(workdir / 'checkpoints')
  (workdir / 'checkpoints').touch()


def resulted(**changes):
  """Results of which some are not what a run writes."""

  def change(workdir):
    path = workdir / 'results.json'
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))

  return change


def no_checkpoint_is_intact(workdir):
  unfinished(workdir)
  flipped(workdir / 'checkpoints' / '2' / 'vocab.txt')


def without_a_config(*names):
  def change(workdir):
    (workdir / 'config.json').unlink()
    for name in names:
      shutil.rmtree(workdir / name, ignore_errors=True)

  return change


# What is done to a workdir, more flags, and what the sentence must say.
WORKDIRS = {
  'of another configuration': (
    lambda workdir: None,
    ['--config.seed=3', '--config.train.learning_rate=1e-3'],
    'holds another run: seed was 0, is 3; train.learning_rate was 2e-05, is',
    'Use another --workdir',
  ),
  'of a configuration of another version': (
    written('config.json', b'{"a": 1}'),
    [],
    'a was 1, is None',
    ' more. Use another --workdir',
  ),
  'of the other job': (
    lambda workdir: None,
    ['--config.job=eval', '--config.init_from=none'],
    "job was 'finetune', is 'eval'. Use another --workdir",
  ),
  'of a single run': (
    lambda workdir: None,
    ['--config.seeds=1,2'],
    'holds a single run',
    'another --workdir',
  ),
  'with an empty config': (
    written('config.json', b''),
    [],
    'config.json is damaged',
    'restore it',
  ),
  'with half a config': (
    written('config.json', b'{"job": "fine'),
    [],
    'config.json is damaged',
  ),
  'with a config of another kind': (
    written('config.json', b'[]'),
    [],
    'config.json is damaged',
  ),
  'with a binary config': (
    written('config.json', b'\xff\xfe'),
    [],
    'config.json is damaged',
  ),
  'without a config': (
    without_a_config(),
    [],
    'holds checkpoints but no config.json',
    'another --workdir',
  ),
  'with results alone': (
    without_a_config('checkpoints'),
    [],
    'holds results.json but no config.json',
  ),
  'with half the results': (
    written('results.json', b'{"job": "fine'),
    [],
    'results.json is damaged',
    'remove it',
  ),
  'with results of another kind': (
    written('results.json', b'{}'),
    [],
    'results.json is damaged',
    'remove it',
  ),
  'with results of another job': (
    resulted(job='eval'),
    [],
    'results.json is damaged',
  ),
  'with results that are no splits': (
    resulted(metrics=5),
    [],
    'results.json is damaged',
  ),
  'with a split that is no dict': (
    resulted(metrics={'dev': 3}),
    [],
    'results.json is damaged',
  ),
  'with a metric that is no number': (
    resulted(metrics={'dev': {'accuracy': None}}),
    [],
    'results.json is damaged',
  ),
  'with a time that is no number': (
    resulted(seconds='x'),
    [],
    'results.json is damaged',
  ),
  'with a config without a key': (
    written('config.json', b'{}'),
    [],
    'config.json is damaged',
  ),
  'with a config nested too deep': (
    written('config.json', b'{"a":' * 100_000),
    [],
    'config.json is damaged',
  ),
  'with a file for its checkpoints': (
    checkpoints_are_a_file,
    [],
    'checkpoints must be a folder',
  ),
  'with a folder for its log': (
    log_is_a_folder,
    [],
    'metrics.jsonl must be a file',
  ),
}
# The same, found only once training is about to begin.
LOGS = {
  'with half a line in its log': (
    logged(lambda data: data[:30] + data[40:].replace(b'}', b'', 1)),
    [],
    'metrics.jsonl, line 1 is damaged',
    'mend it or move the file away',
  ),
  'with another line in its log': (
    logged(lambda data: data + b'3\n'),
    [],
    'metrics.jsonl, line 5 is damaged',
  ),
  'with a line of no step in its log': (
    logged(lambda data: b'{"a": 1}\n' + data),
    [],
    'metrics.jsonl, line 1 is damaged',
  ),
  'with a binary log': (
    logged(lambda data: b'\xff\xfe\n' + data),
    [],
    'metrics.jsonl, line 1 is damaged',
  ),
  'without an intact checkpoint': (
    no_checkpoint_is_intact,
    [],
    'no checkpoint in',
    'is intact: remove the folder to begin again',
  ),
}


@pytest.mark.parametrize('case', WORKDIRS | LOGS)
def test_a_workdir_that_does_not_fit_is_refused_and_kept(
  case, commands, flags, finished, tmp_path
):
  change, more, *words = (WORKDIRS | LOGS)[case]
  workdir = tmp_path / 'my run'
  shutil.copytree(finished, workdir)
  change(workdir)
  before = snapshot(tmp_path)
  done = commands.run('main', *flags, *more, f'--workdir={workdir}')
  assert_refused(done, [str(workdir), *words], planned=case in LOGS)
  assert snapshot(tmp_path) == before


def test_other_data_under_the_same_name_are_not_trained_on(
  commands, flags, glue, finished, tmp_path
):
  workdir = tmp_path / 'run'
  shutil.copytree(finished, workdir)
  unfinished(workdir)
  shutil.copytree(glue, tmp_path / 'glue')
  train = tmp_path / 'glue' / 'CoLA' / 'train.tsv'
  train.write_text(train.read_text().replace('dog', 'fox', 1))
  known = workdir / 'config.json'
  known.write_text(known.read_text().replace(str(glue), f'{tmp_path}/glue'))
  argv = [*flags, f'--config.data.glue_dir={tmp_path / "glue"}']
  before = snapshot(tmp_path)
  done = commands.run('main', *argv, f'--workdir={workdir}')
  words = [str(workdir), 'another data fingerprint', 'bring the old data back']
  assert_refused(done, words, planned=True)
  assert snapshot(tmp_path) == before


def test_a_workdir_that_may_not_be_written_is_refused(
  commands, flags, finished, tmp_path
):
  workdir = tmp_path / 'run'
  shutil.copytree(finished, workdir)
  workdir.chmod(0o555)
  done = commands.run('main', *flags, f'--workdir={workdir}', humble=True)
  workdir.chmod(0o755)
  assert_refused(
    done, [f'--workdir={workdir} cannot be written (Permission denied)']
  )


def test_a_checkpoint_of_the_other_job_is_not_evaluated(
  commands, flags, text, finished, pretrained, tmp_path
):
  more = ['--config.job=eval', f'--workdir={tmp_path / "run"}']
  done = commands.run('main', *flags, *more)
  assert_refused(
    done, [f'init_from={pretrained}', 'of job=pretrain', 'use the']
  )
  of_words = [
    *flags_of('pretrain', pretrain_config(text)),
    '--config.train.warmup_steps=0',
    f'--config.init_from={finished}',
  ]
  done = commands.run('main', *of_words, *more)
  assert_refused(done, ['a checkpoint of job=finetune', 'use the config'])
  splits = [f'--config.init_from={finished}', '--config.data.splits=dve']
  done = commands.run(
    'main', *flags, *more[:1], *splits, f'--workdir={tmp_path}'
  )
  assert_refused(done, ['data.splits names dve', 'cola'])


# Bytes that fit a file, and what of a run does not.
@pytest.mark.parametrize(
  ('fits', 'words'),
  [
    (1, ['config.json cannot be written (File too large)', 'make room']),
    (9000, ['checkpoints/2 could not be saved: File too large', 'start again']),
  ],
)
def test_a_full_disk_is_told_and_the_run_goes_on_after_it(
  fits, words, commands, flags, finished, tmp_path
):
  argv = [*flags, f'--workdir={tmp_path}']
  done = commands.run('main', *argv, largest_file=fits)
  assert_refused(done, [str(tmp_path), *words], planned=fits > 1)
  mended = commands.run('main', *argv)
  assert mended.code == 0, mended.err
  ours, theirs = (
    json.loads((folder / 'results.json').read_text())['metrics']
    for folder in (tmp_path, finished)
  )
  assert ours == theirs


def test_a_log_that_does_not_fit_the_disk_is_kept(
  commands, flags, finished, tmp_path
):
  workdir = tmp_path / 'run'
  shutil.copytree(finished, workdir)
  unfinished(workdir)
  log = workdir / 'metrics.jsonl'
  log.write_text('{"step": 1, "x": "%s"}\n' % ('a' * 5000) + log.read_text())
  before = snapshot(workdir)
  argv = [*flags, f'--workdir={workdir}']
  done = commands.run('main', *argv, largest_file=4000)
  assert_refused(done, ['metrics', 'File too large', 'make room'], planned=True)
  assert before.items() <= snapshot(workdir).items()


_HOLD = (
  'import pathlib, sys, time\n'
  'from shared_bert.training.workdir import alone_in_workdir\n'
  'def job(config, workdir):\n'
  '  print("held", flush=True)\n'
  '  time.sleep(300)\n'
  'alone_in_workdir(job)(None, pathlib.Path(sys.argv[1]))\n'
)


@contextlib.contextmanager
def held(workdir):
  """Another process at work in a folder; killed outright in the end."""
  with subprocess.Popen(
    [sys.executable, '-c', _HOLD, str(workdir)],
    cwd=ROOT,
    stdout=subprocess.PIPE,
    text=True,
  ) as process:
    try:
      assert process.stdout.readline() == 'held\n'
      yield process
    finally:
      process.send_signal(signal.SIGKILL)


def test_two_runs_do_not_meet_in_a_workdir(commands, flags, finished, tmp_path):
  workdir = tmp_path / 'run'
  shutil.copytree(finished, workdir)
  argv = [*flags, f'--workdir={workdir}']
  before = snapshot(workdir)
  with held(workdir) as other:
    done = commands.run('main', *argv)
    assert_refused(
      done, [str(workdir), f'in use by process {other.pid} on', 'wait']
    )
    assert snapshot(workdir) == before
  done = commands.run('main', *argv)
  assert done.code == 0, done.err
