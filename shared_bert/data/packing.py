"""Documents of a shard to packed rows.

A document is cut into segments `[CLS] tokens [SEP]` of at most S tokens. A row
holds as many segments as fit, padding last:

  [CLS] a a a [SEP] [CLS] b b [SEP] [PAD] [PAD]

Nothing else says where segments begin: text never has a special token. Or a row
is a next-sentence pair, `[CLS] a a a [SEP] b b [SEP] [PAD]`.
"""

import dataclasses
import itertools
from typing import Any

import numpy as np

from shared_bert.data import pairs as pairs_lib
from shared_bert.data.documents import Documents
from shared_bert.data.tokenizer import Tokenizer

# A shorter rest of a document teaches little.
SHORTEST_CHUNK = 8
# Tokens that are copied into rows at a time, to bound the memory of their
# addresses (three int64 each).
_COPIED_TOKENS = 2**21
# Documents are counted by the bits of their length; longer ones in the last.
_LENGTH_BINS = 28


@dataclasses.dataclass(frozen=True)
class ShardRows:
  """The rows of a shard.

  Attributes:
    rows: uint16 or int32 [N, S].
    labels: uint8 [N] with pairs, 1 where the second part is a random one, else
      None.
    counts: `documents`, `duplicate_documents` (copies of another one),
      `text_bytes` and `lengths` (documents by `bit_length` of their tokens) of
      all documents met; `rows`, `segments`, `tokens`, `special_tokens` (not
      among the former) and `unknown_tokens` (among them) in the rows;
      `text_tokens` of all documents; `dropped_tokens` (short rests, and what
      truncation took off pairs) and `duplicate_tokens` (of removed copies)
      that are in none; `cut_documents` that do not fit into one segment.
  """

  rows: np.ndarray
  labels: np.ndarray | None
  counts: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class RowMaker:
  """Makes the rows of a shard; a pure function of the set of its documents.

  Attributes:
    seq_len: S.
    cls_id, sep_id, pad_id, unk_id: of the tokenizer.
    deduplicate: whether only one of equal documents is kept.
    pairs: whether rows are next-sentence pairs, one a row.
  """

  seq_len: int
  cls_id: int
  sep_id: int
  pad_id: int
  unk_id: int
  deduplicate: bool = False
  pairs: bool = False

  @classmethod
  def of(
    cls,
    tokenizer: Tokenizer,
    seq_len: int,
    deduplicate: bool = False,
    pairs: bool = False,
  ) -> 'RowMaker':
    """With the special ids of a tokenizer."""
    return cls(
      seq_len,
      tokenizer.cls_id,
      tokenizer.sep_id,
      tokenizer.pad_id,
      tokenizer.unk_id,
      deduplicate,
      pairs,
    )

  def __call__(self, documents: Documents) -> ShardRows:
    """Makes rows.

    Args:
      documents: of one shard, in any order; ids in the dtype of the rows.

    Returns:
      The rows, in an order that has nothing to do with that of the documents.
    """
    order = np.lexsort((documents.digests[:, 1], documents.digests[:, 0]))
    digests = documents.digests[order]
    copies = np.zeros(len(order), bool)
    copies[1:] = (digests[1:] == digests[:-1]).all(axis=1)
    of_documents, of_lines = documents.bounds()
    lengths = np.diff(of_lines[of_documents])
    kept = order[~copies] if self.deduplicate else order
    labels = None
    text_tokens = int(lengths[kept].sum())
    if self.pairs:
      pairs = pairs_lib.choose_pairs(documents, kept, self.seq_len)
      rows, tokens, used = self._paired(documents.ids, pairs)
      labels, segments, special = shuffled(pairs.labels), len(rows), 3
    else:
      rows, segments, tokens = self._packed(
        documents.ids, of_lines[of_documents][kept], lengths[kept]
      )
      used, special = tokens, 2
    bits = np.minimum(np.frexp(lengths)[1], _LENGTH_BINS - 1)
    counts = {
      'documents': len(order),
      'duplicate_documents': int(copies.sum()),
      'text_bytes': int(documents.text_bytes.sum(dtype=np.int64)),
      'lengths': np.bincount(bits, minlength=_LENGTH_BINS).tolist(),
      'cut_documents': int((lengths[kept] > self.seq_len - 2).sum()),
      'rows': len(rows),
      'segments': segments,
      'tokens': tokens,
      'special_tokens': special * segments,
      'unknown_tokens': int(np.count_nonzero(rows == self.unk_id)),
      'text_tokens': int(lengths.sum()),
      'dropped_tokens': text_tokens - used,
      'duplicate_tokens': int(lengths.sum()) - text_tokens,
    }
    return ShardRows(shuffled(rows), labels, counts)

  def _packed(
    self, ids: np.ndarray, starts: np.ndarray, lengths: np.ndarray
  ) -> tuple[np.ndarray, int, int]:
    """Rows [N, S] of documents that lie in `ids`, segments and tokens."""
    room = self.seq_len - 2
    pieces = -(-lengths // room)
    rests = lengths - (pieces - 1) * room
    pieces -= rests < SHORTEST_CHUNK
    owner = np.repeat(np.arange(len(lengths)), pieces)
    nth = np.arange(len(owner)) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    sizes = np.minimum(lengths[owner] - nth * room, room)
    sources = starts[owner] + nth * room
    row, place, num_rows = pack(sizes + 2, self.seq_len)
    rows = np.full((num_rows, self.seq_len), self.pad_id, ids.dtype)
    flat = rows.reshape(-1)
    targets = row * self.seq_len + place
    flat[targets] = self.cls_id
    flat[targets + sizes + 1] = self.sep_id
    _copy(ids, sources, sizes, flat, targets + 1)
    return rows, len(sizes), int(sizes.sum())

  def _paired(
    self, ids: np.ndarray, pairs: pairs_lib.Pairs
  ) -> tuple[np.ndarray, int, int]:
    """Rows [N, S], their tokens, and those that are of their own document."""
    a_first, a_last, b_first, b_last = pairs.bounds.T
    a_sizes, b_sizes = a_last - a_first, b_last - b_first
    rows = np.full((len(a_sizes), self.seq_len), self.pad_id, ids.dtype)
    flat = rows.reshape(-1)
    starts = np.arange(len(rows)) * self.seq_len
    flat[starts] = self.cls_id
    _copy(ids, a_first, a_sizes, flat, starts + 1)
    seconds = starts + a_sizes + 2
    flat[seconds - 1] = self.sep_id
    _copy(ids, b_first, b_sizes, flat, seconds)
    flat[seconds + b_sizes] = self.sep_id
    of_own = a_sizes + np.where(pairs.labels, 0, b_sizes)
    return rows, int((a_sizes + b_sizes).sum()), int(of_own.sum())


def _copy(
  ids: np.ndarray,
  sources: np.ndarray,
  sizes: np.ndarray,
  flat: np.ndarray,
  targets: np.ndarray,
) -> None:
  """Copies runs of ids, each of its size, from their sources to their targets.

  Args:
    ids: [tokens].
    sources: int64 [n], where each run begins in `ids`.
    sizes: int64 [n].
    flat: where to, changed in place.
    targets: int64 [n], where each run begins there.
  """
  ends = np.cumsum(sizes)
  total = int(ends[-1]) if len(ends) else 0
  marks = np.arange(_COPIED_TOKENS, total, _COPIED_TOKENS)
  cuts = [0, *np.searchsorted(ends, marks).tolist(), len(sizes)]
  for first, last in itertools.pairwise(cuts):
    size = sizes[first:last]
    within = np.arange(size.sum()) - np.repeat(np.cumsum(size) - size, size)
    target = np.repeat(targets[first:last], size) + within
    flat[target] = ids[np.repeat(sources[first:last], size) + within]


def pack(
  lengths: np.ndarray, capacity: int
) -> tuple[np.ndarray, np.ndarray, int]:
  """Packs segments into rows: best fit, longest first.

  Each segment goes into the row with the least room that holds it. Segments of
  one length and rows of one room are dealt with together, so that the time
  grows with the number of different lengths rather than of segments (the
  histograms of Krell et al., arXiv 2107.02027, section 3.2).

  Args:
    lengths: int [n], each in [1, capacity].
    capacity: S.

  Returns:
    The row of each segment, int64 [n]; where it begins there, int64 [n]; and
    the number of rows.
  """
  kinds = _kinds(np.bincount(lengths, minlength=capacity + 1), capacity)
  # NumPy sorts narrow integers by their digits, in two passes.
  narrow = np.uint16 if capacity < 2**16 else np.int64
  by_length = np.argsort(lengths.astype(narrow), kind='stable')
  used = np.searchsorted(lengths[by_length], np.arange(capacity + 1)).tolist()
  row = np.empty(len(lengths), np.int64)
  place = np.empty(len(lengths), np.int64)
  num_rows = 0
  for count, held in kinds:
    numbers = np.arange(num_rows, num_rows + count)
    start = 0
    for length in held:
      segments = by_length[used[length] : used[length] + count]
      used[length] += count
      row[segments] = numbers
      place[segments] = start
      start += length
    num_rows += count
  return row, place, num_rows


def pack_few(
  lengths: np.ndarray, capacity: int
) -> tuple[np.ndarray, np.ndarray, int]:
  """Packs a few segments into rows: as full as can be, one after the other.

  Each row holds the longest segment that is left, and of the others those that
  fill it best (minimum bin slack: Gupta and Ho 1999). The time grows with the
  square of their number, and few segments leave `pack` little to choose from:
  32 of MNLI take 10.4 rows of 128 where it takes 10.7.

  Args:
    lengths: int [n], each in [1, capacity].
    capacity: S.

  Returns:
    As of `pack`.
  """
  row = np.empty(len(lengths), np.int64)
  place = np.empty(len(lengths), np.int64)
  sizes = lengths.tolist()
  left = np.argsort(-lengths, kind='stable').tolist()
  num_rows = 0
  while left:
    longest, *left = left
    # Bit n of the kth: some of the first k others have n tokens together.
    room = capacity - sizes[longest]
    sums = [1]
    for segment in left:
      sums.append((sums[-1] | sums[-1] << sizes[segment]) & (2 << room) - 1)
    rest = sums[-1].bit_length() - 1
    row[longest], place[longest], start = num_rows, 0, sizes[longest]
    kept = []
    for number in reversed(range(len(left))):
      segment = left[number]
      if sums[number] >> rest & 1:
        kept.append(segment)
        continue
      row[segment], place[segment] = num_rows, start
      start += sizes[segment]
      rest -= sizes[segment]
    left = kept[::-1]
    num_rows += 1
  return row, place, num_rows


def _kinds(
  histogram: np.ndarray, capacity: int
) -> list[tuple[int, tuple[int, ...]]]:
  """How many rows there are of each kind, the lengths that they hold."""
  # By room that is left: (rows, lengths they hold).
  open_rows: list[list[tuple[int, tuple[int, ...]]]] = [
    [] for _ in range(capacity + 1)
  ]
  open_rows[capacity].append((int(histogram.sum()), ()))  # as many as needed
  for length in range(capacity, 0, -1):
    left, room = int(histogram[length]), length
    while left:
      while not open_rows[room]:
        room += 1
      count, held = open_rows[room].pop()
      # A row that was begun is the best fit for the next one too.
      fitting = room // length
      filled = min(count, left // fitting)
      rest = left - filled * fitting if filled < count else 0
      partly = int(rest > 0)
      for rows, times in (
        (filled, fitting),
        (partly, rest),
        (count - filled - partly, 0),
      ):
        if rows:
          kind = (rows, held + (length,) * times)
          open_rows[room - times * length].append(kind)
          left -= rows * times
  return [kind for of_room in open_rows for kind in of_room if kind[1]]


def shuffled(rows: np.ndarray) -> np.ndarray:
  """Rows in an order that looks random and is always the same.

  Args:
    rows: [N, ...].

  Returns:
    The same rows; the order depends on N alone.
  """
  # Sorted raw bits: of NumPy's random streams only the bit generators' are
  # promised to stay as they are (NEP 19).
  bits = np.random.PCG64(len(rows)).random_raw(len(rows))
  return rows[np.argsort(bits, kind='stable')]
