"""Answers as spans of a text: questions to rows, and logits to answers.

A context that is longer than a row is read in windows that overlap. What is
done here follows google-research/bert `run_squad.py` (Devlin et al., arXiv
1810.04805, section 4.2), whose constants are the defaults; only the answer is
cut out of the context by the tokenizer's own offsets, where `get_final_text`
has to guess them.
"""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from shared_bert.data.encoding import rows_of
from shared_bert.data.tokenizer import Tokenizer
from shared_bert.errors import UserError

# The flags of run_squad.py: max_seq_length, doc_stride, max_query_length,
# n_best_size, max_answer_length.
LONGEST_ROW = 384
STRIDE = 128
LONGEST_QUESTION = 64
N_BEST = 20
LONGEST_ANSWER = 30


@dataclasses.dataclass(frozen=True)
class Windows:
  """Q questions about contexts, as N rows of length S, N at least Q.

  Attributes:
    contexts: the Q texts.
    rows: `[CLS] question [SEP] window [SEP]`, as `rows_of` has them.
    question: int32 [N], which question a row belongs to, ascending.
    offsets: int32 [N, S, 2], the characters `context[start:end]` of a token of
      the context; [0, 0] on all others.
    is_max_context: bool [N, S]: of the windows that a token of the context is
      in, the one where it has most company on its poorer side. Each token is
      so in exactly one.
    num_cut: how many questions were too long and lost their end.
  """

  contexts: Sequence[str]
  rows: dict[str, np.ndarray]
  question: np.ndarray
  offsets: np.ndarray
  is_max_context: np.ndarray
  num_cut: int


@dataclasses.dataclass(frozen=True)
class Span:
  """A possible answer.

  Attributes:
    text: `context[start:end]`; empty for no answer.
    start: of its first character.
    end: behind its last character.
    logit: the sum of its two logits.
    start_logit: the one of its start.
    end_logit: the one of its end.
  """

  text: str
  start: int
  end: int
  logit: float
  start_logit: float
  end_logit: float


def encode_windows(
  tokenizer: Tokenizer,
  questions: Sequence[str],
  contexts: Sequence[str],
  seq_len: int,
  *,
  stride: int = STRIDE,
  longest_question: int = LONGEST_QUESTION,
  place: Callable[[int], str] = lambda index: f'text {index + 1}',
) -> Windows:
  """Encodes questions with all of their contexts.

  Source: run_squad.py, `convert_examples_to_features`. In short rows the
  question takes half of the room at most, and windows overlap by about half.

  Args:
    tokenizer: gives the ids.
    questions: Q texts.
    contexts: Q texts.
    seq_len: S, the length of a row.
    stride: tokens from the start of one window to that of the next.
    longest_question: tokens of a question; what is more is cut from its end.
    place: what errors call a question and its context, by their place from 0.

  Raises:
    UserError: a question or a context without tokens, or a row too short for
      one token of each.
    ValueError: the two lists of texts have different lengths.
  """
  if seq_len < 5:
    raise UserError(
      f'A sequence length of {seq_len} is too short: three special tokens and '
      'one token of question and context each take 5; raise data.seq_len.'
    )
  asked = tokenizer.encode_batch(questions)
  for number, ids in enumerate(asked):
    if not ids:
      raise _empty(place(number), 'question', questions[number])
  return windows_of(
    tokenizer,
    asked,
    contexts,
    seq_len,
    stride=stride,
    longest_question=longest_question,
    place=place,
  )


