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
from PIL import Image

from shared_bert import prepare as prepare_lib
from shared_bert.data import preparation, row_files, stages, text_files
from shared_bert.data.corpus import open_corpus
from shared_bert.data.preparation import NewVocabulary, prepare_corpus
from shared_bert.data.tokenizer import SPECIAL_TOKENS, Tokenizer
from shared_bert.errors import UserError
from tests.test_packing import segments_of

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


def _sentence(count, first=0):
  return ' '.join(WORDS[(first + i) % 10] for i in range(count))


def test_documents_share_rows(tmp_path, tokenizer):
  path = tmp_path / 'text.txt'
  # 20 tokens over two lines; 7 are too few; 8 share a row with 10 of 11.
  documents = [
    _sentence(15) + '\n' + _sentence(5, first=5),
    _sentence(7),
    _sentence(8),
    _sentence(11),
  ]
  path.write_text('\n\n\n'.join(documents), 'utf-8')
  corpus = prepare_corpus(
    [path], tmp_path / 'out', tokenizer, 22, heldout_fraction=0
  )
  words = [' '.join(tokenizer.vocab[i] for i in row) for row in corpus.train]
  assert sorted(words) == sorted(
    [
      f'[CLS] {_sentence(20)} [SEP]',
      f'[CLS] {_sentence(11)} [SEP]' + ' [PAD]' * 9,
      f'[CLS] {_sentence(8)} [SEP]' + ' [PAD]' * 12,
    ]
  )
  assert corpus.heldout.shape == (0, 22)
  assert not corpus.has_pairs
  expected = {
    'files': 1,
    'documents': 4,
    'heldout_documents': 0,
    'duplicate_documents': 0,
    'rows': 3,
    'heldout_rows': 0,
    'segments': 3,
    'tokens': 39,
    'dropped_tokens': 7,
    'unknown_tokens': 0,
    'padding_share': round(21 / 66, 6),
  }
  assert corpus.manifest['counts'].items() >= expected.items()


def test_opened_corpus_is_mapped_and_complete(tmp_path, text, tokenizer):
  made = prepare_corpus([text], tmp_path / 'out', tokenizer, 32)
  corpus = open_corpus(tmp_path / 'out', verify=True)
  assert isinstance(corpus.train, row_files.RowFiles)
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
    *('audit.json', 'heldout-00000.npy', 'lengths.png', 'manifest.json'),
    *('tokenizer_config.json', 'train-00000.npy', 'vocab.txt'),
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
  assert (corpus.train[0][1:-1] == 70_004).all()


def _bytes_of(folder):
  return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_corpus_is_the_same_for_any_workers_and_any_order_of_files(
  tmp_path, text, tokenizer, monkeypatch
):
  monkeypatch.setattr(stages, '_BLOCK_BYTES', 500)
  files = []
  for k, (lines, _) in enumerate(text_files.read_documents(text)):
    files.append(tmp_path / f'{k}.txt')
    files[-1].write_text('\n'.join(lines) + '\n')
  made = [
    prepare_corpus(inputs, tmp_path / f'out{k}', tokenizer, 32, k, shards=3)
    for k, inputs in enumerate((files, files[::-1], files[30:] + files[:30]), 1)
  ]
  first, second, third = (_bytes_of(tmp_path / f'out{k}') for k in (1, 2, 3))
  assert first == second == third
  assert len(first) == 9
  assert made[0].fingerprint == made[2].fingerprint


def test_shards_hold_the_same_documents(tmp_path, text, tokenizer):
  one, many = (
    prepare_corpus([text], tmp_path / str(k), tokenizer, 32, shards=k)
    for k in (1, 7)
  )
  assert len(many.manifest['files']) == 7 + 1 + 4
  for side in ('train', 'heldout'):
    tokens = [np.sort(getattr(c, side)[:], axis=None) for c in (one, many)]
    real = [ids[ids != tokenizer.pad_id] for ids in tokens]
    np.testing.assert_array_equal(*real)
  assert one.fingerprint != many.fingerprint


def test_the_number_of_shards_follows_from_the_size():
  sizes = {0: 1, 1: 1, 2**25: 1, 2**25 + 1: 2, 2**40: 256}
  assert {n: preparation.default_shards(n) for n in sizes} == sizes


