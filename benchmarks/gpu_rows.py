"""Rows of made-up words, packed and padded, for `gpu.py`."""

import numpy as np

from shared_bert.data import masking
from shared_bert.data.packing import pack
from shared_bert.data.tokenizer import SPECIAL_TOKENS, Tokenizer

MASK_RATIO = 0.15


def layout(
  tokenizer: Tokenizer, lengths: np.ndarray, length: int, packed: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
  """Segments `[CLS] words [SEP]` in rows, the same words however they lie.

  Args:
    tokenizer: of the words.
    lengths: int [n], of segments, with their two special tokens.
    length: S.
    packed: whether segments share rows; else each has its own.

  Returns:
    `input_ids` and `segment_ids`, int32 [B, S]; and of each segment its row and
    where it begins there, int64 [n].
  """
  if packed:
    row, place, rows = pack(lengths, length)
  else:
    rows = len(lengths)
    row, place = np.arange(rows), np.zeros(rows, np.int64)
  ids = np.full((rows, length), tokenizer.pad_id, np.int32)
  segments = np.zeros((rows, length), np.int32)
  rng = np.random.default_rng(0)
  numbers = np.zeros(rows, np.int32)
  for size, r, start in zip(lengths, row, place, strict=True):
    words = rng.integers(len(SPECIAL_TOKENS), tokenizer.vocab_size, size)
    words[0], words[-1] = tokenizer.cls_id, tokenizer.sep_id
    numbers[r] += 1
    ids[r, start : start + size] = words
    segments[r, start : start + size] = numbers[r]
  return ids, segments, row, place


def masked_rows(
  tokenizer: Tokenizer, lengths: np.ndarray, length: int, packed: bool
) -> dict[str, np.ndarray]:
  """Rows with the same words masked, however they lie.

  Args:
    tokenizer: of the words.
    lengths: int [n], of segments.
    length: S.
    packed: whether segments share rows.

  Returns:
    What `MaskedModel.loss_sums` takes.
  """
  ids, segments, row, place = layout(tokenizer, lengths, length, packed)
  slots = masking.default_num_predictions(length, MASK_RATIO)
  shape = (len(ids), slots)
  positions, labels = np.zeros(shape, np.int32), np.zeros(shape, np.int32)
  weights, used = np.zeros(shape, np.float32), np.zeros(len(ids), int)
  rng = np.random.default_rng(1)
  for size, r, start in zip(lengths, row, place, strict=True):
    # Rounded down, so that a full row has slots for all its segments.
    count = int(MASK_RATIO * size)
    chosen = start + 1 + rng.choice(size - 2, count, replace=False)
    here = slice(used[r], used[r] + count)
    positions[r, here], weights[r, here] = chosen, 1
    labels[r, here] = ids[r, chosen]
    ids[r, chosen] = tokenizer.mask_id
    used[r] += count
  return {
    'input_ids': ids,
    'segment_ids': segments,
    'token_type_ids': np.zeros_like(ids),
    'masked_positions': positions,
    'masked_labels': labels,
    'masked_weights': weights,
  }


def lengths_like_wikipedia(places: int, length: int) -> np.ndarray:
  """Lengths of segments whose mean is that of Wikipedia in MLPerf's BERT.

  There 156,726,829 sequences of at most 512 tokens make 78,404,631 rows of 512
  (`input_preprocessing/packed_data/README.md` of its reference), which are next
  to full: the mean is 254. Only this mean is known here, so the lengths are
  spread evenly, from a sixtieth of a row up to what makes it 254/512 of one.

  Args:
    places: in all rows; as many segments are drawn as fill 0.98 of them.
    length: S.

  Returns:
    int [n], each at least 4 and at most S.
  """
  mean, least = 254 / 512 * length, max(4, length // 60)
  most = min(length, round(2 * mean - least))
  count = max(1, round(0.98 * places / mean))
  lengths = np.linspace(least, most, count).round().astype(int)
  return np.random.default_rng(2).permutation(lengths)
