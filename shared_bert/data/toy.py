"""The embedded data: a small English, made from a seed, with nothing to fetch.

A sentence says who does what to which thing:

  NAME VERB the ADJECTIVE NOUN        anna buys the big dog

Words stand in relations, and these decide the inference task, which has MNLI's
form: a premise, a hypothesis and one of three labels.

| slot      | entails                           | excludes                   |
|-----------|-----------------------------------|----------------------------|
| name      | itself, `someone`                 |                            |
| verb      | itself, its kind (`buys`: `gets`) | every verb of the other kind |
| adjective | itself                            | its opposite               |
| noun      | itself, its kind (`dog`: `animal`)|                            |

A premise contradicts the hypothesis if a slot of it excludes that of the
hypothesis; else it entails it if every slot entails its counterpart; else it is
neutral. A kind does not entail its members: `anna gets the big animal` is
neutral to `anna buys the big dog`. The hypothesis is drawn without regard to
the label, so that nothing can be learned from it alone.

One in five combinations of adjective and noun, and of name and verb, occurs in
no sentence of the corpus, of `train` or of `dev`. Every hypothesis of `test` has
such a combination: unseen compositions of words that were all seen.

The corpus has documents in the same language, a sentence and what follows from
it: `anna buys the big dog . someone gets the big animal . a dog is an animal .
what is big is not small .`
"""

import hashlib
from collections.abc import Iterator

import numpy as np

from shared_bert.data.corpus import Corpus
from shared_bert.data.encoding import encode_examples
from shared_bert.data.glue import Examples, Task
from shared_bert.data.tokenizer import SPECIAL_TOKENS, Tokenizer

_SOMEONE = 'someone'
_NAMES = ('anna', 'ben', 'lucy', 'max', 'nina', 'tom')
_VERB_KINDS = {
  'gets': ('buys', 'finds', 'takes', 'steals'),
  'leaves': ('sells', 'loses', 'gives', 'drops'),
}
_NOUN_KINDS = {
  'animal': ('dog', 'cat', 'horse', 'bird'),
  'plant': ('tree', 'rose', 'bush', 'palm'),
  'tool': ('hammer', 'saw', 'knife', 'drill'),
}
_OPPOSITES = (
  ('big', 'small'),
  ('old', 'new'),
  ('cheap', 'dear'),
  ('clean', 'dirty'),
  ('light', 'heavy'),
)
_KIND_OF = {
  member: kind
  for kinds in ({_SOMEONE: _NAMES}, _VERB_KINDS, _NOUN_KINDS)
  for kind, members in kinds.items()
  for member in members
}
_OPPOSITE = dict(_OPPOSITES) | {b: a for a, b in _OPPOSITES}


def _with_kinds(kinds: dict[str, tuple[str, ...]]) -> tuple[str, ...]:
  return tuple(word for kind, ws in kinds.items() for word in (kind, *ws))


# The words of each slot, and the slots by number.
_SLOTS = (
  (_SOMEONE, *_NAMES),
  _with_kinds(_VERB_KINDS),
  tuple(_OPPOSITE),
  _with_kinds(_NOUN_KINDS),
)
_NAME, _VERB, _ADJECTIVE, _NOUN = range(4)
_LABELS = ('entailment', 'neutral', 'contradiction')
_ENTAILMENT, _NEUTRAL, _CONTRADICTION = range(3)

# A sentence is the word of each slot.
Sentence = tuple[str, str, str, str]

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
  if _OPPOSITE.get(premise) == hypothesis:
    return True
  kinds = {_KIND_OF.get(word, word) for word in (premise, hypothesis)}
  return kinds == set(_VERB_KINDS)


def label_of(premise: Sentence, hypothesis: Sentence) -> int:
  """The class id of a pair: 0 entailment, 1 neutral, 2 contradiction."""
  pairs = list(zip(premise, hypothesis, strict=True))
  if any(excludes(p, h) for p, h in pairs):
    return _CONTRADICTION
  return _ENTAILMENT if all(entails(p, h) for p, h in pairs) else _NEUTRAL


def is_unseen(sentence: Sentence) -> bool:
  """Whether a combination of its words is kept from training."""
  name, verb, adjective, noun = (
    words.index(word) for words, word in zip(_SLOTS, sentence, strict=True)
  )
  return (adjective + noun) % 5 == 0 or (name + 2 * verb) % 5 == 0


