"""Text to documents of ids, each with a digest that decides its place.

Where a document goes and in what order follows from its text alone, so that a
corpus does not depend on how the text is spread over files or processes.
"""

import dataclasses
import hashlib
import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from shared_bert.data.tokenizer import Tokenizer

Block = list[list[str]]  # documents, each a list of lines

_DIGEST_BYTES = 16


class Document(NamedTuple):
  """A tokenised document.

  Attributes:
    digest: 16 bytes of the sha256 over its text.
    text_bytes: of its lines in UTF-8, joined by line feeds.
    line_lengths: uint32 [lines], tokens of each line.
    ids: uint16 or int32 [tokens], without special tokens.
  """

  digest: bytes
  text_bytes: int
  line_lengths: np.ndarray
  ids: np.ndarray


class Documents(NamedTuple):
  """Many documents, in columns.

  Attributes:
    digests: uint64 [n, 2], the digests as two big-endian numbers.
    text_bytes: uint32 [n].
    line_counts: uint32 [n].
    line_lengths: uint32 [lines of all].
    ids: uint16 or int32 [tokens of all].
  """

  digests: np.ndarray
  text_bytes: np.ndarray
  line_counts: np.ndarray
  line_lengths: np.ndarray
  ids: np.ndarray

  @classmethod
  def of(
    cls, documents: Iterable[Document], dtype: np.dtype | type
  ) -> 'Documents':
    """Puts documents into columns.

    Args:
      documents: in any order, which is kept.
      dtype: of the ids.
    """
    documents = list(documents)
    digests = b''.join(document.digest for document in documents)
    lengths = [document.line_lengths for document in documents]
    return cls(
      np.frombuffer(digests, '>u8').reshape(-1, 2).astype(np.uint64),
      np.array([document.text_bytes for document in documents], np.uint32),
      np.array([len(of_one) for of_one in lengths], np.uint32),
      np.concatenate([np.zeros(0, np.uint32), *lengths], dtype=np.uint32),
      np.concatenate(
        [np.zeros(0, dtype), *(document.ids for document in documents)],
        dtype=dtype,
      ),
    )

  @classmethod
  def joined(cls, parts: Sequence['Documents']) -> 'Documents':
    """All documents of several tables, in their order; at least one table."""
    return cls(
      *(np.concatenate(columns) for columns in zip(*parts, strict=True))
    )

  def bounds(self) -> tuple[np.ndarray, np.ndarray]:
    """Where documents begin among the lines, and lines among the ids.

    Returns:
      int64 [n + 1], int64 [lines + 1]; each ends with the total.
    """
    return _bounds(self.line_counts), _bounds(self.line_lengths)


def _bounds(sizes: np.ndarray) -> np.ndarray:
  return np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])


@dataclasses.dataclass(frozen=True)
class Sharding:
  """Which shard a document belongs to.

  Attributes:
    train: shards to train on, at least 1.
    heldout: shards to evaluate on; 0 only where nothing is held out.
    heldout_fraction: share of the documents to hold out.
  """

  train: int
  heldout: int
  heldout_fraction: float

  @property
  def names(self) -> list[str]:
    """Of all shards; those to train on come first."""
    return [f'train-{k:05}' for k in range(self.train)] + [
      f'heldout-{k:05}' for k in range(self.heldout)
    ]

  def is_heldout(self, digest: bytes) -> bool:
    """Whether a document is held out: a coin thrown by its digest."""
    number = int.from_bytes(digest[:8], 'big')
    return number < self.heldout_fraction * 2**64

  def shard_of(self, digest: bytes) -> int:
    """The place in `names` of a document's shard.

    Args:
      digest: of the document.

    Returns:
      The same for the same text, wherever and whenever it is met.
    """
    # The other half of the digest: the first decides who is held out.
    number = int.from_bytes(digest[8:], 'big')
    if self.is_heldout(digest):
      return self.train + number % self.heldout
    return number % self.train


@dataclasses.dataclass(frozen=True)
class Tokenise:
  """Turns blocks of text into documents; a pure function of each block.

  Attributes:
    tokenizer: gives the ids.
    sharding: says where documents go.
  """

  tokenizer: Tokenizer
  sharding: Sharding

  @property
  def dtype(self) -> np.dtype:
    """Of the ids: the narrower of two that holds the vocabulary."""
    return np.dtype('<u2' if self.tokenizer.vocab_size <= 2**16 else '<i4')

  def __call__(self, block: Block) -> Iterator[tuple[int, Document]]:
    """Tokenises every document of a block.

    Args:
      block: documents as lists of lines.

    Yields:
      Shard and document, in the order of the block.
    """
    # Line by line, for sentences are lines; a document's ids are the same as
    # if it were encoded as a whole, since no piece goes over a line's end.
    encoded = self.tokenizer.encode_batch(list(itertools.chain(*block)))
    lengths = np.fromiter(map(len, encoded), np.uint32, len(encoded))
    ids = np.fromiter(
      itertools.chain.from_iterable(encoded),
      self.dtype,
      int(lengths.sum(dtype=np.int64)),
    )
    line = token = 0
    for lines in block:
      text = '\n'.join(lines).encode('utf-8')
      of_lines = lengths[line : line + len(lines)]
      line += len(lines)
      num_tokens = int(of_lines.sum(dtype=np.int64))
      digest = hashlib.sha256(text).digest()[:_DIGEST_BYTES]
      document = Document(
        digest, len(text), of_lines, ids[token : token + num_tokens]
      )
      token += num_tokens
      yield self.sharding.shard_of(digest), document
