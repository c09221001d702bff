"""Rows for fine-tuning: layout, truncation, padding."""

import numpy as np
import pytest

from shared_bert.data import encoding
from shared_bert.data import tokenizer as tokenizer_lib
from shared_bert.errors import UserError

WORDS = 'one two three four five six seven eight nine ten'.split()


@pytest.fixture(scope='module')
def tokenizer():
  # [PAD] is not id 0, so that nothing may take it for granted.
  vocab = ['[UNK]', '[CLS]', '[SEP]', '[MASK]', '[PAD]', *WORDS]
  return tokenizer_lib.Tokenizer.from_vocab(vocab)


def _words(tokenizer, row):
  return ' '.join(tokenizer.vocab[i] for i in row)


def _truncate_seq_pair(tokens_a, tokens_b, max_length):
  """The reference: google-research/bert run_classifier.py, as published."""
  while True:
    total_length = len(tokens_a) + len(tokens_b)
    if total_length <= max_length:
      break
    if len(tokens_a) > len(tokens_b):
      tokens_a.pop()
    else:
      tokens_b.pop()


def test_single_sentences(tokenizer):
  texts = ['one two', '', 'one two three four five six']
  rows = encoding.encode_examples(tokenizer, texts, None, seq_len=6)
  assert [_words(tokenizer, row) for row in rows['input_ids']] == [
    '[CLS] one two [SEP] [PAD] [PAD]',
    '[CLS] [SEP] [PAD] [PAD] [PAD] [PAD]',
    '[CLS] one two three four [SEP]',
  ]
  np.testing.assert_array_equal(rows['lengths'], [4, 2, 6])
  np.testing.assert_array_equal(
    rows['segment_ids'],
    [[1, 1, 1, 1, 0, 0], [1, 1, 0, 0, 0, 0], [1, 1, 1, 1, 1, 1]],
  )
  assert not rows['token_type_ids'].any()


def test_pairs(tokenizer):
  rows = encoding.encode_examples(
    tokenizer,
    ['one', 'one two three four five', 'one'],
    ['two three', 'six seven eight', ''],
    seq_len=8,
  )
  assert [_words(tokenizer, row) for row in rows['input_ids']] == [
    '[CLS] one [SEP] two three [SEP] [PAD] [PAD]',
    '[CLS] one two three [SEP] six seven [SEP]',
    '[CLS] one [SEP] [SEP] [PAD] [PAD] [PAD] [PAD]',
  ]
  np.testing.assert_array_equal(
    rows['token_type_ids'],
    [
      [0, 0, 0, 1, 1, 1, 0, 0],
      [0, 0, 0, 0, 0, 1, 1, 1],
      [0, 0, 0, 1, 0, 0, 0, 0],
    ],
  )
  np.testing.assert_array_equal(rows['lengths'], [6, 8, 4])
  np.testing.assert_array_equal(rows['segment_ids'].sum(1), rows['lengths'])


def test_shapes_and_dtypes(tokenizer):
  rows = encoding.encode_examples(tokenizer, ['one'] * 3, ['two'] * 3, 7)
  for name in ('input_ids', 'token_type_ids', 'segment_ids'):
    assert rows[name].shape == (3, 7)
    assert rows[name].dtype == np.int32
  assert rows['lengths'].shape == (3,)
  assert rows['lengths'].dtype == np.int32
  empty = encoding.encode_examples(tokenizer, [], None, 7)
  assert empty['input_ids'].shape == (0, 7)


def test_truncation_equals_the_published_loop_on_every_length():
  for room in range(2, 12):
    pairs = [(a, b) for a in range(14) for b in range(14)]
    kept = encoding.truncated_lengths(*np.array(pairs).T, room)
    for (a, b), kept_a, kept_b in zip(pairs, *kept, strict=True):
      tokens_a, tokens_b = ['x'] * a, ['x'] * b
      _truncate_seq_pair(tokens_a, tokens_b, room)
      assert (kept_a, kept_b) == (len(tokens_a), len(tokens_b))


def test_rows_equal_the_published_loop_token_by_token(tokenizer):
  rng = np.random.default_rng(0)
  sentences = [
    [' '.join(rng.choice(WORDS, rng.integers(0, 12))) for _ in range(40)]
    for _ in range(2)
  ]
  rows = encoding.encode_examples(tokenizer, *sentences, seq_len=12)
  for a, b, row in zip(*sentences, rows['input_ids'], strict=True):
    tokens_a, tokens_b = a.split(), b.split()
    _truncate_seq_pair(tokens_a, tokens_b, 12 - 3)
    tokens = ['[CLS]', *tokens_a, '[SEP]', *tokens_b, '[SEP]']
    tokens += ['[PAD]'] * (12 - len(tokens))
    assert _words(tokenizer, row) == ' '.join(tokens)


def test_too_short_rows_are_refused(tokenizer):
  encoding.encode_examples(tokenizer, ['one'], None, 3)
  encoding.encode_examples(tokenizer, ['one'], ['two'], 5)
  with pytest.raises(UserError, match='length of 2 is too short'):
    encoding.encode_examples(tokenizer, ['one'], None, 2)
  with pytest.raises(UserError, match='length of 4 is too short'):
    encoding.encode_examples(tokenizer, ['one'], ['two'], 4)
  with pytest.raises(ValueError, match='2 first and 1 second'):
    encoding.encode_examples(tokenizer, ['one', 'two'], ['two'], 9)
