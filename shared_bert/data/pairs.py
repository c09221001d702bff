"""Next-sentence pairs, BERT's second task, chosen from the lines of documents.

After google-research/bert `create_pretraining_data.py`,
`create_instances_from_document`: lines stand for sentences. Here a document's
draws follow from its digest, so that pairs do not depend on the order of the
work, and "a random document" is one of the same shard.
"""

from typing import NamedTuple

import numpy as np

from shared_bert.data.documents import Documents

# Pairs that aim at a random shorter length, so that models see short inputs.
_SHORT_SHARE = 0.1
_RANDOM_SHARE = 0.5
# Tries to find another document than the own.
_TRIES = 10


class Pairs(NamedTuple):
  """Pairs as places among the ids of `Documents`.

  Attributes:
    bounds: int64 [n, 4]: first and last + 1 of a's tokens, then of b's.
    labels: uint8 [n], 1 where b is from another document.
  """

  bounds: np.ndarray
  labels: np.ndarray


class _Draws:
  """Random numbers that follow from a digest.

  Raw bits, for of NumPy's random streams only these are promised to stay as
  they are (NEP 19).
  """

  def __init__(self, digest: np.ndarray):
    self._bits = np.random.PCG64([int(half) for half in digest])

  def share(self) -> float:
    """Uniform in [0, 1)."""
    return (int(self._bits.random_raw()) >> 11) / 2**53

  def between(self, low: int, high: int) -> int:
    """Uniform in [low, high], both included."""
    return low + int(self.share() * (high - low + 1))


def choose_pairs(
  documents: Documents, order: np.ndarray, seq_len: int
) -> Pairs:
  """Chooses the pairs of a shard.

  Args:
    documents: of the shard.
    order: int [n], the documents to use, sorted by their digests.
    seq_len: S, the length of rows; three places go to special tokens.

  Returns:
    The pairs, by documents in that order. There are none where a document of
    one line has no other to be paired with.
  """
  of_documents, of_lines = documents.bounds()
  texts, digests = [], []
  for number in order.tolist():
    first, last = of_documents[number], of_documents[number + 1] + 1
    # Lines that leave no token, such as control characters, are none.
    ends = np.unique(of_lines[first:last]).tolist()
    if len(ends) > 1:
      texts.append(ends)
      digests.append(documents.digests[number])
  bounds: list[tuple[int, int, int, int]] = []
  labels: list[int] = []
  for own, digest in enumerate(digests):
    draws = _Draws(digest)
    for pair, is_random in _pairs_of(texts, own, seq_len - 3, draws):
      bounds.append(pair)
      labels.append(is_random)
  return Pairs(
    np.array(bounds, np.int64).reshape(-1, 4), np.array(labels, np.uint8)
  )


def _pairs_of(texts: list[list[int]], own: int, room: int, draws: _Draws):
  """Pairs of a document and whether each is random.

  Args:
    texts: where lines begin and, last, end, of each document.
    own: the document.
    room: tokens of a pair.
    draws: of the document.

  Yields:
    (a's first token, its last + 1, b's first, its last + 1), and whether b is
    from another document.
  """
  ends = texts[own]
  num_lines = len(ends) - 1
  target = room
  if draws.share() < _SHORT_SHARE:
    target = draws.between(2, room)
  start = 0
  for_line = 0
  while for_line < num_lines:
    for_line += 1
    # Lines are gathered up to the target's length.
    if for_line < num_lines and ends[for_line] - ends[start] < target:
      continue
    count = for_line - start
    middle = start + (draws.between(1, count - 1) if count > 1 else 1)
    is_random = count == 1 or draws.share() < _RANDOM_SHARE
    if is_random and len(texts) == 1:
      is_random = False
      if count == 1:
        return
    a = (ends[start], ends[middle])
    if is_random:
      b = _elsewhere(texts, own, target - (a[1] - a[0]), draws)
      for_line = middle  # lines that were not used are put back
    else:
      b = (ends[middle], ends[for_line])
    yield _truncated(a, b, room, draws), is_random
    start = for_line


def _elsewhere(
  texts: list[list[int]], own: int, wanted: int, draws: _Draws
) -> tuple[int, int]:
  """Consecutive lines of another document, of about `wanted` tokens."""
  other = own
  for _ in range(_TRIES):
    other = draws.between(0, len(texts) - 1)
    if other != own:
      break
  else:
    other = (own + 1) % len(texts)
  ends = texts[other]
  first = draws.between(0, len(ends) - 2)
  last = first + 1
  while last < len(ends) - 1 and ends[last] - ends[first] < wanted:
    last += 1
  return ends[first], ends[last]


def _truncated(
  a: tuple[int, int], b: tuple[int, int], room: int, draws: _Draws
) -> tuple[int, int, int, int]:
  """Takes tokens off the longer part, at either end at random."""
  (a_first, a_last), (b_first, b_last) = a, b
  while a_last - a_first + b_last - b_first > room:
    front = draws.share() < 0.5
    if a_last - a_first > b_last - b_first:
      a_first, a_last = a_first + front, a_last - (not front)
    else:
      b_first, b_last = b_first + front, b_last - (not front)
  return a_first, a_last, b_first, b_last
