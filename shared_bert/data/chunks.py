"""Documents to rows: tokenised, cut, and dealt out to train or held-out."""

import collections
import concurrent.futures
import dataclasses
import hashlib
import itertools
import multiprocessing
import os
from collections.abc import Iterable, Iterator

import numpy as np

from shared_bert.data.tokenizer import Tokenizer

Block = list[list[str]]  # documents, each a list of lines

# A shorter rest of a document teaches little and costs a whole row.
SHORTEST_CHUNK = 8


@dataclasses.dataclass(frozen=True)
class BlockRows:
  """What became of a block of documents.

  Attributes:
    train: int32 [n, S].
    heldout: int32 [m, S].
    counts: `documents`, `heldout_documents`, `tokens` (in rows, without
      `[CLS]` and `[SEP]`), `unknown_tokens` of them, `dropped_tokens`.
  """

  train: np.ndarray
  heldout: np.ndarray
  counts: collections.Counter


@dataclasses.dataclass(frozen=True)
class Chunker:
  """Turns blocks of documents into rows; a pure function of each block.

  Attributes:
    tokenizer: gives the ids.
    seq_len: S.
    heldout_fraction: share of the documents to hold out.
  """

  tokenizer: Tokenizer
  seq_len: int
  heldout_fraction: float

  def __call__(self, block: Block) -> BlockRows:
    """Cuts every document of a block.

    Args:
      block: documents as lists of lines.

    Returns:
      Their rows, in the order of the documents.
    """
    encoded = iter(self.tokenizer.encode_batch(list(itertools.chain(*block))))
    rows: tuple[list, list] = [], []
    counts = collections.Counter(documents=len(block))
    for lines in block:
      ids = list(
        itertools.chain.from_iterable(itertools.islice(encoded, len(lines)))
      )
      heldout = is_heldout(lines, self.heldout_fraction)
      cut = self._rows(np.array(ids, np.int32))
      kept = int(np.count_nonzero(cut[:, 1:] != self.tokenizer.pad_id))
      kept -= len(cut)  # the [SEP] of every row
      counts['heldout_documents'] += heldout
      counts['tokens'] += kept
      counts['dropped_tokens'] += len(ids) - kept
      counts['unknown_tokens'] += int(
        np.count_nonzero(cut == self.tokenizer.unk_id)
      )
      rows[heldout].append(cut)
    nothing = np.zeros((0, self.seq_len), np.int32)
    train, heldout_rows = (np.concatenate([nothing, *side]) for side in rows)
    return BlockRows(train, heldout_rows, counts)

  def _rows(self, ids: np.ndarray) -> np.ndarray:
    """`[CLS] chunk [SEP]` for each chunk of a document, int32 [n, S]."""
    room = self.seq_len - 2
    num_full, rest = divmod(len(ids), room)
    num_rows = num_full + (rest >= SHORTEST_CHUNK)
    rows = np.full((num_rows, self.seq_len), self.tokenizer.pad_id, np.int32)
    rows[:, 0] = self.tokenizer.cls_id
    rows[:num_full, 1:-1] = ids[: num_full * room].reshape(num_full, room)
    rows[:num_full, -1] = self.tokenizer.sep_id
    if num_rows > num_full:
      rows[-1, 1 : rest + 1] = ids[num_full * room :]
      rows[-1, rest + 1] = self.tokenizer.sep_id
    return rows


def is_heldout(lines: list[str], fraction: float) -> bool:
  """Whether a document is held out: a coin thrown by the hash of its text.

  Args:
    lines: the document's lines.
    fraction: share of all documents to hold out.

  Returns:
    The same for the same text, wherever and whenever it is met.
  """
  digest = hashlib.sha256('\n'.join(lines).encode('utf-8')).digest()
  return int.from_bytes(digest[:8], 'big') < fraction * 2**64


def chunk_in_order(
  chunker: Chunker, blocks: Iterable[Block], workers: int
) -> Iterator[BlockRows]:
  """Chunks blocks, in this process or in others.

  Args:
    chunker: does the work.
    blocks: read as a stream, a few ahead of what is yielded.
    workers: processes; 1 is this one.

  Yields:
    The rows of every block, in the order of the blocks.
  """
  if workers <= 1:
    yield from map(chunker, blocks)
    return
  # Spawned, not forked: threads of the tokenizer may hold locks by now.
  with concurrent.futures.ProcessPoolExecutor(
    workers,
    mp_context=multiprocessing.get_context('spawn'),
    initializer=_start_worker,
    initargs=(chunker,),
  ) as pool:
    pending: collections.deque = collections.deque()
    for block in blocks:
      pending.append(pool.submit(_chunk, block))
      if len(pending) > 2 * workers:
        yield pending.popleft().result()
    while pending:
      yield pending.popleft().result()


_chunker: Chunker | None = None


def _start_worker(chunker: Chunker) -> None:
  """Keeps the chunker in a worker: a vocabulary is sent once, not per block."""
  global _chunker
  # One thread each: the processes share the cores already.
  os.environ['TOKENIZERS_PARALLELISM'] = 'false'
  _chunker = chunker


def _chunk(block: Block) -> BlockRows:
  assert _chunker is not None
  return _chunker(block)
