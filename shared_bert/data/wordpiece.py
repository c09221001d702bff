"""Training of a WordPiece vocabulary: the same text, the same vocabulary.

The library's trainer does the work. Left to itself it gives another vocabulary
on every run: it numbers the letters inside of words, `##a`, as it meets them in
a hash map, and breaks ties between equally frequent pairs by these numbers
(huggingface/tokenizers, issue 1794). So all letters are numbered here, before.
"""

import collections
from collections.abc import Iterable

import tokenizers
from tokenizers import models, trainers

from shared_bert.data.tokenizer import SPECIAL_TOKENS, Tokenizer, pipeline
from shared_bert.errors import UserError


def train_wordpiece(
  texts: Iterable[str], vocab_size: int, lowercase: bool = True
) -> Tokenizer:
  """Trains a WordPiece vocabulary.

  Args:
    texts: the text in pieces of any size, which are held in memory.
    vocab_size: tokens wanted, the five special ones among them; a small text
      gives fewer.
    lowercase: whether text is lower-cased and stripped of accents.

  Returns:
    The tokenizer, with `[PAD] [UNK] [CLS] [SEP] [MASK]` as ids 0 to 4, then the
    letters inside of words, `##a`, those that begin one, and longer pieces in
    the order in which they were found. The same for the same texts.

  Raises:
    UserError: the size does not even hold the text's letters.
  """
  if vocab_size <= len(SPECIAL_TOKENS):
    raise UserError(
      f'A vocabulary of {vocab_size} tokens is too small: the special tokens '
      f'alone take {len(SPECIAL_TOKENS)}; ask for some thousands.'
    )
  texts = list(texts)
  # A letter takes two ids, alone and inside a word. A small vocabulary must not
  # spend itself on rare scripts.
  engine = pipeline(models.WordPiece(unk_token='[UNK]'), lowercase)
  letters, inner = _letters(texts, min(1000, max(64, vocab_size // 20)), engine)
  first = [*SPECIAL_TOKENS, *(f'##{letter}' for letter in inner)]
  if len(first) + len(letters) > vocab_size:
    raise UserError(
      f'A vocabulary of {vocab_size} tokens is too small: the letters of the '
      f'text alone take {len(first) + len(letters)}; ask for more, four times '
      'that or so.'
    )
  trainer = trainers.WordPieceTrainer(
    vocab_size=vocab_size,
    # BERT's frequency floor is not published; 2 is the library's own choice
    # for BERT (`BertWordPieceTokenizer.train`), as is 1000 for the alphabet.
    min_frequency=2,
    initial_alphabet=letters,
    limit_alphabet=len(letters),
    # What is special is numbered first, and that is all it means here.
    special_tokens=first,
    continuing_subword_prefix='##',
    show_progress=False,
  )
  engine.train_from_iterator(texts, trainer)
  ids = engine.get_vocab(with_added_tokens=True)
  return Tokenizer.from_vocab(sorted(ids, key=ids.__getitem__), lowercase)


def _letters(
  texts: list[str], most: int, engine: tokenizers.Tokenizer
) -> tuple[list[str], list[str]]:
  """The most frequent letters, and those of them that stand inside of words."""
  # Cut at spaces first, which is quick: most words come more than once.
  words = collections.Counter()
  for text in texts:
    words.update(engine.normalizer.normalize_str(text).split())
  counts, inner = collections.Counter(), set()
  for word, count in words.items():
    for piece, _ in engine.pre_tokenizer.pre_tokenize_str(word):
      inner.update(piece[1:])
      for letter in piece:
        counts[letter] += count
  letters = sorted(counts, key=lambda letter: (-counts[letter], letter))[:most]
  return letters, sorted(inner.intersection(letters))