def test_held_out_documents_are_chosen_by_their_text(tmp_path, text, tokenizer):
  few = tmp_path / 'few.txt'
  documents = [lines for lines, _ in text_files.read_documents(text)]
  few.write_text('\n\n'.join('\r\n'.join(d) for d in documents[::-2]))
  here, there = (
    prepare_corpus([path], tmp_path / name, tokenizer, 512, 1, 0.25)
    for path, name in ((text, 'here'), (few, 'there'))
  )
  for side in ('train', 'heldout'):
    sets = [
      {
        bytes(segment)
        for row in getattr(corpus, side)
        for segment in segments_of(row, tokenizer.cls_id, tokenizer.pad_id)
      }
      for corpus in (here, there)
    ]
    assert sets[1] < sets[0]
  counts = here.manifest['counts']
  assert counts['documents'] == 60
  assert 5 <= counts['heldout_documents'] <= 25
  assert counts['heldout_rows'] == len(here.heldout) > 0


def test_the_audit_says_what_there_is(tmp_path, tokenizer, capsys):
  path = tmp_path / 'a.txt'
  documents = [_sentence(30), _sentence(30), _sentence(9, 1), 'strange words']
  path.write_text('\n\n'.join(documents))
  audits = {}
  for deduplicate in (False, True):
    out = tmp_path / f'out{deduplicate}'
    prepare_corpus(
      [path],
      out,
      tokenizer,
      32,
      heldout_fraction=0,
      deduplicate=deduplicate,
    )
    audits[deduplicate] = json.loads((out / 'audit.json').read_text())
    with Image.open(out / 'lengths.png') as picture:
      assert picture.format == 'PNG' and picture.width > 300
  kept, removed = audits[False], audits[True]
  assert kept['duplicate_share'] == removed['duplicate_share'] == 0.25
  assert (kept['rows'], removed['rows']) == (3, 2)
  assert (kept['tokens'], removed['tokens']) == (69, 39)
  assert removed['duplicate_tokens'] == 30
  assert kept['dropped_tokens'] == removed['dropped_tokens'] == 2
  assert kept['packing_efficiency'] == round(75 / 96, 6)
  assert kept['padding_share'] == round(1 - 75 / 96, 6)
  assert kept['documents_by_length'] == [
    {'from': 2, 'to': 3, 'documents': 1},
    {'from': 4, 'to': 7, 'documents': 0},
    {'from': 8, 'to': 15, 'documents': 1},
    {'from': 16, 'to': 31, 'documents': 2},
  ]
  printed = capsys.readouterr().err
  for words in ('1 exact copies (25.00%), kept; --dedup', '78.12% full'):
    assert words in printed
  assert '16-31           2  ####' in printed


def test_real_articles_fill_rows(tmp_path, shared_data):
  lines = lzma.open(shared_data / 'text' / 'wikitext2.valid.tokens.xz', 'rt')
  path = tmp_path / 'articles.txt'
  with lines:
    # Titles begin articles: ` = Title = `, and sections have more signs.
    path.write_text(
      ''.join('\n' * line.startswith(' = ') + line for line in lines)
    )
  vocab = shared_data / 'vocab' / 'bert-base-uncased-vocab.txt'
  for seq_len in (128, 512):
    out = tmp_path / str(seq_len)
    prepare_corpus([path], out, Tokenizer.load(vocab), seq_len)
    audit = json.loads((out / 'audit.json').read_text())
    assert audit['packing_efficiency'] > 0.97


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
  before = (tmp_path / 'out' / 'train-00000.npy').stat().st_mtime_ns
  again = prepare_corpus([text], tmp_path / 'out', tokenizer, 32)
  assert 'as it is' in capsys.readouterr().err
  assert again.fingerprint == first.fingerprint
  assert (tmp_path / 'out' / 'train-00000.npy').stat().st_mtime_ns == before


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
  for setting in ({'deduplicate': True}, {'shards': 2}):
    with pytest.raises(UserError, match=f'made with other {[*setting][0]};'):
      prepare_corpus([text], out, tokenizer, 32, **setting)
  open_corpus(out, verify=True)
  (tmp_path / 'full').mkdir()
  (tmp_path / 'full' / 'thesis.txt').write_text('mine')
  with pytest.raises(UserError, match='with something else in it'):
    prepare_corpus([text], tmp_path / 'full', tokenizer, 32)
  assert (tmp_path / 'full' / 'thesis.txt').read_text() == 'mine'


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
