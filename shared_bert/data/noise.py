"""Noise on texts and on word pieces, to measure how a model holds.

What is hit is drawn from (seed, kind, example, text) and never from the level:
each letter, word or piece has a uniform number of its own, and is hit where
that is below the level. So what is hit at 10 % is hit at 20 % too, with the
same edit, and nothing depends on the model, the batch, its order or the
devices. `model/perturbation.py` has the noise on embeddings.
"""

import itertools
import re
import zlib
from collections.abc import Callable, Sequence

import numpy as np

from shared_bert.data.encoding import rows_of
from shared_bert.data.glue_reader import Examples
from shared_bert.data.tokenizer import Tokenizer

TOKENS = 'token_replacement'

_LETTER = re.compile(r'[^\W\d_]')
_WORD = re.compile(r'\S+')
_ALPHABET = 'abcdefghijklmnopqrstuvwxyz'
# Keys that touch each other on a QWERTY keyboard, by its rows; a lower row is
# shifted to the right, so that a key touches the one below and the one left of
# that.
_ROWS = ('qwertyuiop', 'asdfghjkl', 'zxcvbnm')


def _neighbours() -> dict[str, str]:
  """The letters around each letter, in alphabetical order."""
  found: dict[str, set[str]] = {letter: set() for letter in _ALPHABET}

  def touch(one: str, other: str) -> None:
    found[one].add(other)
    found[other].add(one)

  for row in _ROWS:
    for left, right in zip(row, row[1:], strict=False):
      touch(left, right)
  for upper, lower in zip(_ROWS, _ROWS[1:], strict=False):
    for place, letter in enumerate(lower):
      touch(letter, upper[place])
      if place + 1 < len(upper):
        touch(letter, upper[place + 1])
  return {letter: ''.join(sorted(others)) for letter, others in found.items()}


KEYBOARD = _neighbours()


def draws(
  seed: int, kind: str, example: int, text: int, count: int, each: int
) -> np.ndarray:
  """Uniform numbers of one text, the same for every level.

  Args:
    seed: of the noise, any integer >= 0.
    kind: of the noise; kinds are independent of each other.
    example: number of the example in its file, or of its id, >= 0.
    text: 0 for the first text of an example, 1 for the second.
    count: things that may be hit.
    each: numbers for each of them, the first of which decides on the hit.

  Returns:
    float64 [each, count], in [0, 1).
  """
  mixed = np.random.SeedSequence(
    [seed, zlib.crc32(kind.encode()), example, text]
  )
  # Raw bits: of NumPy's streams only these are promised to stay (NEP 19).
  bits = np.random.PCG64(mixed).random_raw(count * each)
  # One thing after another: a longer text begins as a shorter one does.
  return ((bits >> np.uint64(11)) * 2.0**-53).reshape(count, each).T


def characters(text: str, level: float, drawn: np.ndarray) -> str:
  """Typing mistakes: of the letters a share is hit, each by one of four.

  A letter is swapped with the next letter of its word (the last one with that
  before it), dropped, followed by a random letter, or replaced by a neighbour
  on a QWERTY keyboard, each with probability 1/4. A word of one letter has none
  to swap with and takes a neighbour on the keyboard; a letter that is on no key
  there takes any of a to z. Case stays. Digits, marks and spaces are not hit.

  Args:
    text: any.
    level: probability that a letter is hit, so the expected share of the
      letters: word characters in the sense of `re` but for 0 to 9 and `_`.
    drawn: float64 [3, n], for each of the n letters of the text: hit or not,
      which edit, which letter.

  Returns:
    The text; the same one where no letter is hit.
  """
  hit, edit, pick = drawn
  chosen = np.flatnonzero(hit < level).tolist()
  if not chosen:
    return text
  places = [found.start() for found in _LETTER.finditer(text)]
  letters = set(places)
  cells = list(text)
  for number in chosen:
    place = places[number]
    what = int(edit[number] * 4)
    other = next((p for p in (place + 1, place - 1) if p in letters), None)
    if what == 0 and other is not None:
      cells[place], cells[other] = cells[other], cells[place]
    elif what == 1:
      cells[place] = ''
    elif what == 2:
      cells[place] += _picked(_ALPHABET, pick[number], text[place])
    else:
      keys = KEYBOARD.get(text[place].lower(), _ALPHABET)
      cells[place] = _picked(keys, pick[number], text[place])
  return ''.join(cells)


def _picked(letters: str, drawn: float, like: str) -> str:
  """One of the letters, in the case of another."""
  letter = letters[int(drawn * len(letters))]
  return letter.upper() if like.isupper() else letter


def word_drop(text: str, level: float, drawn: np.ndarray) -> str:
  """Words that are left out, a word being what stands between white space.

  One word always stays: that with the largest number.

  Args:
    text: any.
    level: probability that a word is left out.
    drawn: float64 [1, n], one for each of the n words.

  Returns:
    The words that stay, with one space between; or the very text where all do.
  """
  hit = drawn[0] < level
  if not hit.any():
    return text
  if hit.all():
    hit[np.argmax(drawn[0])] = False
  words = _WORD.findall(text)
  return ' '.join(words[n] for n in np.flatnonzero(~hit).tolist())