def windows_of(
  tokenizer: Tokenizer,
  asked: Sequence[list[int]],
  contexts: Sequence[str],
  seq_len: int,
  *,
  stride: int,
  longest_question: int,
  place: Callable[[int], str],
) -> Windows:
  """The windows of `encode_windows`, of questions that are ids already.

  Args:
    tokenizer: gives the ids of the contexts and the special tokens.
    asked: Q questions, the ids of each, without special tokens; a question
      that has none is asked nothing.
    contexts: as of `encode_windows`, like the rest.
    seq_len: S, at least 5.
    stride: tokens from the start of one window to that of the next.
    longest_question: tokens of a question.
    place: what errors call a context.

  Raises:
    UserError: a context without tokens.
    ValueError: the two lists have different lengths.
  """
  # Of one context there are often several questions.
  distinct = list(dict.fromkeys(contexts))
  encoded = tokenizer.encode_with_offsets(distinct)
  found = dict(zip(distinct, encoded, strict=True))
  longest_question = min(longest_question, (seq_len - 3) // 2)
  ids_a, ids_b, question, places = [], [], [], []
  for number, (ids, context) in enumerate(zip(asked, contexts, strict=True)):
    context_ids, offsets = found[context]
    if not context_ids:
      raise _empty(place(number), 'context', context)
    ids = ids[:longest_question]
    room = seq_len - 3 - len(ids)
    starts, lengths = _windows(len(context_ids), room, stride)
    owner = _max_context(starts, lengths)
    for window, (start, length) in enumerate(zip(starts, lengths, strict=True)):
      inside = slice(start, start + length)
      ids_a.append(ids)
      ids_b.append(context_ids[inside])
      question.append(number)
      places.append((offsets[inside], owner[inside] == window))
  rows = rows_of(tokenizer, ids_a, ids_b, seq_len)
  all_offsets = np.zeros((len(places), seq_len, 2), np.int32)
  is_max_context = np.zeros((len(places), seq_len), bool)
  for row, (offsets, is_max) in enumerate(places):
    first = len(ids_a[row]) + 2
    all_offsets[row, first : first + len(offsets)] = offsets
    is_max_context[row, first : first + len(offsets)] = is_max
  return Windows(
    contexts=contexts,
    rows=rows,
    question=np.array(question, np.int32),
    offsets=all_offsets,
    is_max_context=is_max_context,
    num_cut=sum(len(ids) > longest_question for ids in asked),
  )


def _empty(place: str, name: str, text: str) -> UserError:
  return UserError(
    f'{place} has an empty {name}, {text[:60]!r}: each should be a question '
    'and a context to find its answer in.'
  )


def best_spans(
  windows: Windows,
  number: int,
  start_logits: np.ndarray,
  end_logits: np.ndarray,
  *,
  n_best: int = N_BEST,
  longest_answer: int = LONGEST_ANSWER,
) -> tuple[list[Span], Span]:
  """The likeliest answers to one question.

  Source: run_squad.py, `write_predictions`: a span begins in its token's
  window of most context, and of equal texts the likeliest counts. There only
  the `n_best` starts and ends of a window are tried; here all are.

  Args:
    windows: as they were encoded.
    number: of the question, from 0.
    start_logits: float32 [N, S], of all windows.
    end_logits: float32 [N, S].
    n_best: spans to find; fewer where there are fewer.
    longest_answer: A, tokens of an answer.

  Returns:
    At least one span, the likeliest first; and that there is no answer, an
    empty span, whose logit is the least of any window's two at `[CLS]`. Without
    a threshold of its own (`--null_score_diff_threshold`) it competes with the
    others by its logit.

  Raises:
    UserError: logits that are not finite.
  """
  low, high = np.searchsorted(windows.question, [number, number + 1])
  starts, ends = start_logits[low:high], end_logits[low:high]
  offsets = windows.offsets[low:high]
  nulls = starts[:, 0] + ends[:, 0]
  least = nulls.argmin()
  null = Span(
    '', 0, 0, *map(float, (nulls[least], starts[least, 0], ends[least, 0]))
  )
  starts = np.where(windows.is_max_context[low:high], starts, -np.inf)
  ends = np.where(offsets[..., 1] > 0, ends, -np.inf)
  beyond = np.full((len(ends), longest_answer - 1), -np.inf, np.float32)
  # [W, S, A]: of a start, the ends from its own token on.
  ends = np.lib.stride_tricks.sliding_window_view(
    np.concatenate([ends, beyond], axis=1), longest_answer, axis=1
  )
  sums = starts[:, :, None] + ends
  flat = sums.ravel()
  if not np.isfinite([null.logit, flat.max()]).all():
    raise UserError(
      'the model computes NaN or infinities, which cannot be read as an '
      'answer: use an earlier checkpoint.'
    )
  # More than are wanted, since texts may repeat.
  count = min(n_best * longest_answer, len(flat))
  likeliest = np.argpartition(-flat, count - 1)[:count]
  likeliest = likeliest[np.lexsort((likeliest, -flat[likeliest]))]
  likeliest = likeliest[np.isfinite(flat[likeliest])]
  window, first, more = np.unravel_index(likeliest, sums.shape)
  context = windows.contexts[number]
  found: dict[str, Span] = {}
  for start, end, *logits in zip(
    offsets[window, first, 0],
    offsets[window, first + more, 1],
    flat[likeliest],
    starts[window, first],
    ends[window, first, more],
    strict=True,
  ):
    text = context[start:end]
    found.setdefault(
      text, Span(text, int(start), int(end), *map(float, logits))
    )
    if len(found) == n_best:
      break
  return list(found.values()), null


def probabilities(spans: Sequence[Span]) -> np.ndarray:
  """Softmax over the likeliest spans, float64 [n]; run_squad.py's."""
  logits = np.array([span.logit for span in spans])
  shares = np.exp(logits - logits.max())
  return shares / shares.sum()


def _windows(
  num_tokens: int, room: int, stride: int
) -> tuple[np.ndarray, np.ndarray]:
  """First tokens and lengths of the windows on a context, int64 [W] each."""
  stride = min(stride, (room + 1) // 2)
  count = 1 + max(0, -(-(num_tokens - room) // stride))
  starts = stride * np.arange(count)
  return starts, np.minimum(room, num_tokens - starts)


def _max_context(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
  """The window where each token has most context, int64 [T].

  Source: run_squad.py, `_check_is_max_context`: the lesser of the tokens to
  the left and to the right counts, and a hundredth of the window's length; the
  first window on a tie.
  """
  owner = np.zeros(starts[-1] + lengths[-1], np.int64)
  best = np.full(len(owner), -np.inf)
  for window, (start, length) in enumerate(zip(starts, lengths, strict=True)):
    left = np.arange(length)
    score = np.minimum(left, left[::-1]) + 0.01 * length
    inside = slice(start, start + length)
    better = score > best[inside]
    owner[inside][better] = window
    best[inside][better] = score[better]
  return owner
