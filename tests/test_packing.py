"""Packing: every token in its place, rows full, the same whatever the order."""

import time

import numpy as np
import pytest

from shared_bert.data import packing
from shared_bert.data.documents import Document, Documents, Sharding, Tokenise
from shared_bert.data.packing import RowMaker, pack, pack_few
from shared_bert.data.tokenizer import SPECIAL_TOKENS, Tokenizer

WORDS = 'zero one two three four five six seven eight nine [ ] cls mask'.split()


@pytest.fixture(scope='module')
def tokenizer():
  return Tokenizer.from_vocab([*SPECIAL_TOKENS, *WORDS])


def segments_of(row, cls_id, pad_id):
  """The segments of a row, each with its [CLS]; checks that padding is last."""
  real = row != pad_id
  assert not np.diff(real.astype(int)).clip(0).any()
  starts = np.flatnonzero(row == cls_id)
  assert len(starts) and starts[0] == 0
  return np.split(row[real], starts[1:])


LENGTHS = {
  'one': [7],
  'full rows': [16] * 5,
  'pairs': [10, 6, 10, 6, 10, 6],
  'many small': [1] * 50,
  'too long to share': [9] * 20,
  'any': np.random.default_rng(0).integers(1, 17, 1000).tolist(),
}


@pytest.mark.parametrize('packer', [pack, pack_few])
@pytest.mark.parametrize('case', LENGTHS)
def test_segments_lie_side_by_side_and_fit(case, packer):
  lengths = np.array(LENGTHS[case])
  row, place, num_rows = packer(lengths, 16)
  taken = np.zeros((num_rows, 16), int)
  for r, p, length in zip(row, place, lengths, strict=True):
    assert p + length <= 16
    taken[r, p : p + length] += 1
  assert taken.max() == 1
  assert taken.any(axis=1).all()
  assert not np.diff(taken, axis=1).clip(0).any()  # no room before a segment
  # No two rows could be one: what first fit guarantees, and best fit too.
  room = np.sort(16 - taken.sum(axis=1))[::-1]
  assert len(room) < 2 or room[0] + room[1] < 16


def test_few_segments_are_packed_as_full_as_can_be():
  lengths = np.array([5, 6, 4, 7, 5, 5])  # 7 + 5 + 4 and 6 + 5 + 5
  row, place, num_rows = pack_few(lengths, 16)
  assert num_rows == 2
  assert row[3] == row[2] == 0
  assert place[3] == place[1] == 0
  # The longest that fits, 7 + 6, leaves a hole.
  assert pack(lengths, 16)[2] == 3


@pytest.mark.parametrize('packer', [pack, pack_few])
def test_nothing_is_packed_into_no_rows(packer):
  row, place, num_rows = packer(np.zeros(0, np.int64), 16)
  assert (len(row), len(place), num_rows) == (0, 0, 0)


def wikipedia_like(count):
  """Lengths of documents, log-normal as those of articles roughly are."""
  return np.random.default_rng(1).lognormal(6.2, 1.1, count).astype(int) + 1


@pytest.mark.parametrize('seq_len', [128, 512])
def test_rows_of_articles_are_full(seq_len):
  full, rests = np.divmod(wikipedia_like(100_000), seq_len - 2)
  rests = rests[rests >= packing.SHORTEST_CHUNK] + 2
  lengths = np.concatenate([np.full(full.sum(), seq_len), rests])
  _, _, num_rows = pack(lengths, seq_len)
  assert lengths.sum() / (num_rows * seq_len) > 0.993


def test_a_million_segments_take_no_time():
  lengths = np.random.default_rng(0).integers(10, 513, 10**6)
  start = time.process_time()
  pack(lengths, 512)
  assert time.process_time() - start < 1


def table(tokenizer, texts, sharding=None):
  tokenise = Tokenise(tokenizer, sharding or Sharding(1, 0, 0.0))
  documents = [document for _, document in tokenise([[t] for t in texts])]
  return Documents.of(documents, tokenise.dtype)


def sentence(count, first=0):
  return ' '.join(WORDS[(first + i) % 10] for i in range(count))


