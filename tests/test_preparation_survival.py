"""Preparation that is killed, or out of room, goes on where it was."""

import os
import resource
import signal
import subprocess
import sys

import numpy as np
import pytest

from shared_bert.data import preparation, spills, stages
from shared_bert.data.corpus import open_corpus
from shared_bert.data.preparation import NewVocabulary, prepare_corpus
from shared_bert.data.tokenizer import SPECIAL_TOKENS, Tokenizer
from shared_bert.errors import UserError

WORDS = 'zero one two three four five six seven eight nine'.split()
# Blocks of 500 bytes instead of megabytes, and a death by its own hand.
SETTINGS = """
import os, pathlib, signal, sys
from shared_bert.data import preparation, row_files, spills, stages
from shared_bert.data.tokenizer import Tokenizer

stages._BLOCK_BYTES = 500  # as the test has it too
folder, where, workers = pathlib.Path(sys.argv[1]), sys.argv[2], sys.argv[3]
module, name, calls = where.split()
original, left = getattr(globals()[module], name), [int(calls)]

def deadly(*args):
  if not left[0]:
    os.kill(os.getpid(), signal.SIGKILL)
  left[0] -= 1
  return original(*args)

if __name__ == '__main__':
  setattr(globals()[module], name, deadly)
  preparation.prepare_corpus(
    [folder / 'text.txt'], folder / 'out', Tokenizer.load(folder / 'vocab'),
    32, int(workers), shards=4,
  )
"""


@pytest.fixture
def folder(tmp_path):
  """Sixty documents in text.txt, about 13 blocks of 500 bytes, and vocab."""
  rng = np.random.default_rng(0)
  documents = [
    ' '.join(rng.choice(WORDS, rng.integers(5, 40))) for _ in range(60)
  ]
  (tmp_path / 'text.txt').write_text('\n\n'.join(documents) + '\n')
  Tokenizer.from_vocab([*SPECIAL_TOKENS, *WORDS]).save(tmp_path / 'vocab')
  return tmp_path


def prepare(folder, output='out', workers=1):
  return prepare_corpus(
    [folder / 'text.txt'],
    folder / output,
    Tokenizer.load(folder / 'vocab'),
    32,
    workers,
    shards=4,
  )


def snapshot(folder):
  return {path.name: path.read_bytes() for path in folder.iterdir()}


# Where it dies, before the how-manieth call, in how many processes.
DEATHS = {
  'while it tokenises': ('spills write_spill 4', 1),
  'before it renames a spill': ('row_files write_file 6', 1),
  'while workers tokenise': ('stages _spill 6', 2),
  'while it packs': ('stages write_shard 2', 1),
  'before it publishes': ('preparation _publish 0', 1),
}


@pytest.mark.parametrize('case', DEATHS)
def test_a_killed_preparation_goes_on_and_ends_alike(case, folder, monkeypatch):
  where, workers = DEATHS[case]
  script = folder / 'script.py'
  script.write_text(SETTINGS)
  done = subprocess.run(
    [sys.executable, str(script), str(folder), where, str(workers)],
    capture_output=True,
    text=True,
    env={**os.environ, 'PYTHONPATH': os.pathsep.join(sys.path)},
  )
  assert done.returncode == -signal.SIGKILL, done.stderr
  assert not (folder / 'out').exists()
  partial = folder / 'out.partial'
  finished = {
    path: path.stat().st_mtime_ns
    for path in (*partial.glob('spills/*.spill'), *partial.glob('train-*.npy'))
  }
  assert finished or workers > 1

  monkeypatch.setattr(stages, '_BLOCK_BYTES', 500)
  kept = []
  publish = preparation._publish

  def look_before(*args):
    kept.extend(path.stat().st_mtime_ns == t for path, t in finished.items())
    publish(*args)

  with monkeypatch.context() as patch:
    patch.setattr(preparation, '_publish', look_before)
    prepare(folder)
  assert all(kept) and len(kept) == len(finished)
  assert not partial.exists()
  prepare(folder, 'undisturbed')
  assert snapshot(folder / 'out') == snapshot(folder / 'undisturbed')


