"""What there is to know of a corpus before hours are spent on it."""

import io
from collections.abc import Iterable
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

# All in pixels.
_WIDTH, _HEIGHT, _MARGIN, _LINE = 720, 340, 16, 18
_BAR_SHARE = 0.8
_INK, _FAINT, _PAPER = (32, 33, 36), (95, 99, 104), (255, 255, 255)
_BAR = (21, 101, 192)


def total_counts(counts: Iterable[dict[str, Any]]) -> dict[str, Any]:
  """Adds up the counts of shards; at least one."""
  counts = list(counts)
  return {
    key: np.sum([of_one[key] for of_one in counts], axis=0).tolist()
    for key in counts[0]
  }


def make_audit(
  train: dict[str, Any],
  heldout: dict[str, Any] | None,
  seq_len: int,
  deduplicated: bool,
) -> dict[str, Any]:
  """Counts and shares of a corpus.

  Args:
    train: counts of the rows to train on, as of `ShardRows`, added up.
    heldout: of those held out, or None.
    seq_len: S.
    deduplicated: whether copies of documents were dropped.

  Returns:
    What `audit.json` holds. Lengths are in tokens; `documents_by_length` has
    the documents from one power of two to the next, copies included.
  """
  total = total_counts([train, heldout] if heldout else [train])
  out_of = heldout or dict.fromkeys(train, 0)
  in_text = total['text_tokens']
  used = total['tokens'] + total['special_tokens']

  def share(part: int, whole: int) -> float:
    return round(part / max(1, whole), 6)

  filled = share(used, total['rows'] * seq_len)
  return {
    'seq_len': seq_len,
    'text_bytes': total['text_bytes'],
    'documents': total['documents'],
    'heldout_documents': out_of['documents'],
    'heldout_share': share(out_of['documents'], total['documents']),
    'duplicate_documents': total['duplicate_documents'],
    'duplicate_share': share(total['duplicate_documents'], total['documents']),
    'deduplicated': deduplicated,
    'tokens': total['tokens'],
    'unknown_tokens': total['unknown_tokens'],
    'unknown_share': share(total['unknown_tokens'], total['tokens']),
    'dropped_tokens': total['dropped_tokens'],
    'dropped_share': share(total['dropped_tokens'], in_text),
    'duplicate_tokens': total['duplicate_tokens'],
    'cut_documents': total['cut_documents'],
    'cut_share': share(total['cut_documents'], total['documents']),
    'mean_document_tokens': round(in_text / max(1, total['documents']), 1),
    'rows': total['rows'] - out_of['rows'],
    'heldout_rows': out_of['rows'],
    'segments': total['segments'],
    'packing_efficiency': filled,
    'padding_share': round(1 - filled, 6),
    'documents_by_length': _histogram(total['lengths']),
  }


def _histogram(by_bits: list[int]) -> list[dict[str, int]]:
  """Documents by the bits of their lengths, without empty ends."""
  present = np.flatnonzero(by_bits)
  if not len(present):
    return []
  return [
    {
      'from': 2**bits // 2,
      'to': max(0, 2**bits - 1),
      'documents': by_bits[bits],
    }
    for bits in range(present[0], present[-1] + 1)
  ]


def describe(audit: dict[str, Any]) -> list[str]:
  """The audit as lines to print."""
  removed = 'dropped' if audit['deduplicated'] else 'kept'
  lines = [
    f'documents   {audit["documents"]:,} of '
    f'{audit["mean_document_tokens"]:,.0f} tokens on average, '
    f'{audit["heldout_documents"]:,} held out ({audit["heldout_share"]:.2%})',
    f'duplicates  {audit["duplicate_documents"]:,} exact copies '
    f'({audit["duplicate_share"]:.2%}), {removed}'
    + (
      '; --deduplicate drops them'
      if audit['duplicate_documents'] and not audit['deduplicated']
      else ''
    ),
    f'tokens      {audit["tokens"]:,}, {audit["unknown_share"]:.2%} unknown',
    f'cut         {audit["cut_documents"]:,} documents are longer than a row '
    f'({audit["cut_share"]:.1%}); {audit["dropped_tokens"]:,} tokens dropped '
    f'({audit["dropped_share"]:.2%})',
    f'rows        {audit["rows"]:,} of {audit["seq_len"]} and '
    f'{audit["heldout_rows"]:,} held out, {audit["segments"]:,} segments',
    f'packing     {audit["packing_efficiency"]:.2%} full, '
    f'{audit["padding_share"]:.2%} padding',
    'length      documents',
  ]
  histogram = audit['documents_by_length']
  most = max((entry['documents'] for entry in histogram), default=1)
  for entry in histogram:
    bar = '#' * round(40 * entry['documents'] / most)
    line = f'{_range(entry):>15} {entry["documents"]:>11,}  {bar}'
    lines.append(line.rstrip())
  return lines


def _range(entry: dict[str, int]) -> str:
  if entry['from'] == entry['to']:
    return f'{entry["from"]}'
  return f'{entry["from"]:,}-{entry["to"]:,}'


def draw(audit: dict[str, Any]) -> bytes:
  """Draws the documents by length.

  Args:
    audit: of `make_audit`.

  Returns:
    A PNG.
  """
  histogram = audit['documents_by_length']
  image = Image.new('RGB', (_WIDTH, _HEIGHT), _PAPER)
  drawing = ImageDraw.Draw(image)
  large, small = ImageFont.load_default(14), ImageFont.load_default(11)
  title = (
    f'{audit["documents"]:,} documents by length in tokens '
    f'(mean {audit["mean_document_tokens"]:,.0f})'
  )
  drawing.text((_MARGIN, _MARGIN), title, _INK, large)
  bottom, top = _HEIGHT - _MARGIN - _LINE, _MARGIN + 3 * _LINE
  width = (_WIDTH - 2 * _MARGIN) / max(1, len(histogram))
  most = max((entry['documents'] for entry in histogram), default=1)
  for place, entry in enumerate(histogram):
    middle = _MARGIN + width * (place + 0.5)
    half = width * _BAR_SHARE / 2
    y = bottom - round((bottom - top) * entry['documents'] / most)
    # At least a line, so that few are told from none.
    if entry['documents']:
      box = (round(middle - half), min(y, bottom - 1))
      drawing.rectangle((*box, round(middle + half), bottom), fill=_BAR)
    number = _short(entry['documents'])
    drawing.text((middle, y - 4), number, _FAINT, small, anchor='ms')
    label = f'{_short(entry["from"])}+'
    drawing.text((middle, bottom + 4), label, _INK, small, anchor='ma')
  drawing.line((_MARGIN, bottom, _WIDTH - _MARGIN, bottom), _FAINT)
  stream = io.BytesIO()
  image.save(stream, 'PNG')
  return stream.getvalue()


def _short(number: int) -> str:
  """At most five characters, which fit below a bar."""
  for size, letter in ((10**9, 'G'), (10**6, 'M'), (10**4, 'k')):
    if number >= size:
      return f'{number / (1000 if letter == "k" else size):.3g}{letter}'
  return str(number)
