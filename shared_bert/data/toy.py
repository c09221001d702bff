"""The embedded data: a small English, made from a seed, with nothing to fetch.

A sentence says what kind of thing does what:

  the ADJECTIVE NOUN VERB        the big dog rises

Words stand in relations, and these decide the inference task, which has MNLI's
form: a premise, a hypothesis and one of three labels.

| slot      | entails                           | excludes                   |
|-----------|-----------------------------------|----------------------------|
| adjective | itself                            | its opposite (`small`)     |
| noun      | itself, its kind (`animal`)       |                            |
| verb      | itself                            | its opposite (`falls`)     |

A premise contradicts the hypothesis if a slot of it excludes that of the
hypothesis; else it entails it if every slot entails its counterpart; else it is
neutral. A kind does not entail its members: `the big animal rises` is
neutral to `the big dog rises`. The hypothesis is drawn without regard to
the label, so that nothing can be learned from it alone.

One in five combinations of adjective and noun, and of noun and verb, occurs in
no sentence of the corpus, of `train` or of `dev`. Every hypothesis of `test`
has such a combination: unseen compositions of words that were all seen.

The corpus has documents in the same language: a sentence, what it entails, and
two facts about its words, such as `what rises never falls`, `what is big is not
small` and `a dog is an animal`.
"""

import hashlib
from collections.abc import Iterator

import numpy as np

from shared_bert.data.corpus import Corpus
from shared_bert.data.encoding import encode_examples
from shared_bert.data.glue import Examples, Task
from shared_bert.data.tokenizer import SPECIAL_TOKENS, Tokenizer

_NOUN_KINDS = {
  'animal': ('dog', 'cat', 'horse'),
  'plant': ('tree', 'rose', 'palm'),
  'tool': ('hammer', 'saw', 'drill'),
}
_OPPOSITE_VERBS = (('rises', 'falls'), ('comes', 'goes'), ('grows', 'shrinks'))
_OPPOSITE_ADJECTIVES = (('big', 'small'), ('old', 'new'), ('cheap', 'dear'))
_KIND_OF = {
  member: kind for kind, members in _NOUN_KINDS.items() for member in members
}
_OPPOSITE = {
  a: b
  for pair in (*_OPPOSITE_VERBS, *_OPPOSITE_ADJECTIVES)
  for a, b in (pair, pair[::-1])
}


# The words of each slot, and the slots by number.
_SLOTS = (
  tuple(word for pair in _OPPOSITE_ADJECTIVES for word in pair),
  tuple(word for kind, ws in _NOUN_KINDS.items() for word in (kind, *ws)),
  tuple(word for pair in _OPPOSITE_VERBS for word in pair),
)
_ADJECTIVE, _NOUN, _VERB = range(3)
_LABELS = ('entailment', 'neutral', 'contradiction')
_ENTAILMENT, _NEUTRAL, _CONTRADICTION = range(3)

# A sentence is the word of each slot.
Sentence = tuple[str, str, str]

TOY_TASK = Task(
  name='toy',
  folders=('toy',),
  text_columns=('premise', 'hypothesis'),
  metrics=('accuracy',),
  label_names=_LABELS,
)


def entails(premise: str, hypothesis: str) -> bool:
  """Whether a word entails the word in the same slot."""
  return hypothesis in (premise, _KIND_OF.get(premise))


def excludes(premise: str, hypothesis: str) -> bool:
  """Whether a word excludes the word in the same slot."""
  return _OPPOSITE.get(premise) == hypothesis


def label_of(premise: Sentence, hypothesis: Sentence) -> int:
  """The class id of a pair: 0 entailment, 1 neutral, 2 contradiction."""
  pairs = list(zip(premise, hypothesis, strict=True))
  if any(excludes(p, h) for p, h in pairs):
    return _CONTRADICTION
  return _ENTAILMENT if all(entails(p, h) for p, h in pairs) else _NEUTRAL


def is_unseen(sentence: Sentence) -> bool:
  """Whether a combination of its words is kept from training."""
  adjective, noun, verb = (
    words.index(word) for words, word in zip(_SLOTS, sentence, strict=True)
  )
  return (adjective + noun) % 5 == 0 or (noun + 2 * verb) % 5 == 0


def text_of(sentence: Sentence) -> str:
  """The sentence in words."""
  adjective, noun, verb = sentence
  return f'the {adjective} {noun} {verb}'


def toy_tokenizer() -> Tokenizer:
  """Whole words; a vocabulary of all there are."""
  words = [word for slot in _SLOTS for word in slot]
  return Tokenizer.from_vocab(
    [
      *SPECIAL_TOKENS,
      'a',
      'an',
      'is',
      'never',
      'not',
      'the',
      'what',
      '.',
      *words,
    ]
  )


def _pick(rng: np.random.Generator, items: tuple[str, ...] | list[str]) -> str:
  return items[int(rng.integers(len(items)))]