def test_it_goes_on_with_the_files_named_in_another_order(folder, monkeypatch):
  monkeypatch.setattr(stages, '_BLOCK_BYTES', 500)
  text = (folder / 'text.txt').read_text().split('\n\n')
  files = []
  for k in range(6):
    files.append(folder / f'{k}.txt')
    files[-1].write_text('\n\n'.join(text[10 * k : 10 * k + 10]))
  tokenizer = Tokenizer.load(folder / 'vocab')
  write, left = spills.write_spill, [5]

  def interrupt(*args):
    if not left[0]:
      raise KeyboardInterrupt
    left[0] -= 1
    write(*args)

  with monkeypatch.context() as patch:
    patch.setattr(spills, 'write_spill', interrupt)
    with pytest.raises(KeyboardInterrupt):
      prepare_corpus(files, folder / 'out', tokenizer, 32)
  corpus = prepare_corpus(files[::-1], folder / 'out', tokenizer, 32)
  whole = prepare_corpus(files, folder / 'whole', tokenizer, 32)
  assert corpus.fingerprint == whole.fingerprint


def test_workers_end_with_a_killed_parent(folder):
  script = folder / 'script.py'
  script.write_text(SETTINGS)
  # A pipe ends when nobody holds it any more: no worker is left then.
  reading, writing = os.pipe()
  child = subprocess.Popen(
    [sys.executable, str(script), str(folder), 'stages _spill 6', '2'],
    stderr=subprocess.DEVNULL,
    stdout=writing,
    env={**os.environ, 'PYTHONPATH': os.pathsep.join(sys.path)},
  )
  os.close(writing)
  assert child.wait(timeout=60) == -signal.SIGKILL
  with os.fdopen(reading, 'rb') as stream:
    stream.read()


def test_another_request_starts_afresh(folder, monkeypatch):
  monkeypatch.setattr(stages, '_BLOCK_BYTES', 500)

  def interrupt(*unused):
    raise KeyboardInterrupt

  with monkeypatch.context() as patch:
    patch.setattr(preparation, '_publish', interrupt)
    with pytest.raises(KeyboardInterrupt):
      prepare(folder)
  text = folder / 'text.txt'
  text.write_text(text.read_text() + '\n' + ' '.join(WORDS * 3))
  again = prepare(folder)
  assert again.manifest['counts']['documents'] == 61
  open_corpus(folder / 'out', verify=True)


def test_an_interrupted_preparation_keeps_its_vocabulary(
  folder, monkeypatch, capsys
):
  inputs, out = [folder / 'text.txt'], folder / 'out'

  def interrupt(*unused):
    raise KeyboardInterrupt

  with monkeypatch.context() as patch:
    patch.setattr(preparation, '_publish', interrupt)  # at the last moment
    with pytest.raises(KeyboardInterrupt):
      prepare_corpus(inputs, out, NewVocabulary(60), 32)
  assert not out.exists()
  vocabulary = (folder / 'out.partial' / 'vocab.txt').read_bytes()
  capsys.readouterr()
  corpus = prepare_corpus(inputs, out, NewVocabulary(60), 32)
  assert corpus.manifest['tokenizer']['trained_size'] == 60
  assert (out / 'vocab.txt').read_bytes() == vocabulary
  assert 'interrupted' in capsys.readouterr().err
  again = prepare_corpus(inputs, out, NewVocabulary(60), 32)
  assert again.fingerprint == corpus.fingerprint


@pytest.mark.parametrize('workers', [1, 2])
def test_a_full_disk_is_said_and_nothing_is_published(
  workers, folder, monkeypatch
):
  monkeypatch.setattr(stages, '_BLOCK_BYTES', 500)
  finished = folder / 'out.partial' / stages.SPILLS
  _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
  # Spills of 500 bytes of text fit, shards do not: what a full disk raises,
  # but for its number.
  resource.setrlimit(resource.RLIMIT_FSIZE, (2000, hard))
  try:
    with pytest.raises(UserError, match='cannot be written .*make room.*goes'):
      prepare(folder, workers=workers)
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
  assert not (folder / 'out').exists()
  assert len(list(finished.glob('*.spill'))) > 5
  assert not list(finished.parent.rglob('*.tmp'))
  prepare(folder, workers=workers)
  open_corpus(folder / 'out', verify=True)


def test_two_preparations_do_not_meet(folder):
  with preparation._partial_folder(folder / 'out'):
    with pytest.raises(UserError, match='Another process'):
      prepare(folder)
