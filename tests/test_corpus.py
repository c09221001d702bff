"""Preparing text: exact rows, nothing half done, nothing overwritten."""

import gzip
import json
import lzma
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest

from shared_bert import prepare as prepare_lib
from shared_bert.data import chunks, preparation, text_files
from shared_bert.data.corpus import open_corpus
from shared_bert.data.preparation import NewVocabulary, prepare_corpus
from shared_bert.data.tokenizer import SPECIAL_TOKENS, Tokenizer
from shared_bert.errors import UserError

WORDS = 'zero one two three four five six seven eight nine'.split()


@pytest.fixture(scope='module')
def tokenizer():
  return Tokenizer.from_vocab([*SPECIAL_TOKENS, *WORDS])


@pytest.fixture
def text(tmp_path):
  """Sixty documents of one to three lines."""
  rng = np.random.default_rng(0)
  documents = [
    '\n'.join(
      ' '.join(rng.choice(WORDS, rng.integers(1, 40)))
      for _ in range(rng.integers(1, 4))
    )
    for _ in range(60)
  ]
  path = tmp_path / 'text.txt'
  path.write_text('\n\n'.join(documents) + '\n', 'utf-8')
  return path


def _words(tokenizer, rows):
  return [' '.join(tokenizer.vocab[i] for i in row) for row in rows]


def _sentence(count, first=0):
  return ' '.join(WORDS[(first + i) % 10] for i in range(count))


def test_rows_are_chunks_of_documents(tmp_path, tokenizer):
  path = tmp_path / 'text.txt'
  # 20 tokens over two lines; 7 are too few; 8 are enough; 11 = 10 and 1.
  documents = [
    _sentence(15) + '\n' + _sentence(5, first=5),
    _sentence(7),
    _sentence(8),
    _sentence(11),
  ]
  path.write_text('\n\n\n'.join(documents), 'utf-8')
  corpus = prepare_corpus(
    [path], tmp_path / 'out', tokenizer, 12, heldout_fraction=0
  )
  ten = '[CLS] ' + _sentence(10) + ' [SEP]'
  assert _words(tokenizer, corpus.train) == [
    *(ten, ten),
    '[CLS] ' + _sentence(8) + ' [SEP] [PAD] [PAD]',
    ten,
  ]
  assert corpus.heldout.shape == (0, 12)
  counts = corpus.manifest['counts']
  assert counts['files'] == 1
  assert counts['documents'] == 4
  assert counts['rows'] == 4
  assert counts['heldout_rows'] == 0
  assert counts['tokens'] == 38
  assert counts['dropped_tokens'] == 8
  assert counts['unknown_tokens'] == 0
  assert counts['padding_share'] == round(2 / 48, 6)


def test_opened_corpus_is_mapped_and_complete(tmp_path, text, tokenizer):
  made = prepare_corpus([text], tmp_path / 'out', tokenizer, 32)
  corpus = open_corpus(tmp_path / 'out', verify=True)
  assert isinstance(corpus.train, np.memmap)
  assert corpus.train.dtype == np.uint16
  assert corpus.seq_len == corpus.train.shape[1] == 32
  assert corpus.tokenizer.sha256 == tokenizer.sha256
  assert (
    corpus.fingerprint == made.fingerprint == corpus.manifest['fingerprint']
  )
  assert open_corpus(tmp_path / 'out', seq_len=32).seq_len == 32
  with pytest.raises(UserError, match='rows of 32 tokens, not of 64'):
    open_corpus(tmp_path / 'out', seq_len=64)
  names = sorted(path.name for path in (tmp_path / 'out').iterdir())
  assert names == [
    *('heldout.npy', 'manifest.json', 'tokenizer_config.json', 'train.npy'),
    'vocab.txt',
  ]
  assert not (tmp_path / 'out.partial').exists()


