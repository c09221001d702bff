"""Training of a vocabulary."""

import pytest

from shared_bert.data.tokenizer import SPECIAL_TOKENS
from shared_bert.data.wordpiece import train_wordpiece
from shared_bert.errors import UserError


def test_training_gives_a_working_vocabulary():
  texts = ['the cat sat on the mat', 'the bat sat on the cat'] * 20
  tokenizer = train_wordpiece(iter(texts), vocab_size=60)
  assert tuple(tokenizer.vocab[:5]) == SPECIAL_TOKENS
  assert tokenizer.vocab_size <= 60
  ids = tokenizer.encode_batch(['The cat sat on the mat'])[0]
  assert tokenizer.unk_id not in ids
  assert tokenizer.decode(ids) == 'the cat sat on the mat'
  # A letter that only begins words is not wanted inside of one.
  assert 'c' in tokenizer.vocab
  assert '##c' not in tokenizer.vocab


def test_training_gives_the_same_vocabulary_each_time():
  # All pairs are equally frequent, and so are the letters at the limit of 64.
  text = ' '.join(
    chr(0x3B1 + i % 24) + chr(0x430 + i % 32) + chr(0x561 + i % 37)
    for i in range(24 * 37)
  )
  vocabs = [train_wordpiece([text], 200).vocab for _ in range(10)]
  assert len(vocabs[0]) == 200
  assert all(vocab == vocabs[0] for vocab in vocabs)


def test_rare_letters_give_way_to_frequent_ones():
  common = [chr(0x61 + i) for i in range(26)] * 3
  rare = [chr(0x4E00 + i) for i in range(80)]
  vocab = train_wordpiece([' '.join(common + rare)], 120).vocab
  assert set(common) <= set(vocab)
  assert set(rare[:38]) <= set(vocab)
  assert rare[38] not in vocab


def test_training_refuses_a_size_below_the_alphabet():
  with pytest.raises(UserError, match='alone take 5; ask'):
    train_wordpiece(['abc'], vocab_size=5)
  with pytest.raises(UserError, match='letters of the text alone take 36; ask'):
    train_wordpiece(['abcdefghijklmnop'] * 3, vocab_size=10)
