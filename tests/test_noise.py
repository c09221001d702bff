"""Noise hits what it says, as often as it says, and depends on little."""

import re

import jax.numpy as jnp
import numpy as np
import pytest

from shared_bert.data import noise
from shared_bert.data.glue_reader import Examples
from shared_bert.data.noise import KEYBOARD, TEXT_KINDS, TOKENS
from shared_bert.data.tokenizer import Tokenizer
from shared_bert.model.perturbation import WordNoise, noisy_words

ODD = ('', ' ', 'a', 'I', 'Ωμέγα, caf\xe9!', 'one\ttab  and\nbreak ', '1 2_3 ²')
LEVELS = (0.0, 0.05, 0.1, 0.2, 0.3, 0.4, 1.0)
IDS = (5, 90)


def texts(count=60, words=30, seed=0):
  rng = np.random.default_rng(seed)
  letters = np.array(list('abcdefghijklmnopqrstuvwxyz'))
  return [
    ' '.join(
      ''.join(rng.choice(letters, rng.integers(2, 9))) for _ in range(words)
    )
    for _ in range(count)
  ]


def within_bounds(hits, count, share):
  """Five standard errors of a binomial."""
  return abs(hits - count * share) <= 5 * np.sqrt(count * share * (1 - share))


@pytest.mark.parametrize('kind', TEXT_KINDS)
def test_without_a_level_a_text_is_itself_byte_for_byte(kind):
  some = [*ODD, *texts(5)]
  found = noise.noisy_texts(kind, some, range(len(some)), 0, (0.0,), 3)
  assert found == [some]


@pytest.mark.parametrize('kind', TEXT_KINDS)
def test_noise_is_a_function_of_seed_and_example_alone(kind):
  some, numbers = texts(12), range(12)
  whole = noise.noisy_texts(kind, some, numbers, 0, (0.1, 0.3), 3)
  # In another order, alone, and at one level only.
  backwards = noise.noisy_texts(kind, some[::-1], numbers[::-1], 0, (0.3,), 3)
  assert backwards[0][::-1] == whole[1]
  alone = noise.noisy_texts(kind, some[7:8], [7], 0, (0.3,), 3)
  assert alone == [[whole[1][7]]]
  # Not of another seed, example or half of a pair.
  for example, half, seed in ((7, 0, 4), (8, 0, 3), (7, 1, 3)):
    other = noise.noisy_texts(kind, some[7:8], [example], half, (0.3,), seed)
    assert other != alone


def test_pieces_are_replaced_by_seed_and_example_alone():
  some = [list(range(5, 60)), list(range(30, 90)), []]
  whole = noise.noisy_ids(some, (4, 9, 2), 0, (0.0, 0.2), 3, IDS)
  assert whole[0] == some
  alone = noise.noisy_ids(some[1:2], (9,), 0, (0.2,), 3, IDS)
  assert alone == [whole[1][1:2]]
  assert noise.noisy_ids(some[1:2], (9,), 0, (0.2,), 4, IDS) != alone


@pytest.mark.parametrize('level', [0.05, 0.4])
def test_the_share_of_letters_is_hit_and_by_four_edits_alike(level):
  some, kinds, hits, count = texts(), [0] * 4, 0, 0
  for number, text in enumerate(some):
    places = [m.start() for m in re.finditer('[a-z]', text)]
    drawn = noise.draws(0, 'characters', number, 0, len(places), 3)
    count += len(places)
    for n in np.flatnonzero(drawn[0] < level):
      hits += 1
      kinds[int(drawn[1, n] * 4)] += 1
      # The same, this letter alone: at most it and one beside it differ.
      alone = np.ones_like(drawn)
      alone[:, n] = drawn[:, n]
      found = noise.characters(text, level, alone)
      what = int(drawn[1, n] * 4)
      assert len(found) - len(text) == {1: -1, 2: 1}.get(what, 0)
      place = places[n]
      if what == 0:
        assert sorted(found) == sorted(text)
      elif what == 1:
        assert found == text[:place] + text[place + 1 :]
      elif what == 2:
        assert found == text[: place + 1] + found[place + 1] + text[place + 1 :]
      else:
        assert found[place] in KEYBOARD[text[place]]
  assert within_bounds(hits, count, level)
  assert all(within_bounds(n, hits, 1 / 4) for n in kinds)