def test_unknown_tokens_are_counted(tmp_path, tokenizer):
  (tmp_path / 'a.txt').write_text(_sentence(8) + ' mystery ' + _sentence(3))
  corpus = prepare_corpus(
    [tmp_path / 'a.txt'], tmp_path / 'out', tokenizer, 32, heldout_fraction=0
  )
  assert corpus.manifest['counts']['unknown_tokens'] == 1


def test_large_vocabularies_get_wide_ids(tmp_path):
  vocab = [*SPECIAL_TOKENS, *(f'w{i}' for i in range(70_000))]
  tokenizer = Tokenizer.from_vocab(vocab)
  (tmp_path / 'a.txt').write_text('w69999 ' * 10)
  corpus = prepare_corpus(
    [tmp_path / 'a.txt'], tmp_path / 'out', tokenizer, 12, heldout_fraction=0
  )
  assert corpus.train.dtype == np.int32
  assert (corpus.train[0, 1:-1] == 70_004).all()


def test_workers_do_not_change_the_rows(tmp_path, text, tokenizer, monkeypatch):
  monkeypatch.setattr(preparation, '_BLOCK_BYTES', 500)
  alone = prepare_corpus([text], tmp_path / 'one', tokenizer, 32)
  pool = prepare_corpus([text], tmp_path / 'two', tokenizer, 32, workers=2)
  assert pool.fingerprint == alone.fingerprint
  assert pool.manifest == alone.manifest
  np.testing.assert_array_equal(pool.train, alone.train)


def test_held_out_documents_are_chosen_by_their_text(tmp_path, text, tokenizer):
  copy = tmp_path / 'reversed.txt'
  documents = [lines for lines, _ in text_files.read_documents(text)]
  copy.write_text('\n\n'.join('\r\n'.join(d) for d in documents[::-1]))
  here, there = (
    prepare_corpus([path], tmp_path / name, tokenizer, 32, 1, 0.25)
    for path, name in ((text, 'here'), (copy, 'there'))
  )
  for side in ('train', 'heldout'):
    rows, other = (set(map(bytes, getattr(c, side))) for c in (here, there))
    assert rows == other
  assert here.fingerprint != there.fingerprint
  counts = here.manifest['counts']
  assert counts['documents'] == 60
  assert 5 <= counts['heldout_documents'] <= 25
  assert counts['heldout_rows'] == len(here.heldout) > 0


def test_share_of_held_out_documents():
  documents = [[f'document {i}'] for i in range(20_000)]
  share = np.mean([chunks.is_heldout(d, 0.1) for d in documents])
  assert abs(share - 0.1) < 0.01


def test_packed_and_marked_files_read_alike(tmp_path, text):
  plain = [lines for lines, _ in text_files.read_documents(text)]
  raw = text.read_bytes()
  (tmp_path / 'a.tokens.xz').write_bytes(lzma.compress(raw))
  (tmp_path / 'b.gz').write_bytes(gzip.compress(raw))
  windows = b'\xef\xbb\xbf' + raw.replace(b'\n', b'\r\n')
  (tmp_path / 'c.txt').write_bytes(windows)
  for name in ('a.tokens.xz', 'b.gz', 'c.txt'):
    documents = text_files.read_documents(tmp_path / name)
    assert [lines for lines, _ in documents] == plain


def test_text_without_blank_lines_is_cut_at_a_line(tmp_path, monkeypatch):
  monkeypatch.setattr(text_files, '_LONGEST_DOCUMENT', 30)
  (tmp_path / 'a.txt').write_text('0123456789\n' * 7)
  documents = text_files.read_documents(tmp_path / 'a.txt')
  assert [len(lines) for lines, _ in documents] == [3, 3, 1]


def test_undecodable_bytes_are_located(tmp_path, tokenizer):
  (tmp_path / 'bad.txt').write_bytes(b'one two\nthree \xff four\n')
  with pytest.raises(UserError, match=r'bad\.txt is not UTF-8.* byte 14 .*ff'):
    prepare_corpus([tmp_path / 'bad.txt'], tmp_path / 'out', tokenizer, 32)
  assert [path.name for path in tmp_path.iterdir()] == ['bad.txt']


