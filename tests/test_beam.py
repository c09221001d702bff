"""Preparation by Apache Beam: the same bytes, sentences and survival."""

import errno
import functools
import gzip
import json
import os
import pathlib
import resource
import signal
import subprocess
import sys

import numpy as np
import pytest
from absl import flags
from absl.testing import flagsaver

from shared_bert import prepare as prepare_lib
from shared_bert.data import (
  beam_functions,
  beam_pipeline,
  preparation,
  row_files,
  stages,
)
from shared_bert.data.corpus import open_corpus
from shared_bert.data.tokenizer import SPECIAL_TOKENS, Tokenizer
from shared_bert.errors import Preempted, UserError
from tests.test_documents import commands as commands_of

pytest.importorskip('apache_beam')

ROOT = pathlib.Path(__file__).parents[1]
GUIDE = ROOT / 'docs' / 'guides' / 'pretrain.md'
WORDS = 'zero one two three four five six seven eight nine'.split()
PROCESSES = ('--direct_num_workers=2', '--direct_running_mode=multi_processing')
# Runs the command, and at a call of a function gets a signal, as from outside.
SIGNALLED = """
import os, sys
from shared_bert import prepare
from shared_bert.data import preparation, stages

name, calls, number, *flags = sys.argv[1:]
module, name = name.split('.')
original, left = getattr(globals()[module], name), [int(calls)]

def deadly(*args):
  if not left[0]:
    os.kill(os.getpid(), int(number))
  left[0] -= 1
  return original(*args)

setattr(globals()[module], name, deadly)
sys.exit(prepare.run(['prepare', *flags]))
"""


def _documents(number, seed):
  """Documents of one to four lines; some of them twice."""
  rng = np.random.default_rng(seed)
  made = [
    [' '.join(rng.choice(WORDS, rng.integers(3, 30))) for _ in range(lines)]
    for lines in rng.integers(1, 5, number)
  ]
  return made + made[:3]


def _text(documents):
  return '\n\n'.join('\n'.join(lines) for lines in documents).encode()


@pytest.fixture
def folder(tmp_path):
  """Files of three kinds under text, and a vocabulary."""
  text = tmp_path / 'text'
  text.mkdir()
  (text / 'a.txt').write_bytes(_text(_documents(30, 1)))
  (text / 'b.txt').write_bytes(_text(_documents(20, 2)))
  (text / 'c.txt.gz').write_bytes(gzip.compress(_text(_documents(20, 3))))
  records = ({'text': '\n'.join(lines)} for lines in _documents(20, 4))
  (text / 'd.jsonl').write_text('\n'.join(map(json.dumps, records)))
  Tokenizer.from_vocab([*SPECIAL_TOKENS, *WORDS]).save(tmp_path / 'vocab')
  return tmp_path


def prepare(folder, output, backwards=False, **settings):
  files = sorted(map(str, (folder / 'text').iterdir()), reverse=backwards)
  settings = {'vocab': folder / 'vocab', 'shards': 4, **settings}
  return prepare_lib.prepare(
    files, folder / output, seq_len=32, heldout_fraction=0.1, **settings
  )


by_beam = functools.partial(prepare, backwards=True, runner='DirectRunner')


def snapshot(folder):
  return {path.name: path.read_bytes() for path in folder.iterdir()}


def assert_alike(folder, one, other):
  assert snapshot(folder / one) == snapshot(folder / other)
  assert not list(folder.glob('*.partial'))


@pytest.mark.parametrize('setting', ['', 'pairs', 'deduplicate'])
def test_a_corpus_is_the_same_by_beam(setting, folder, monkeypatch, capfd):
  settings = {setting: True} if setting else {}
  prepare(folder, 'local', **settings)
  # Several blocks, and several files to a group.
  monkeypatch.setattr(stages, '_BLOCK_BYTES', 500)
  monkeypatch.setattr(beam_pipeline, '_GROUP_BYTES', 3000)
  capfd.readouterr()
  by_beam(folder, 'beam', **settings)
  assert_alike(folder, 'local', 'beam')
  open_corpus(folder / 'beam', verify=True)
  # Nothing of Beam's own.
  said = capfd.readouterr().err.splitlines()
  assert [line for line in said if not line.startswith('prepare: ')] == []


def test_shards_without_documents_are_written(folder):
  prepare(folder, 'local', shards=150)
  by_beam(folder, 'beam', shards=150)
  assert_alike(folder, 'local', 'beam')