def text_of(sentence: Sentence) -> str:
  """The sentence in words."""
  name, verb, adjective, noun = sentence
  return f'{name} {verb} the {adjective} {noun}'


def toy_tokenizer() -> Tokenizer:
  """Whole words; a vocabulary of all there are."""
  words = [word for slot in _SLOTS for word in slot]
  return Tokenizer.from_vocab(
    [*SPECIAL_TOKENS, 'a', 'an', 'is', 'not', 'the', 'what', '.', *words]
  )


def _pick(rng: np.random.Generator, items: tuple[str, ...] | list[str]) -> str:
  return items[int(rng.integers(len(items)))]


def _sentence(rng: np.random.Generator, unseen: bool) -> Sentence:
  while True:
    name, verb, adjective, noun = (_pick(rng, words) for words in _SLOTS)
    sentence = (name, verb, adjective, noun)
    if is_unseen(sentence) == unseen:
      return sentence


def _premise(
  rng: np.random.Generator, hypothesis: Sentence, label: int
) -> Sentence:
  """A premise of that label, as far from the hypothesis as it may be."""
  words: list[str] = []
  # Which slots need not entail: at least one where not all of them must.
  loose = rng.random(4) < (0.0 if label == _ENTAILMENT else 0.4)
  if label == _NEUTRAL:
    loose[_pick_slot(rng, (_VERB, _ADJECTIVE, _NOUN))] = True
  excluding = (
    _pick_slot(rng, (_VERB, _ADJECTIVE)) if label == _CONTRADICTION else None
  )
  for slot, word in enumerate(hypothesis):
    if slot == excluding:
      fitting = [w for w in _SLOTS[slot] if excludes(w, word)]
    elif loose[slot]:
      fitting = [
        w
        for w in _SLOTS[slot]
        if not (excludes(w, word) or entails(w, word))
      ]
    else:
      fitting = [w for w in _SLOTS[slot] if entails(w, word)]
    # Everybody entails `someone`: there is no looser word.
    words.append(_pick(rng, fitting or [word]))
  return words[0], words[1], words[2], words[3]


def _pick_slot(rng: np.random.Generator, slots: tuple[int, ...]) -> int:
  return slots[int(rng.integers(len(slots)))]


def _pairs(
  rng: np.random.Generator, count: int, unseen: bool, known: set
) -> Examples:
  """Pairs that are not in `known`, which they are added to."""
  premises, hypotheses, labels = [], [], []
  while len(labels) < count:
    hypothesis = _sentence(rng, unseen)
    label = len(labels) % 3
    premise = _premise(rng, hypothesis, label)
    if (premise, hypothesis) in known or (not unseen and is_unseen(premise)):
      continue
    known.add((premise, hypothesis))
    premises.append(text_of(premise))
    hypotheses.append(text_of(hypothesis))
    labels.append(label)
  return Examples(
    premises, hypotheses, np.array(labels, np.int32), list(range(count))
  )


def toy_task(
  seed: int = 0, train: int = 24_000, dev: int = 900, test: int = 900
) -> dict[str, Examples]:
  """The inference task.

  Args:
    seed: any integer.
    train: pairs of known combinations.
    dev: further pairs of known combinations.
    test: pairs whose hypothesis has an unseen combination; no pair of one
      split is in another.

  Returns:
    Labelled examples of `train`, `dev` and `test`, labels in equal shares.
  """
  rng = np.random.default_rng([seed, 1])
  known: set = set()
  return {
    'train': _pairs(rng, train, False, known),
    'dev': _pairs(rng, dev, False, known),
    'test': _pairs(rng, test, True, known),
  }


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
    second = tuple(
      _KIND_OF[w] if w in _KIND_OF and rng.random() < 0.5 else w for w in first
    )
    if is_unseen(second):
      continue
    adjective, noun = first[_ADJECTIVE], first[_NOUN]
    sentences = [text_of(first), text_of(second)]
    if noun in _KIND_OF:
      sentences.append(f'{_article(noun)} is {_article(_KIND_OF[noun])}')
    sentences.append(f'what is {adjective} is not {_OPPOSITE[adjective]}')
    yield ' . '.join(sentences) + ' .'
    count -= 1


def toy_corpus(
  seq_len: int, seed: int = 0, train: int = 20_000, heldout: int = 500
) -> Corpus:
  """The documents as a corpus, in memory.

  Args:
    seq_len: S; documents have up to 28 tokens, and are cut to fit.
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
