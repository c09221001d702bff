"""The embedded language: labels that follow from meaning, unseen kept apart."""

import collections

import numpy as np
import pytest
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression

from shared_bert.data import toy


def sentence(text):
  _, adjective, noun, verb = text.split()
  return adjective, noun, verb


@pytest.fixture(scope='module')
def splits():
  return toy.toy_task(0, train=3000, dev=300, test=300)


@pytest.mark.parametrize(
  ('premise', 'hypothesis', 'label'),
  [
    ('the big dog rises', 'the big dog rises', 'entailment'),
    ('the big dog rises', 'the big animal rises', 'entailment'),
    ('the big animal rises', 'the big dog rises', 'neutral'),
    ('the big dog rises', 'the old dog rises', 'neutral'),
    ('the big dog rises', 'the small dog rises', 'contradiction'),
    ('the big dog rises', 'the big dog falls', 'contradiction'),
    ('the big dog rises', 'the small tree comes', 'contradiction'),
  ],
)
def test_labels_follow_from_the_relations_of_words(premise, hypothesis, label):
  found = toy.label_of(sentence(premise), sentence(hypothesis))
  assert toy.TOY_TASK.label_names[found] == label


def test_every_label_is_what_the_relations_say(splits):
  for examples in splits.values():
    assert [
      toy.label_of(sentence(a), sentence(b))
      for a, b in zip(examples.text_a, examples.text_b, strict=True)
    ] == examples.labels.tolist()


def test_labels_come_in_equal_shares(splits):
  for examples in splits.values():
    counts = collections.Counter(examples.labels.tolist())
    assert len(set(counts.values())) == 1 and len(counts) == 3


def test_training_and_the_corpus_never_show_a_combination_of_the_test(splits):
  for split in ('train', 'dev'):
    for text in (*splits[split].text_a, *splits[split].text_b):
      assert not toy.is_unseen(sentence(text))
  assert all(toy.is_unseen(sentence(b)) for b in splits['test'].text_b)
  for document in toy.toy_documents(0, 200):
    for text in document.split(' . ')[:2]:
      assert not toy.is_unseen(sentence(text.removesuffix(' .')))


def test_training_shows_every_word_of_the_test(splits):
  words = {
    split: set(' '.join([*e.text_a, *e.text_b]).split())
    for split, e in splits.items()
  }
  assert words['test'] <= words['train']


def test_no_pair_of_one_split_is_in_another(splits):
  pairs = {
    split: set(zip(e.text_a, e.text_b, strict=True))
    for split, e in splits.items()
  }
  assert not pairs['train'] & pairs['dev']
  assert not pairs['test'] & (pairs['train'] | pairs['dev'])


def test_words_of_the_hypothesis_alone_tell_nothing(splits):
  train, test = splits['train'], splits['test']
  counts = CountVectorizer(ngram_range=(1, 2)).fit(train.text_b)
  model = LogisticRegression(max_iter=500)
  model.fit(counts.transform(train.text_b), train.labels)
  assert model.score(counts.transform(test.text_b), test.labels) < 0.45


def test_how_many_words_two_sentences_share_is_not_enough(splits):
  def overlap(examples):
    pairs = zip(examples.text_a, examples.text_b, strict=True)
    shared = [len(set(a.split()) & set(b.split())) for a, b in pairs]
    return np.eye(6)[shared]

  train, test = splits['train'], splits['test']
  model = LogisticRegression(max_iter=500)
  model.fit(overlap(train), train.labels)
  assert model.score(overlap(test), test.labels) < 0.65


def test_a_seed_gives_the_same_language_again():
  first, second = toy.toy_corpus(32, 3, 50, 10), toy.toy_corpus(32, 3, 50, 10)
  assert first.fingerprint == second.fingerprint
  assert first.fingerprint != toy.toy_corpus(32, 4, 50, 10).fingerprint
  tokenizer = toy.toy_tokenizer()
  assert not (first.train == tokenizer.unk_id).any()