def test_documents_are_cut_and_rests_dropped(tokenizer):
  documents = table(
    tokenizer,
    # 20 = 10 + 10; 7 are too few; 8 are enough; 11 = 10 and 1.
    [sentence(20), sentence(7), sentence(8, 1), sentence(11, 2)],
  )
  made = RowMaker.of(tokenizer, 12)(documents)
  words = [[tokenizer.vocab[i] for i in row] for row in made.rows]
  ten = ['[CLS]', *sentence(10).split(), '[SEP]']
  assert sorted(words) == sorted(
    [
      ten,
      ten,
      ['[CLS]', *sentence(8, 1).split(), '[SEP]', '[PAD]', '[PAD]'],
      ['[CLS]', *sentence(10, 2).split(), '[SEP]'],
    ]
  )
  assert made.labels is None
  expected = {
    'documents': 4,
    'duplicate_documents': 0,
    'text_bytes': documents.text_bytes.sum(),
    'cut_documents': 2,
    'rows': 4,
    'segments': 4,
    'tokens': 38,
    'special_tokens': 8,
    'unknown_tokens': 0,
    'dropped_tokens': 8,
    'duplicate_tokens': 0,
  }
  assert made.counts.items() >= expected.items()
  # By the bits of their length: 7; 8 and 11; 20.
  assert made.counts['lengths'][:7] == [0, 0, 0, 1, 2, 1, 0]


def test_every_token_is_in_a_row_once(tokenizer, monkeypatch):
  monkeypatch.setattr(packing, '_COPIED_TOKENS', 100)  # many copies
  rng = np.random.default_rng(0)
  documents = Documents.of(
    [
      Document(rng.bytes(16), 9, np.array([n], np.uint32), ids)
      for n in rng.integers(0, 70, 300)
      for ids in [rng.integers(5, 60_000, n).astype(np.uint16)]
    ],
    np.uint16,
  )
  made = RowMaker.of(tokenizer, 32)(documents)
  found = [
    segment
    for row in made.rows
    for segment in segments_of(row, tokenizer.cls_id, tokenizer.pad_id)
  ]
  assert {segment[-1] for segment in found} == {tokenizer.sep_id}
  assert len(found) == made.counts['segments']
  _, of_lines = documents.bounds()
  expected = []
  for first, last in zip(of_lines, of_lines[1:], strict=False):
    ids = documents.ids[first:last]
    chunks = [ids[start : start + 30] for start in range(0, len(ids), 30)]
    expected += [bytes(chunk) for chunk in chunks if len(chunk) >= 8]
  assert sorted(bytes(segment[1:-1]) for segment in found) == sorted(expected)
  assert made.counts['tokens'] == sum(map(len, expected)) // 2
  assert made.counts['tokens'] + made.counts['dropped_tokens'] == len(
    documents.ids
  )


@pytest.mark.parametrize('deduplicate', [False, True])
def test_rows_depend_on_the_set_of_documents_alone(tokenizer, deduplicate):
  texts = [sentence(n % 40, n) for n in range(200)]  # some of them equal
  make_rows = RowMaker.of(tokenizer, 32, deduplicate)
  made = make_rows(table(tokenizer, texts))
  again = make_rows(table(tokenizer, texts[::-1]))
  np.testing.assert_array_equal(made.rows, again.rows)
  assert made.counts == again.counts
  copies = len(texts) - len(set(texts))
  assert made.counts['duplicate_documents'] == copies > 0
  assert (made.counts['duplicate_tokens'] > 0) == deduplicate
  once = make_rows(table(tokenizer, sorted(set(texts))))
  assert (len(once.rows) == len(made.rows)) == deduplicate


def test_rows_are_mixed(tokenizer):
  texts = [sentence(8 + n % 23, n) for n in range(500)]
  made = RowMaker.of(tokenizer, 32)(table(tokenizer, texts))
  # Packing makes the fullest rows first; nothing of that order may be left.
  used = (made.rows != tokenizer.pad_id).sum(axis=1)
  first, second = np.array_split(used, 2)
  assert abs(first.mean() - second.mean()) < 0.5
  assert (np.diff(used) < 0).any()


def test_text_never_makes_a_special_id(tokenizer):
  tokens = ' '.join(SPECIAL_TOKENS)
  for lowercase in (True, False):
    cased = Tokenizer.from_vocab(tokenizer.vocab, lowercase)
    ids = table(cased, [f'one {tokens} {tokens.lower()}[CLS]##[MASK]']).ids
    special = {cased.vocab[i] for i in ids if i in cased.special_ids}
    assert special <= {'[UNK]'}


def test_documents_are_dealt_out_by_their_text():
  sharding = Sharding(3, 2, 0.25)
  assert sharding.names == [
    *('train-00000', 'train-00001', 'train-00002'),
    *('heldout-00000', 'heldout-00001'),
  ]
  rng = np.random.default_rng(0)
  shards = [sharding.shard_of(rng.bytes(16)) for _ in range(20_000)]
  share = np.bincount(shards) / len(shards)
  np.testing.assert_allclose(share, [0.25] * 3 + [0.125] * 2, atol=0.01)
