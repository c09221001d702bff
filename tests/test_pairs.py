"""Next-sentence pairs: real neighbours, honest labels, nothing lost."""

import numpy as np
import pytest

from shared_bert.data.corpus import open_corpus
from shared_bert.data.documents import Document, Documents
from shared_bert.data.packing import RowMaker
from shared_bert.data.preparation import prepare_corpus
from shared_bert.data.tokenizer import SPECIAL_TOKENS, Tokenizer
from shared_bert.errors import UserError
from tests.bad_input import flipped

CLS, SEP, PAD, FIRST = 2, 3, 0, 5


def documents_of(lines_of_documents, seed=0):
  """Documents in which every token has an id of its own."""
  rng = np.random.default_rng(seed)
  documents, next_id = [], FIRST
  for lengths in lines_of_documents:
    ids = np.arange(next_id, next_id + sum(lengths), dtype=np.int32)
    next_id += sum(lengths)
    documents.append(
      Document(rng.bytes(16), 1, np.array(lengths, np.uint32), ids)
    )
  return documents


def make(documents, seq_len=64, **settings):
  make_rows = RowMaker(seq_len, CLS, SEP, PAD, 1, pairs=True, **settings)
  return make_rows(Documents.of(documents, np.int32))


def parts(row):
  """The two parts of a row; checks its layout."""
  first, second = np.flatnonzero(row == SEP)
  assert row[0] == CLS and not row[second + 1 :].any()
  assert (row == CLS).sum() == 1
  return row[1:first], row[first + 1 : second]


@pytest.fixture
def many():
  rng = np.random.default_rng(0)
  return documents_of(
    [rng.integers(1, 25, rng.integers(1, 30)) for _ in range(400)]
  )


def owners(documents):
  """id -> its document, and the ids that begin and end lines."""
  of_ids = np.concatenate(
    [np.full(len(document.ids), k) for k, document in enumerate(documents)]
  )
  lines = np.concatenate([document.line_lengths for document in documents])
  ends = FIRST + np.cumsum(lines)
  return np.r_[np.full(FIRST, -1), of_ids], {FIRST, *ends.tolist()}


def test_pairs_are_runs_of_lines_and_labels_say_whether_b_follows_a(many):
  made = make(many)
  owner, borders = owners(many)
  cut = 0
  for row, label in zip(made.rows, made.labels, strict=True):
    a, b = parts(row)
    assert len(a) and len(b)
    for part in (a, b):
      assert (np.diff(part) == 1).all()
      assert len(set(owner[part])) == 1
    whole = len(a) + len(b) < 61
    if whole:  # truncation takes off either end
      assert {a[0], a[-1] + 1, b[0], b[-1] + 1} <= borders
      assert label or b[0] == a[-1] + 1
    cut += not whole
    assert label == (owner[a[0]] != owner[b[0]])
  assert 0 < cut < len(made.rows)


def test_half_of_the_choices_are_random(many):
  made = make(many)
  # One line has no next: leave documents out whose rest is one line.
  share = made.labels.mean()
  assert 0.5 <= share < 0.62
  counts = made.counts
  assert counts['rows'] == counts['segments'] == len(made.labels)
  assert counts['special_tokens'] == 3 * counts['rows']
  assert counts['tokens'] == (made.rows >= FIRST).sum()


def test_every_line_is_used_once_by_its_own_document():
  rng = np.random.default_rng(1)
  # Lines so short that nothing has to be truncated.
  documents = documents_of([rng.integers(1, 4, 40) for _ in range(100)])
  made = make(documents)
  own = []
  for row, label in zip(made.rows, made.labels, strict=True):
    a, b = parts(row)
    own += [a] if label else [a, b]
  own = np.sort(np.concatenate(own))
  total = sum(len(document.ids) for document in documents)
  lost = total - len(own)
  assert len(np.unique(own)) == len(own)
  assert made.counts['dropped_tokens'] == lost < 0.01 * total
  assert made.counts['text_tokens'] == total


def test_a_tenth_of_documents_aim_at_short_pairs():
  documents = documents_of([[1] * 400] * 500)
  made = make(documents, seq_len=128)
  lengths = (made.rows >= FIRST).sum(axis=1)
  a_long_pair = lengths == 125
  assert 0.5 < a_long_pair.mean() < 0.95  # short ones give many rows
  owner, _ = owners(documents)
  shortest = {}
  for row, length in zip(made.rows, lengths, strict=True):
    shortest.setdefault(int(owner[row[1]]), []).append(int(length))
  aimed = np.array([max(of_one) < 125 for of_one in shortest.values()])
  assert abs(aimed.mean() - 0.1) < 0.04


def test_pairs_do_not_depend_on_the_order_of_documents(many):
  made, again = make(many), make(many[::-1])
  np.testing.assert_array_equal(made.rows, again.rows)
  np.testing.assert_array_equal(made.labels, again.labels)


ODD = {
  'nothing': ([], 0),
  'documents without tokens': ([[0, 0], []], 0),
  'one document of one line': ([[9]], 0),
  'one document of two lines': ([[9, 9]], 1),
  'lines without tokens': ([[0, 9, 0, 9, 0]], 1),
  'two documents of one line': ([[9], [9]], 2),
  'a line longer than a row': ([[500], [500]], 2),
}


@pytest.mark.parametrize('case', ODD)
def test_odd_documents_make_pairs_or_none(case):
  lines, expected = ODD[case]
  made = make(documents_of(lines))
  assert made.rows.shape == (expected, 64)
  assert len(made.labels) == expected
  for row, label in zip(made.rows, made.labels, strict=True):
    a, b = parts(row)
    assert len(a) and len(b)
    assert label == (len(lines) == 2)


@pytest.fixture
def folder(tmp_path):
  words = 'zero one two three four five six seven eight nine'.split()
  rng = np.random.default_rng(0)
  documents = [
    '\n'.join(' '.join(rng.choice(words, 9)) for _ in range(12))
    for _ in range(80)
  ]
  (tmp_path / 'text.txt').write_text('\n\n'.join(documents))
  tokenizer = Tokenizer.from_vocab([*SPECIAL_TOKENS, *words])
  for workers in (1, 2):
    prepare_corpus(
      [tmp_path / 'text.txt'],
      tmp_path / str(workers),
      tokenizer,
      48,
      workers,
      0.2,
      shards=3,
      pairs=True,
    )
  return tmp_path


def test_a_corpus_of_pairs_has_labels_beside_its_rows(folder):
  corpus = open_corpus(folder / '1', verify=True)
  assert corpus.has_pairs
  for rows, labels in (
    (corpus.train, corpus.train_labels),
    (corpus.heldout, corpus.heldout_labels),
  ):
    assert labels.shape == (len(rows),) and labels.dtype == np.uint8
    assert 0.4 < labels.mean() < 0.75
    for row in rows:
      parts(np.where(row == corpus.tokenizer.pad_id, PAD, row))
  assert (corpus.tokenizer.cls_id, corpus.tokenizer.sep_id) == (CLS, SEP)
  names = {path.name for path in (folder / '1').iterdir()}
  assert 'train-00002.labels.npy' in names
  for name in names:
    one, two = ((folder / k / name).read_bytes() for k in '12')
    assert one == two
  flipped(folder / '2' / 'train-00001.labels.npy')
  with pytest.raises(UserError, match='train-00001.labels.npy has not the'):
    open_corpus(folder / '2')
