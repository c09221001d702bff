"""Texts to padded rows: `[CLS] a [SEP]`, or `[CLS] a [SEP] b [SEP]`."""

from collections.abc import Sequence

import numpy as np

from shared_bert.data.tokenizer import Tokenizer
from shared_bert.errors import UserError


def encode_examples(
  tokenizer: Tokenizer,
  text_a: Sequence[str],
  text_b: Sequence[str] | None,
  seq_len: int,
) -> dict[str, np.ndarray]:
  """Encodes sentences or pairs of sentences as BERT's fine-tuning does.

  What does not fit is cut from the end: of the sentence, or of a pair's
  longer half, token by token (`truncated_lengths`). Source of layout and
  truncation: google-research/bert `run_classifier.py`,
  `convert_single_example`; only an empty second text differs, which keeps its
  `[SEP]` here, so that every row of a pair task has the same layout.

  Args:
    tokenizer: gives the ids.
    text_a: N texts.
    text_b: N texts, or `None` for a task on single sentences.
    seq_len: S, the length of a row.

  Returns:
    input_ids int32 [N, S]: the tokens, `[PAD]` behind them.
    token_type_ids int32 [N, S]: 1 on the second text and its `[SEP]`, else 0.
    segment_ids int32 [N, S]: 1 on tokens, 0 on padding.
    lengths int32 [N]: tokens in each row, special ones counted.

  Raises:
    UserError: `seq_len` has no room for one token of each text.
    ValueError: the two lists of texts have different lengths.
  """
  specials = 2 if text_b is None else 3
  texts = 1 if text_b is None else 2
  if seq_len < specials + texts:
    raise UserError(
      f'A sequence length of {seq_len} is too short: {specials} special '
      f'tokens and one token of each text take {specials + texts}; raise '
      'data.seq_len.'
    )
  if text_b is not None and len(text_a) != len(text_b):
    raise ValueError(f'{len(text_a)} first and {len(text_b)} second texts')
  return rows_of(
    tokenizer,
    tokenizer.encode_batch(text_a),
    None if text_b is None else tokenizer.encode_batch(text_b),
    seq_len,
  )


def rows_of(
  tokenizer: Tokenizer,
  encoded_a: list[list[int]],
  encoded_b: list[list[int]] | None,
  seq_len: int,
) -> dict[str, np.ndarray]:
  """The rows of `encode_examples`, of texts that are ids already.

  Args:
    tokenizer: gives the special tokens.
    encoded_a: N texts, the ids of each, without special tokens.
    encoded_b: N texts, or `None`.
    seq_len: S, with room for one token of each text.

  Returns:
    As `encode_examples`.
  """
  num_rows = len(encoded_a)
  columns = np.arange(seq_len)
  input_ids = np.full((num_rows, seq_len), tokenizer.pad_id, np.int32)
  input_ids[:, 0] = tokenizer.cls_id
  ids_a, lengths_a = _flatten(encoded_a)
  if encoded_b is None:
    kept_a = np.minimum(lengths_a, seq_len - 2)
    lengths = kept_a + 2
  else:
    ids_b, lengths_b = _flatten(encoded_b)
    kept_a, kept_b = truncated_lengths(lengths_a, lengths_b, seq_len - 3)
    lengths = kept_a + kept_b + 3
    _place(input_ids, ids_b, lengths_b, kept_b, kept_a + 2)
  _place(input_ids, ids_a, lengths_a, kept_a, np.ones_like(kept_a))
  # On single sentences the two are the same place.
  for sep in (kept_a + 1, lengths - 1):
    input_ids[np.arange(num_rows), sep] = tokenizer.sep_id
  segment_ids = (columns < lengths[:, None]).astype(np.int32)
  token_type_ids = segment_ids * (columns >= kept_a[:, None] + 2)
  return {
    'input_ids': input_ids,
    'token_type_ids': token_type_ids.astype(np.int32),
    'segment_ids': segment_ids,
    'lengths': lengths.astype(np.int32),
  }


def truncated_lengths(
  lengths_a: np.ndarray, lengths_b: np.ndarray, room: int
) -> tuple[np.ndarray, np.ndarray]:
  """How much of each pair stays when the longer half is cut first.

  The closed form of `_truncate_seq_pair` in google-research/bert
  `run_classifier.py`, which pops the last token of the longer text, of the
  second on a tie, until both fit: a text is cut only down to its half of the
  room (the odd place is the first text's), or to what the other leaves free.

  Args:
    lengths_a: int [N], tokens of the first texts.
    lengths_b: int [N], tokens of the second texts.
    room: tokens that a pair may have together.

  Returns:
    Two int64 [N]: tokens kept of the first and of the second texts.
  """
  lengths_a = np.asarray(lengths_a, np.int64)
  lengths_b = np.asarray(lengths_b, np.int64)
  half_a, half_b = (room + 1) // 2, room // 2
  kept_a = np.minimum(lengths_a, np.maximum(half_a, room - lengths_b))
  kept_b = np.minimum(lengths_b, np.maximum(half_b, room - lengths_a))
  return kept_a, kept_b


def _flatten(encoded: list[list[int]]) -> tuple[np.ndarray, np.ndarray]:
  """All ids end to end, int32 [T], and how many each text has, int64 [N]."""
  lengths = np.fromiter(map(len, encoded), np.int64, len(encoded))
  ids = np.fromiter(
    (i for text in encoded for i in text), np.int32, int(lengths.sum())
  )
  return ids, lengths


def _place(
  target: np.ndarray,
  ids: np.ndarray,
  lengths: np.ndarray,
  kept: np.ndarray,
  first_column: np.ndarray,
) -> None:
  """Writes the first `kept[n]` ids of text n into row n of `target`."""
  starts = np.cumsum(lengths) - lengths
  row = np.repeat(np.arange(len(lengths)), kept)
  offset = np.arange(len(row)) - np.repeat(np.cumsum(kept) - kept, kept)
  target[row, first_column[row] + offset] = ids[starts[row] + offset]