def test_typing_mistakes_keep_case_and_leave_digits_and_marks_alone():
  text = 'ABC 12,3!\tÉ'
  for number in range(30):
    drawn = noise.draws(0, 'characters', number, 0, 4, 3)
    found = noise.characters(text, 1.0, drawn)
    assert re.sub(r'[A-ZÉ]', '', found) == ' 12,3!\t'
  assert noise.characters('123 !?', 1.0, np.zeros((3, 0))) == '123 !?'


def test_neighbours_on_the_keyboard_are_those_of_a_desk():
  assert KEYBOARD['s'] == 'adewxz'
  assert KEYBOARD['q'] == 'aw'
  assert KEYBOARD['m'] == 'jkn'
  assert all(a in KEYBOARD[b] for a in KEYBOARD for b in KEYBOARD[a])


@pytest.mark.parametrize('level', [0.05, 0.4])
def test_the_share_of_words_is_left_out(level):
  some = texts()
  (found,) = noise.noisy_texts('word_drop', some, range(60), 0, (level,), 0)
  left = sum(len(text.split()) for text in found)
  assert within_bounds(60 * 30 - left, 60 * 30, level)
  for before, after in zip(some, found, strict=True):
    words = iter(before.split())
    assert all(word in words for word in after.split())  # in their order
  (one,) = noise.noisy_texts('word_drop', some[:9], range(9), 0, (1.0,), 0)
  assert [len(text.split()) for text in one] == [1] * 9


@pytest.mark.parametrize('level', [0.05, 0.2, 0.4])
def test_the_share_of_words_changes_place_and_none_is_lost(level):
  some = [' '.join(f'w{n}' for n in range(20))] * 200
  (found,) = noise.noisy_texts('word_shuffle', some, range(200), 0, (level,), 0)
  moved = 0
  for before, after in zip(some, found, strict=True):
    assert sorted(before.split()) == sorted(after.split())
    pairs = zip(before.split(), after.split(), strict=True)
    moved += sum(a != b for a, b in pairs)
  assert within_bounds(moved, 200 * 20, level * (1 - (1 - level) ** 19))


@pytest.mark.parametrize('level', [0.05, 0.4])
def test_the_share_of_pieces_is_replaced_and_by_any_ordinary_one(level):
  some = [[4] * 50] * 80  # outside of what is drawn, so every hit shows
  (found,) = noise.noisy_ids(some, range(80), 0, (level,), 0, IDS)
  new = [i for text in found for i in text if i != 4]
  assert within_bounds(len(new), 80 * 50, level)
  assert min(new) >= IDS[0] and max(new) < IDS[1]
  if level == 0.4:
    assert set(new) == set(range(*IDS))


def test_a_piece_may_be_drawn_in_its_own_place():
  own = IDS[0]
  (found,) = noise.noisy_ids([[own] * 50] * 80, range(80), 0, (1.0,), 0, IDS)
  same = sum(i == own for text in found for i in text)
  assert within_bounds(same, 80 * 50, 1 / (IDS[1] - IDS[0]))


def test_what_is_hit_at_a_level_is_hit_at_higher_ones():
  ids = [[4] * 50] * 9
  by_level = np.array(noise.noisy_ids(ids, range(9), 0, LEVELS, 0, IDS))
  hit = by_level != 4
  for lower, higher in zip(range(6), range(1, 7), strict=True):
    assert (by_level[higher][hit[lower]] == by_level[lower][hit[lower]]).all()
  assert (hit.sum((1, 2))[1:] > hit.sum((1, 2))[:-1]).all()
  dropped = noise.noisy_texts('word_drop', texts(9), range(9), 0, LEVELS, 0)
  for fewer, more in zip(dropped[1:], dropped, strict=False):
    for after, before in zip(fewer, more, strict=True):
      words = iter(before.split())
      assert all(word in words for word in after.split())