@pytest.mark.slow
def test_a_corpus_is_the_same_by_processes_of_beam(folder, capfd):
  prepare(folder, 'local')
  capfd.readouterr()
  by_beam(folder, 'beam', beam_options=PROCESSES)
  assert_alike(folder, 'local', 'beam')
  said = capfd.readouterr().err.splitlines()
  assert [line for line in said if not line.startswith('prepare: ')] == []


def _command(*flags, script=None):
  head = ['-m', 'shared_bert.prepare'] if script is None else [str(script)]
  return subprocess.run(
    [sys.executable, *head, *flags],
    capture_output=True,
    text=True,
    cwd=ROOT,
    env={**os.environ, 'PYTHONPATH': os.pathsep.join([str(ROOT), *sys.path])},
  )


def flags_of(folder, output):
  return [
    f'--input={folder}/text/*',
    f'--output={folder / output}',
    f'--vocab={folder}/vocab',
    *('--seq_len=32', '--shards=4', '--heldout_fraction=0.1'),
    '--runner=DirectRunner',
  ]


def test_the_command_takes_a_runner_and_its_options(folder):
  prepare(folder, 'local')
  option = '--beam_options=--direct_running_mode=in_memory,--experiments=a,b'
  done = _command(*flags_of(folder, 'beam'), option)
  assert done.returncode == 0, done.stderr
  assert 'prepare: DirectRunner reads 4 file(s) for 5 shard(s)' in done.stderr
  assert all(line.startswith('prepare') for line in done.stderr.splitlines())
  assert_alike(folder, 'local', 'beam')


def test_a_killed_preparation_goes_on_and_ends_alike(folder, capsys):
  script = folder / 'script.py'
  script.write_text(SIGNALLED)
  done = _command(
    *('stages.write_shard', '2', str(int(signal.SIGKILL))),
    *flags_of(folder, 'beam'),
    script=script,
  )
  assert done.returncode == -signal.SIGKILL, done.stderr
  assert not (folder / 'beam').exists()
  partial = folder / 'beam.partial'
  finished = {path.name: path.stat() for path in partial.glob('*.npy')}
  assert len(finished) == 2
  by_beam(folder, 'beam')
  assert 'going on with' in capsys.readouterr().err
  for name, stat in finished.items():
    assert (folder / 'beam' / name).stat().st_mtime_ns == stat.st_mtime_ns
  prepare(folder, 'local')
  assert_alike(folder, 'local', 'beam')


def test_a_terminated_preparation_says_so_and_is_gone_on_with_locally(folder):
  script = folder / 'script.py'
  script.write_text(SIGNALLED)
  done = _command(
    *('stages.write_shard', '2', str(int(signal.SIGTERM))),
    *flags_of(folder, 'beam'),
    script=script,
  )
  assert done.returncode == 75, done.stderr
  assert done.stderr.splitlines()[-1].startswith('stopped by SIGTERM;')
  assert len(list((folder / 'beam.partial').glob('*.npy'))) == 2
  prepare(folder, 'beam')
  prepare(folder, 'local')
  assert_alike(folder, 'local', 'beam')


def test_an_interrupted_preparation_keeps_its_vocabulary(folder, monkeypatch):
  by = functools.partial(by_beam, folder, 'beam', vocab=None, vocab_size=60)

  def interrupt(*unused):
    raise KeyboardInterrupt

  with monkeypatch.context() as patch:
    patch.setattr(preparation, '_publish', interrupt)
    with pytest.raises(KeyboardInterrupt):
      by()
  vocabulary = (folder / 'beam.partial' / 'vocab.txt').read_bytes()
  with monkeypatch.context() as patch:
    # All shards are there.
    patch.setattr(stages, 'write_shard', interrupt)
    by()
  assert (folder / 'beam' / 'vocab.txt').read_bytes() == vocabulary


@pytest.mark.parametrize(
  'options', [(), pytest.param(PROCESSES, marks=pytest.mark.slow)]
)
def test_a_damaged_file_is_the_same_sentence(options, folder, capfd):
  data = (folder / 'text' / 'c.txt.gz').read_bytes()
  (folder / 'text' / 'c.txt.gz').write_bytes(data[:-40])
  with pytest.raises(UserError) as local:
    prepare(folder, 'out')
  with pytest.raises(UserError) as beam:
    by_beam(folder, 'out', beam_options=options)
  assert str(beam.value) == str(local.value)
  assert 'c.txt.gz cannot be read to its end' in str(local.value)
  assert not list(folder.glob('out*'))
  assert 'Traceback' not in capfd.readouterr().err