@pytest.mark.parametrize('pack', [lzma.compress, gzip.compress])
def test_truncated_archives_are_errors(tmp_path, text, tokenizer, pack):
  suffix = '.xz' if pack is lzma.compress else '.gz'
  path = tmp_path / f'a{suffix}'
  path.write_bytes(pack(text.read_bytes())[:-40])
  with pytest.raises(UserError, match='cannot be read to its end'):
    prepare_corpus([path], tmp_path / 'out', tokenizer, 32)
  path.write_bytes(b'this was never packed')
  with pytest.raises(UserError, match='cannot be read to its end'):
    prepare_corpus([path], tmp_path / 'out', tokenizer, 32)


def test_archives_of_files_are_refused(tmp_path, tokenizer):
  (tmp_path / 'a.zip').write_bytes(b'')
  with pytest.raises(UserError, match='unpack it'):
    prepare_corpus([tmp_path / 'a.zip'], tmp_path / 'out', tokenizer, 32)


@pytest.mark.parametrize('contents', ['', '\n \n', 'one two three\n'])
def test_a_corpus_without_rows_is_an_error(tmp_path, tokenizer, contents):
  (tmp_path / 'a.txt').write_text(contents)
  with pytest.raises(UserError, match='no text to train on'):
    prepare_corpus([tmp_path / 'a.txt'], tmp_path / 'out', tokenizer, 32)
  assert not (tmp_path / 'out').exists()


def test_the_same_request_is_not_done_twice(
  tmp_path, text, tokenizer, capsys, monkeypatch
):
  first = prepare_corpus([text], tmp_path / 'out', tokenizer, 32)
  before = (tmp_path / 'out' / 'train.npy').stat().st_mtime_ns
  again = prepare_corpus([text], tmp_path / 'out', tokenizer, 32)
  assert 'as it is' in capsys.readouterr().err
  assert again.fingerprint == first.fingerprint
  assert (tmp_path / 'out' / 'train.npy').stat().st_mtime_ns == before


def test_another_request_never_overwrites(tmp_path, text, tokenizer):
  out = tmp_path / 'out'
  prepare_corpus([text], out, tokenizer, 32)
  cased = Tokenizer.from_vocab(tokenizer.vocab, lowercase=False)
  other = tmp_path / 'other.txt'
  other.write_text(_sentence(50))
  for name, arguments in {
    'seq_len': ([text], out, tokenizer, 64),
    'tokenizer': ([text], out, cased, 32),
    'tokenizer and seq_len': ([text], out, NewVocabulary(40), 64),
    'input files': ([other], out, tokenizer, 32),
    'heldout_fraction': ([text], out, tokenizer, 32, 1, 0.5),
  }.items():
    with pytest.raises(UserError, match=f'made with other {name};'):
      prepare_corpus(*arguments)
  open_corpus(out, verify=True)
  (tmp_path / 'full').mkdir()
  (tmp_path / 'full' / 'thesis.txt').write_text('mine')
  with pytest.raises(UserError, match='with something else in it'):
    prepare_corpus([text], tmp_path / 'full', tokenizer, 32)
  assert (tmp_path / 'full' / 'thesis.txt').read_text() == 'mine'


