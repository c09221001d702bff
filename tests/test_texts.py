"""What is taken for a text, for a pair, for several; and what for neither."""

import numpy as np
import pytest

import shared_bert
from shared_bert.errors import UserError
from shared_bert.inference import Predictor
from shared_bert.texts import as_list, is_one
from tests.test_interop import saved_model

THREE = ['the cat', 'a dog runs', 'big old bird']


@pytest.fixture(scope='module')
def predict():
  return Predictor(saved_model('classification'))


class Column:
  """As a column of a data frame: iterable, of one dimension, no list."""

  ndim = 1

  def __init__(self, values):
    self._values = values

  def __iter__(self):
    return iter(self._values)


def keys(texts):
  return dict.fromkeys(texts).keys()


@pytest.mark.parametrize('several', [list, tuple, np.array, iter, Column, keys])
def test_no_text_of_several_is_dropped(several, predict):
  expected = predict(THREE)
  assert len(expected) == 3
  assert predict(several(THREE)) == expected


def test_a_tuple_of_exactly_two_is_a_pair_and_all_others_are_several(predict):
  pair = ('the cat', 'a dog')
  assert isinstance(predict(pair), dict)
  assert predict([pair]) == [predict(pair)]
  assert predict(pair) != predict('the cat')
  # Two of a list or an array are two texts, two pairs in a tuple two pairs.
  assert predict(np.array(pair)) == predict(list(pair))
  assert len(predict(list(pair))) == 2
  assert predict((pair, pair)) == predict([pair, pair])
  assert len(predict((pair, pair))) == 2
  assert predict(('the cat',)) == [predict('the cat')]
  assert is_one(np.str_('the cat'))


def test_none_are_answered_by_none(predict):
  assert predict([]) == predict(()) == predict(np.array([], str)) == []
  assert Predictor(saved_model('question_answering'))([]) == []


def test_an_empty_text_is_a_text(predict):
  answers = predict(['', 'the cat', '  '])
  assert len(answers) == 3
  assert answers[0] == answers[2] != answers[1]
  fill = Predictor(saved_model())
  assert fill('') == fill('the cat') == {'masks': []}
  assert [len(a['masks']) for a in fill(['', 'a [MASK]', 'no'])] == [0, 1, 0]
  assert Predictor(saved_model(), 'embed')('')['embedding'].shape == (16,)


def test_a_mask_in_either_text_of_a_pair_is_filled():
  fill = Predictor(saved_model())
  assert len(fill(('the [MASK]', 'a [MASK] runs'))['masks']) == 2
  assert len(fill(('the cat', 'a [MASK] runs'))['masks']) == 1


@pytest.mark.parametrize(
  ('texts', 'words'),
  [
    (None, 'this is of type NoneType'),
    (1, 'this is of type int'),
    (b'the cat', 'this is of type bytes'),
    ({'text': 'the cat'}, 'this is of type dict'),
    ([1], r'pairs of strings: text 1 is of type int\.'),
    (['the cat', None], 'text 2 is of type NoneType'),
    (('the cat', None), 'text 2 is of type NoneType'),
    ([('a', 'b'), ('a', 'b', 'c')], 'text 2 is of type tuple .a pair is a tup'),
    ([['a', 'b']], 'text 1 is of type list .a pair is a tuple of two'),
    ((t for t in ['a', 2.5]), 'text 2 is of type float'),
    (np.array([['a', 'b']]), 'ndarray has 2 dimensions. Take one column'),
    (np.array('the cat'), 'ndarray has 0 dimensions'),
    (['the cat', 'caf\udce9'], r"text 2 .* character 4 is '\\udce9'"),
    ([('a', 'b'), 'c'], 'text 2 is a single one among pairs'),
    (['c', ('a', 'b')], 'text 1 is a single one among pairs'),
    # A tab too many in a line.
    (['c', 'd', ('a', 'b'), 'e'], 'text 3 is a pair among single ones'),
  ],
)
def test_what_is_no_text_is_named(texts, words, predict):
  with pytest.raises(UserError, match=words):
    predict(texts)


def test_places_are_those_that_the_caller_names():
  with pytest.raises(UserError, match=r'a\.txt, line 2 is of type int'):
    as_list(['a', 1], lambda index: f'a.txt, line {index + 1}')
  answer = Predictor(saved_model('question_answering'))
  for texts in (['a'], [('', 'a dog')]):
    with pytest.raises(UserError, match='^row 0 '):
      answer(texts, place=lambda index: f'row {index}')


def test_options_that_are_none_name_those_that_are(predict):
  known = 'top_k, pooling, no_answer, batch_size'
  with pytest.raises(UserError, match=f'no option foo: there are {known}'):
    shared_bert.load('model', foo=1)
  with pytest.raises(UserError, match=f'not top_k: .*: {known}'):
    predict('the cat', top_k=1)
  with pytest.raises(UserError, match='a pair is one tuple'):
    predict('the cat', 'a dog')
  for options in ({'top_k': '5'}, {'batch_size': 2.5}, {'top_k': None}):
    with pytest.raises(UserError, match='should be a whole number from 1 on'):
      Predictor(saved_model(), **options)
  with pytest.raises(UserError, match='task=sing should be one of fill-mask'):
    Predictor(saved_model(), 'sing')
  with pytest.raises(UserError, match='needs a BertForQuestionAnswering: it'):
    Predictor(saved_model(), 'answer')