def test_a_full_disk_is_said_and_nothing_is_published(folder):
  _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (2000, hard))
  try:
    with pytest.raises(UserError, match='cannot be written .*make room.*goes'):
      by_beam(folder, 'out')
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
  assert not (folder / 'out').exists()
  assert not list((folder / 'out.partial').rglob('*.tmp'))
  by_beam(folder, 'out')
  open_corpus(folder / 'out', verify=True)


def test_a_bug_in_a_worker_is_no_fault_of_the_user_s(folder, monkeypatch):
  def broken(*unused):
    raise TypeError('ours')

  monkeypatch.setattr(stages, 'write_shard', broken)
  with pytest.raises(RuntimeError, match=r'(?s)Traceback.*TypeError: ours'):
    by_beam(folder, 'out')


def test_a_worker_of_a_request_that_was_given_up_writes_nothing(
  folder, monkeypatch
):
  make_groups = beam_pipeline._groups

  def meanwhile(inputs):
    request = folder / 'out.partial' / stages.REQUEST
    row_files.write_file(request, [b'another'])
    return make_groups(inputs)

  with monkeypatch.context() as patch:
    # After the workers were told what the folder is for.
    patch.setattr(beam_pipeline, '_groups', meanwhile)
    with pytest.raises(UserError, match='DirectRunner failed .*same command'):
      by_beam(folder, 'out')
  assert not list((folder / 'out.partial').glob('*.npy'))
  by_beam(folder, 'out')


@pytest.mark.parametrize(
  ('text', 'kind', 'words'),
  [
    ('x\nOSError: [Errno 28] No space left on device', OSError, 'No space'),
    ('shared_bert.errors.Preempted: stopped; on.\n', Preempted, 'stopped; on.'),
    (
      'first\nno route',
      beam_functions.WorkStopped,
      r'R failed .*route\); a log',
    ),
  ],
)
def test_what_a_runner_says_is_understood(text, kind, words, tmp_path):
  error = beam_functions.meaning(
    RuntimeError(text), tmp_path / 'none', 'R', 'a log'
  )
  assert type(error) is kind
  with pytest.raises(kind, match=words):
    raise error
  if kind is OSError:
    assert error.errno == errno.ENOSPC


@pytest.mark.parametrize(
  ('runner', 'options', 'words'),
  [
    ('Dirct', [], r'--runner=Dirct: Unexpected pipeline runner.*DirectRunner'),
    ('DirectRunner', ['--direct_num_worker=2'], 'no option --direct_num_worke'),
    ('DirectRunner', ['--direct_num_workers=x'], "invalid int value: 'x'"),
    (None, ['--direct_num_workers=2'], 'name one, such as --runner='),
  ],
)
def test_what_beam_does_not_know_is_refused(runner, options, words, folder):
  with pytest.raises(UserError, match=words):
    prepare(folder, 'out', runner=runner, beam_options=options)
  assert not list(folder.glob('out*'))


def test_the_guide_names_options_that_there_are():
  from apache_beam.options.pipeline_options import PipelineOptions

  known = PipelineOptions([]).get_all_options().keys()
  found = [words for words in commands_of(GUIDE) if 'runner' in str(words)]
  assert len(found) == 3
  for words in found:
    with flagsaver.flagsaver():
      flags.FLAGS(words[2:])
      options = prepare_lib._split_options(flags.FLAGS.beam_options)
    told = PipelineOptions(options).get_all_options(retain_unknown_options=True)
    assert not told.keys() - known
    assert all(option.startswith('--') for option in options)


def test_workers_are_refused_beside_a_runner(folder, commands):
  done = commands.run('prepare', *flags_of(folder, 'out'), '--workers=2')
  assert done.code == 1
  assert done.err.startswith('error: --workers are processes of this machine')


def test_beam_that_is_not_installed_is_said(folder, monkeypatch):
  monkeypatch.setitem(sys.modules, 'apache_beam', None)
  with pytest.raises(UserError, match=r"pip install 'shared_bert\[beam\]'"):
    by_beam(folder, 'out')