def test_interrupted_preparation_leaves_no_corpus_and_keeps_its_vocabulary(
  tmp_path, text, monkeypatch, capsys
):
  out = tmp_path / 'out'

  def interrupt(*unused):
    raise KeyboardInterrupt

  with monkeypatch.context() as patch:
    patch.setattr(preparation, '_publish', interrupt)  # at the last moment
    with pytest.raises(KeyboardInterrupt):
      prepare_corpus([text], out, NewVocabulary(60), 32)
  assert not out.exists()
  vocabulary = (tmp_path / 'out.partial' / 'vocab.txt').read_bytes()
  capsys.readouterr()
  corpus = prepare_corpus([text], out, NewVocabulary(60), 32)
  assert corpus.manifest['tokenizer']['trained_size'] == 60
  assert (out / 'vocab.txt').read_bytes() == vocabulary
  assert 'interrupted' in capsys.readouterr().err
  again = prepare_corpus([text], out, NewVocabulary(60), 32)
  assert again.fingerprint == corpus.fingerprint


def test_two_preparations_do_not_meet(tmp_path, text, tokenizer):
  with preparation._partial_folder(tmp_path / 'out'):
    with pytest.raises(UserError, match='Another process'):
      prepare_corpus([text], tmp_path / 'out', tokenizer, 32)


def test_damage_is_noticed(tmp_path, text, tokenizer):
  out = tmp_path / 'out'
  with pytest.raises(
    UserError, match='not a prepared corpus.*shared_bert.prep'
  ):
    open_corpus(out)
  prepare_corpus([text], out, tokenizer, 32)
  with (out / 'train.npy').open('r+b') as stream:
    stream.seek(500)
    stream.write(b'\x00\x09')
  open_corpus(out)
  with pytest.raises(UserError, match=r'train\.npy has not the contents'):
    open_corpus(out, verify=True)
  with (out / 'train.npy').open('ab') as stream:
    stream.truncate(600)
  with pytest.raises(UserError, match=r'train\.npy is 600 bytes long'):
    open_corpus(out)
  (out / 'train.npy').unlink()
  with pytest.raises(UserError, match=r'train\.npy is missing'):
    open_corpus(out)
  manifest = json.loads((out / 'manifest.json').read_text())
  (out / 'manifest.json').write_text(json.dumps({**manifest, 'format': 99}))
  with pytest.raises(UserError, match='format 99'):
    open_corpus(out)
  (out / 'manifest.json').write_text('{')
  with pytest.raises(UserError, match='not readable'):
    open_corpus(out)


def test_a_job_s_text_has_one_folder_for_each_setting(tmp_path, text):
  settings = {'vocab_size': 60, 'seq_len': 32}
  folder = prepare_lib.prepare_text(str(text), tmp_path, **settings)
  assert prepare_lib.prepare_text(str(text), tmp_path, **settings) == folder
  settings['vocab'] = str(folder)
  other = prepare_lib.prepare_text(str(text), tmp_path, **settings)
  assert other != folder
  with text.open('a') as stream:
    stream.write(_sentence(10))
  assert prepare_lib.prepare_text(str(text), tmp_path, **settings) != other
  open_corpus(folder, seq_len=32, verify=True)


def _command(*flags):
  return subprocess.run(
    [sys.executable, '-m', 'shared_bert.prepare', *flags],
    capture_output=True,
    text=True,
    env={**os.environ, 'PYTHONPATH': os.pathsep.join(sys.path)},
  )


def test_the_command_prepares_and_speaks_plainly(tmp_path, text, tokenizer):
  tokenizer.save(tmp_path / 'vocab')
  out = tmp_path / 'out'
  flags = [f'--input={tmp_path}/*.txt', f'--output={out}', '--seq_len=32']
  done = _command(*flags, f'--vocab={tmp_path}/vocab')
  assert done.returncode == 0, done.stderr
  assert 'documents' in done.stderr
  assert open_corpus(out, verify=True).tokenizer.sha256 == tokenizer.sha256


def test_a_corpus_moves(tmp_path, text, tokenizer):
  made = prepare_corpus([text], tmp_path / 'out', tokenizer, 32)
  shutil.move(tmp_path / 'out', tmp_path / 'elsewhere')
  moved = open_corpus(tmp_path / 'elsewhere', verify=True)
  assert moved.fingerprint == made.fingerprint