def word_shuffle(text: str, level: float, drawn: np.ndarray) -> str:
  """Words that change places among each other.

  The words that are hit form one random ring in which each takes the place of
  the next, so that every one of them moves; where one alone is hit, none does.

  Args:
    text: any.
    level: probability that a word is hit. The expected share of the n words
      that change place is level · (1 - (1 - level)^(n - 1)).
    drawn: float64 [2, n]: hit or not, and the place in the ring.

  Returns:
    The words with one space between; or the very text where none is hit.
  """
  hit, order = drawn
  chosen = np.flatnonzero(hit < level)
  if len(chosen) < 2:
    return text
  words = _WORD.findall(text)
  ring = chosen[np.argsort(order[chosen], kind='stable')].tolist()
  moved = list(words)
  for here, there in zip(ring, ring[1:] + ring[:1], strict=True):
    moved[there] = words[here]
  return ' '.join(moved)


# Of texts: what draws them, how many numbers each thing takes, what is hit.
TextNoise = Callable[[str, float, np.ndarray], str]
TEXT_KINDS: dict[str, tuple[TextNoise, int, re.Pattern[str]]] = {
  'characters': (characters, 3, _LETTER),
  'word_drop': (word_drop, 1, _WORD),
  'word_shuffle': (word_shuffle, 2, _WORD),
}


def noisy_texts(
  kind: str,
  texts: Sequence[str],
  examples: Sequence[int],
  text: int,
  levels: Sequence[float],
  seed: int,
) -> list[list[str]]:
  """Texts with noise of one kind, at several levels.

  Args:
    kind: of `TEXT_KINDS`.
    texts: N texts.
    examples: N numbers of examples, from 0.
    text: 0 for first texts, 1 for second ones.
    levels: each from 0 to 1; at 0 a text is itself.
    seed: of the noise.

  Returns:
    For each level N texts.
  """
  apply, each, things = TEXT_KINDS[kind]
  found: list[list[str]] = [[] for _ in levels]
  for example, clean in zip(examples, texts, strict=True):
    count = len(things.findall(clean))
    drawn = draws(seed, kind, example, text, count, each)
    for level, into in zip(levels, found, strict=True):
      into.append(apply(clean, level, drawn))
  return found


def noisy_ids(
  encoded: Sequence[list[int]],
  examples: Sequence[int],
  text: int,
  levels: Sequence[float],
  seed: int,
  random_ids: tuple[int, int],
) -> list[list[list[int]]]:
  """Word pieces of texts, a share of them replaced by random ones.

  A piece may be replaced by itself, as in BERT's masking.

  Args:
    encoded: N texts as ids, without special tokens and not cut yet.
    examples: N numbers of examples, from 0.
    text: 0 for first texts, 1 for second ones.
    levels: probabilities that a piece is replaced.
    seed: of the noise.
    random_ids: half-open range of ids to draw from, `Tokenizer.random_ids`.

  Returns:
    For each level N texts as ids, as long as before.
  """
  low, high = random_ids
  found: list[list[list[int]]] = [[] for _ in levels]
  for example, ids in zip(examples, encoded, strict=True):
    hit, pick = draws(seed, TOKENS, example, text, len(ids), 2)
    clean = np.asarray(ids, np.int64)
    others = low + (pick * (high - low)).astype(np.int64)
    for level, into in zip(levels, found, strict=True):
      into.append(np.where(hit < level, others, clean).tolist())
  return found


def noisy_encodings(
  kind: str,
  texts: Sequence[str],
  examples: Sequence[int],
  text: int,
  levels: Sequence[float],
  seed: int,
  tokenizer: Tokenizer,
) -> list[list[list[int]]]:
  """The word pieces of texts with noise of one kind, at several levels.

  Args:
    kind: of `TEXT_KINDS`, or `TOKENS`.
    texts: N texts.
    examples: N numbers of examples, from 0.
    text: 0 for first texts, 1 for second ones.
    levels: each from 0 to 1; at 0 a text is itself.
    seed: of the noise.
    tokenizer: gives the ids.

  Returns:
    For each level N texts as ids, without special tokens and not cut; none of
    a text of which noise has left nothing.
  """
  if kind == TOKENS:
    encoded, ids = tokenizer.encode_batch(texts), tokenizer.random_ids
    return noisy_ids(encoded, examples, text, levels, seed, ids)
  by_level = noisy_texts(kind, texts, examples, text, levels, seed)
  return [tokenizer.encode_batch(noisy) for noisy in by_level]


def noisy_rows(
  kind: str,
  examples: Examples,
  levels: Sequence[float],
  seed: int,
  tokenizer: Tokenizer,
  seq_len: int,
) -> dict[str, np.ndarray]:
  """Examples with noise as rows, all levels one after another.

  Args:
    kind: of `TEXT_KINDS`, or `TOKENS`.
    examples: N of them; their `ids` are their numbers.
    levels: K of them.
    seed: of the noise.
    tokenizer: gives the ids.
    seq_len: S; what noise makes longer is cut as other texts are.

  Returns:
    As `encode_examples`, of K·N rows: first N at the first level, and so on.
  """

  def encoded(texts: Sequence[str], text: int) -> list[list[int]]:
    by_level = noisy_encodings(
      kind, texts, examples.ids, text, levels, seed, tokenizer
    )
    return list(itertools.chain(*by_level))

  return rows_of(
    tokenizer,
    encoded(examples.text_a, 0),
    None if examples.text_b is None else encoded(examples.text_b, 1),
    seq_len,
  )