def _sentence(rng: np.random.Generator, unseen: bool) -> Sentence:
  while True:
    adjective, noun, verb = (_pick(rng, words) for words in _SLOTS)
    sentence = (adjective, noun, verb)
    if is_unseen(sentence) == unseen:
      return sentence


def _premise(
  rng: np.random.Generator, hypothesis: Sentence, label: int
) -> Sentence:
  """A premise of that label, as far from the hypothesis as it may be."""
  words: list[str] = []
  # Which slots need not entail: at least one where not all of them must.
  loose = rng.random(3) < (0.0 if label == _ENTAILMENT else 0.4)
  if label == _NEUTRAL:
    loose[_pick_slot(rng, (_ADJECTIVE, _NOUN, _VERB))] = True
  excluding = (
    _pick_slot(rng, (_ADJECTIVE, _VERB)) if label == _CONTRADICTION else None
  )
  for slot, word in enumerate(hypothesis):
    if slot == excluding:
      fitting = [w for w in _SLOTS[slot] if excludes(w, word)]
    elif loose[slot]:
      fitting = [
        w for w in _SLOTS[slot] if not (excludes(w, word) or entails(w, word))
      ]
    else:
      fitting = [w for w in _SLOTS[slot] if entails(w, word)]
    words.append(_pick(rng, fitting))
  return words[0], words[1], words[2]


def _pick_slot(rng: np.random.Generator, slots: tuple[int, ...]) -> int:
  return slots[int(rng.integers(len(slots)))]


def _pairs(
  rng: np.random.Generator, count: int, unseen: bool, excluded: set
) -> tuple[Examples, set]:
  """Pairs that are not in `excluded`, and the set of them."""
  found = set()
  premises, hypotheses, labels = [], [], []
  while len(labels) < count:
    hypothesis = _sentence(rng, unseen)
    label = len(labels) % 3
    premise = _premise(rng, hypothesis, label)
    if (premise, hypothesis) in excluded:
      continue
    if not unseen and is_unseen(premise):
      continue
    found.add((premise, hypothesis))
    premises.append(text_of(premise))
    hypotheses.append(text_of(hypothesis))
    labels.append(label)
  examples = Examples(
    premises, hypotheses, np.array(labels, np.int32), list(range(count))
  )
  return examples, found


def toy_task(
  seed: int = 0, train: int = 24_000, dev: int = 900, test: int = 900
) -> dict[str, Examples]:
  """The inference task.

  Args:
    seed: any integer.
    train: pairs of known combinations.
    dev: further pairs of known combinations.
    test: pairs whose hypothesis has an unseen combination. No pair of one
      split is in another; within a split pairs may repeat.

  Returns:
    Labelled examples of `train`, `dev` and `test`, labels in equal shares.
  """
  rng = np.random.default_rng([seed, 1])
  dev_examples, dev_pairs = _pairs(rng, dev, False, set())
  train_examples, _ = _pairs(rng, train, False, dev_pairs)
  test_examples, _ = _pairs(rng, test, True, set())
  return {'train': train_examples, 'dev': dev_examples, 'test': test_examples}


def _article(noun: str) -> str:
  return f'{"an" if noun[0] in "aeiou" else "a"} {noun}'


def toy_documents(seed: int, count: int) -> Iterator[str]:
  """Documents: a sentence, what it entails, and facts about its words.

  Args:
    seed: any integer.
    count: documents.

  Yields:
    Texts of known combinations only.
  """
  rng = np.random.default_rng([seed, 2])
  while count:
    first = _sentence(rng, unseen=False)
    adjective, noun, verb = first
    kind = _KIND_OF.get(noun, noun)
    second = (adjective, kind if rng.random() < 0.5 else noun, verb)
    if is_unseen(second):
      continue
    facts = [
      f'what {verb} never {_OPPOSITE[verb]}',
      f'what is {adjective} is not {_OPPOSITE[adjective]}',
    ]
    if noun in _KIND_OF:
      facts.append(f'{_article(noun)} is {_article(_KIND_OF[noun])}')
    chosen = rng.permutation(len(facts))[:2]
    sentences = [text_of(first), text_of(second), *(facts[k] for k in chosen)]
    yield ' . '.join(sentences) + ' .'
    count -= 1


def toy_corpus(
  seq_len: int, seed: int = 0, train: int = 20_000, heldout: int = 500
) -> Corpus:
  """The documents as a corpus, in memory.

  Args:
    seq_len: S; documents have up to 26 tokens, and are cut to fit.
    seed: any integer.
    train: documents to train on.
    heldout: documents to evaluate on.

  Returns:
    The corpus, one document a row.
  """
  tokenizer = toy_tokenizer()
  documents = list(toy_documents(seed, train + heldout))
  rows = encode_examples(tokenizer, documents, None, seq_len)['input_ids']
  return Corpus(
    train=rows[:train],
    heldout=rows[train:],
    tokenizer=tokenizer,
    seq_len=seq_len,
    manifest={},
    fingerprint=hashlib.sha256(rows.tobytes()).hexdigest(),
  )