def test_rows_of_all_levels_come_one_level_after_another():
  tokenizer = Tokenizer.from_vocab(
    ['[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]', 'a', 'b', 'c', 'd', 'e']
  )
  examples = Examples(
    ['a b c d', 'e d c'], ['b', 'a a'], np.zeros(2, np.int32), [3, 8]
  )
  clean = noise.noisy_rows('word_drop', examples, (0.0,), 0, tokenizer, 16)
  for kind in ('word_drop', TOKENS):
    rows = noise.noisy_rows(kind, examples, (0.0, 0.9), 0, tokenizer, 16)
    assert rows['input_ids'].shape == (4, 16)
    for name, array in clean.items():
      np.testing.assert_array_equal(rows[name][:2], array)
    assert (rows['input_ids'][2:] != array[:2, None][..., :1]).any()
    # Special tokens stay, and nothing becomes one.
    real = rows['segment_ids'] > 0
    special = np.isin(rows['input_ids'], tokenizer.special_ids) & real
    assert (special.sum(axis=1) == 3).all()


@pytest.fixture(scope='module')
def table():
  rng = np.random.default_rng(0)
  values = rng.normal(0.3, 0.02, (40, 64)).astype(np.float32)
  word = {'word': {'embedding': jnp.asarray(values)}}
  return {'encoder': {'embeddings': word}, 'other': 1}


def embeddings_of(table, batch, level, seed=0):
  """The word embeddings that a model sees, float32 [B, S, D]."""
  spared = WordNoise(seed, level, (2, 3)).arrays()
  params, ids = noisy_words(table, *batch, *spared)
  found = params['encoder']['embeddings']['word']['embedding']
  assert params['other'] == 1
  return np.asarray(found)[np.asarray(ids)]


def test_noise_on_embeddings_is_that_of_the_example_wherever_it_lies(table):
  # Examples 7 and 11, of four and three tokens: one a row, then packed.
  apart = (
    jnp.array([[2, 5, 6, 3], [2, 9, 3, 0]]),
    jnp.array([[1, 1, 1, 1], [1, 1, 1, 0]]),
    jnp.array([7, 11]),
  )
  packed = (
    jnp.array([[2, 9, 3, 2, 5, 6, 3, 0]]),
    jnp.array([[1, 1, 1, 2, 2, 2, 2, 0]]),
    jnp.array([[11, 7, 0]]),
  )
  one, other = (embeddings_of(table, each, 0.3) for each in (apart, packed))
  np.testing.assert_array_equal(other[0, 3:7], one[0])
  np.testing.assert_array_equal(other[0, :3], one[1, :3])
  assert (embeddings_of(table, apart, 0.3, seed=1)[0, 1] != one[0, 1]).all()
  clean = np.asarray(table['encoder']['embeddings']['word']['embedding'])
  np.testing.assert_array_equal(
    embeddings_of(table, apart, 0.0), clean[np.asarray(apart[0])]
  )
  # [CLS], [SEP] and padding have none, and the level scales the same noise.
  for row, column in ((0, 0), (0, 3), (1, 3)):
    np.testing.assert_array_equal(
      one[row, column], clean[apart[0][row, column]]
    )
  twice = embeddings_of(table, apart, 0.6)
  noise_of = one[0, 1] - clean[5]
  np.testing.assert_allclose(twice[0, 1] - clean[5], 2 * noise_of, atol=1e-6)


def test_noise_on_embeddings_has_the_share_of_their_deviation(table):
  ids = jnp.full((8, 50), 9)
  batch = (ids, jnp.ones((8, 50), jnp.int32), jnp.arange(8))
  clean = np.asarray(table['encoder']['embeddings']['word']['embedding'])
  found = embeddings_of(table, batch, 0.4) - clean[9]
  count = found.size
  assert abs(found.std() / (0.4 * clean.std()) - 1) < 5 / np.sqrt(2 * count)
  assert abs(found.mean()) < 5 * found.std() / np.sqrt(count)
