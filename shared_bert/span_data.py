"""Questions and contexts as a model meets them: windows, and answers of logits.

What fine-tuning and evaluating share; `data/squad.py` reads the files and
`data/spans.py` cuts the windows.
"""

import dataclasses
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from shared_bert.data import spans, squad
from shared_bert.data.batches import epoch_rows
from shared_bert.data.spans import Span, Windows
from shared_bert.data.squad import Questions
from shared_bert.data.tokenizer import Tokenizer
from shared_bert.errors import UserError
from shared_bert.training.logging import say

Arrays = dict[str, np.ndarray]
# Questions that are encoded at once, so that of the training set only the rows
# stay, in bytes and 16-bit words: an eighth of all that is made of it.
_AT_ONCE = 4096


@dataclasses.dataclass
class SpanData:
  """SQuAD's splits, as texts and as rows of windows.

  Attributes:
    keys: the `data` keys of the config.
    splits: questions by split: `train`, if it is wanted, and `dev`.
    arrays: by split `input_ids`, `token_type_ids`, `segment_ids`, integers
      [N, S] of N windows, and `lengths` [N]; of `train` also
      `start_positions` and `end_positions` [N], the first and the last token
      of the answer, 0, which is [CLS], in windows without it.
    windows: of the splits to evaluate.
    num_without_tokens: training questions whose answer no token is of.
  """

  keys: ConfigDict
  splits: dict[str, Questions]
  arrays: dict[str, Arrays] = dataclasses.field(default_factory=dict)
  windows: dict[str, Windows] = dataclasses.field(default_factory=dict)
  num_without_tokens: int = 0

  name = 'squad'
  label_names = ()
  pooled_outputs = 0

  @property
  def targets(self) -> dict[str, Any]:
    """What the loss reads besides the rows: dtype by name, of shape [B]."""
    return {'start_positions': np.int32, 'end_positions': np.int32}

  @property
  def scored(self) -> tuple[str, ...]:
    """The splits to evaluate."""
    return tuple(split for split in self.splits if split != 'train')

  @property
  def best_metric(self) -> str:
    """What chooses the best checkpoint."""
    return f'{self.scored[0]}/f1'

  @property
  def training_texts(self) -> list[str]:
    """Those that a vocabulary may be made of."""
    train = self.splits['train']
    return [*train.texts, *dict.fromkeys(train.contexts)]

  def training_rows(
    self, tokenizer: Tokenizer | None, seq_len: int
  ) -> int | None:
    """How many rows an epoch has: windows, which only a tokenizer knows."""
    if tokenizer is None:
      return None
    return len(self._training_rows(tokenizer, seq_len)[0]['lengths'])

  def fingerprint(self) -> str:
    """As `squad.fingerprint`, of all splits."""
    return squad.fingerprint(self.splits)

  def head(self, rows: int) -> 'SpanData':
    """The same with at most `rows` questions in each split but `train`."""

    def cut(windows: Windows) -> Windows:
      last = np.searchsorted(windows.question, rows)
      return dataclasses.replace(
        windows,
        rows={name: array[:last] for name, array in windows.rows.items()},
        question=windows.question[:last],
        offsets=windows.offsets[:last],
        is_max_context=windows.is_max_context[:last],
      )

    windows = {split: cut(it) for split, it in self.windows.items()}
    return dataclasses.replace(
      self,
      splits={
        split: it if split == 'train' else it.take(range(min(rows, len(it))))
        for split, it in self.splits.items()
      },
      windows=windows,
      arrays=self.arrays | {split: it.rows for split, it in windows.items()},
    )

  def encode(self, tokenizer: Tokenizer, seq_len: int) -> 'SpanData':
    """The same with its splits as windows.

    Args:
      tokenizer: gives the ids.
      seq_len: S.

    Raises:
      UserError: a question or a context without tokens, or `seq_len` has no
        room.
    """
    windows = {
      split: self._windows(tokenizer, self.splits[split], seq_len)
      for split in self.scored
    }
    found = dataclasses.replace(
      self,
      windows=windows,
      arrays={split: it.rows for split, it in windows.items()},
    )
    if 'train' in self.splits:
      rows, absent = self._training_rows(tokenizer, seq_len)
      # The first split is the one that is trained on, as the plan shows it.
      found.arrays = {'train': rows, **found.arrays}
      found.num_without_tokens = absent
    return found

  def _windows(
    self,
    tokenizer: Tokenizer,
    questions: Questions,
    seq_len: int,
    asked: list[list[int]] | None = None,
  ) -> Windows:
    cutting = {
      'stride': self.keys.stride,
      'longest_question': self.keys.question_length,
      'place': questions.place,
    }
    texts, contexts = questions.texts, questions.contexts
    if asked is None:
      return spans.encode_windows(
        tokenizer, texts, contexts, seq_len, **cutting
      )
    return spans.windows_of(tokenizer, asked, contexts, seq_len, **cutting)

  def asked_otherwise(
    self,
    split: str,
    asked: list[list[int]],
    tokenizer: Tokenizer,
    seq_len: int,
  ) -> Windows:
    """The windows of a split whose questions have changed.

    Args:
      split: one to evaluate, of Q questions.
      asked: Q questions as ids, without special tokens.
      tokenizer: that encoded the split.
      seq_len: S.
    """
    return self._windows(tokenizer, self.splits[split], seq_len, asked)

  def _training_rows(
    self, tokenizer: Tokenizer, seq_len: int
  ) -> tuple[Arrays, int]:
    """Rows with the answers' positions, and questions that have none."""
    train = self.splits['train']
    word = np.uint16 if tokenizer.vocab_size <= 2**16 else np.int32
    kinds = {
      'input_ids': word,
      'token_type_ids': np.uint8,
      'segment_ids': np.uint8,
    }
    parts, absent = [], 0
    for start in range(0, len(train), _AT_ONCE):
      some = train.take(range(start, min(start + _AT_ONCE, len(train))))
      windows = self._windows(tokenizer, some, seq_len)
      found = [
        squad.locate(context, *gold[0]) if gold else None
        for context, gold in zip(some.contexts, some.answers, strict=True)
      ]
      first, last, kept = answer_positions(windows, found)
      absent += len(some) - len(np.unique(windows.question[kept]))
      rows = {
        name: array[kept].astype(kinds.get(name, np.int32))
        for name, array in windows.rows.items()
      }
      parts.append(
        rows | {'start_positions': first[kept], 'end_positions': last[kept]}
      )
    joined = {
      name: np.concatenate([part[name] for part in parts]) for name in parts[0]
    }
    if not len(joined['lengths']):
      raise UserError(
        f'data.train_file={train.path}: the tokens of the vocabulary are in no '
        'answer: bring another vocabulary.'
      )
    return joined, absent

  def describe(self, tokenizer: Tokenizer, seq_len: int) -> list[str]:
    """What the data is, in lines of a plan.

    Args:
      tokenizer: that encoded it.
      seq_len: S.
    """
    sizes = ', '.join(
      f'{split} {len(it):,} in {len(self.arrays[split]["lengths"]):,} windows'
      + ('' if split == 'train' else f' ({_version(it)})')
      for split, it in self.splits.items()
    )
    arrays = next(iter(self.arrays.values()))
    lengths = arrays['lengths']
    lines = [
      f'task        {self.name}: {sizes}',
      f'rows        up to {seq_len} tokens, {lengths.mean():.1f} on average, '
      f'{(lengths == seq_len).mean():.1%} of them full; '
      f'{tokenizer.vocab_size:,} word pieces',
    ]
    if 'start_positions' in arrays:
      share = (arrays['start_positions'] > 0).mean()
      lines.append(f'answers     in {share:.1%} of the training windows')
    if self.num_without_tokens:
      lines.append(
        f'{"":12}no token is of those to {self.num_without_tokens:,} questions,'
        ' which are left out'
      )
    return lines


def load(data: ConfigDict, *, evaluating: bool = False) -> SpanData:
  """The splits that the `data` keys of a config name, not yet encoded.

  Args:
    data: as in `span_config.squad_defaults`.
    evaluating: only those to evaluate; otherwise all.

  Returns:
    The data; says how many questions cannot be trained on.

  Raises:
    UserError: for files that are missing or hold what they should not, or have
      fewer questions than are asked for.
  """
  splits = {}
  for split in ('dev',) if evaluating else ('train', 'dev'):
    key = f'data.{split}_file'
    found = squad.read(data[f'{split}_file'], key, training=split == 'train')
    if found.num_skipped:
      say(
        f'{split}: {found.num_skipped:,} questions left out, whose answer is '
        'not where answer_start says'
      )
    splits[split] = _drawn(found, f'data.{split}_questions', data)
  return SpanData(data, splits)


def _drawn(questions: Questions, key: str, data: ConfigDict) -> Questions:
  """As many as are asked for, the same whatever the run's seed."""
  count = data[key.removeprefix('data.')]
  if not count:
    return questions
  if count > len(questions):
    raise UserError(
      f'{key}={count:,} asks for more questions than {questions.path} has, '
      f'{len(questions):,}: lower it, or set 0 for all.'
    )
  chosen, _ = epoch_rows(len(questions), 0, 0, count)
  return questions.take(sorted(chosen.tolist()))


def _version(questions: Questions) -> str:
  return f'version {"2.0" if questions.has_unanswerable else "1.1"}'


def answer_positions(
  windows: Windows, answers: list[tuple[int, int] | None]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """The tokens that an answer begins and ends with, in each window.

  The fewest tokens that cover it. Source: run_squad.py,
  `convert_examples_to_features`: in a window that does not hold all of the
  answer, and where there is none, both are 0, which is [CLS].

  Args:
    windows: N, of Q questions.
    answers: Q, the characters `context[start:end]` of each, or None.

  Returns:
    int32 [N] both, and bool [N], whether to keep the window: not that of a
    question whose answer no token is of.
  """
  span = np.array([pair or (0, 0) for pair in answers], np.int64)
  start, end = span[windows.question].T[..., None]
  left, right = windows.offsets[..., 0], windows.offsets[..., 1]
  of_answer = (right > start) & (left < end) & (right > left)
  # The ends of the answer's tokens, of whatever window they are in.
  none = np.iinfo(np.int32).max
  firsts, lasts = np.full((2, len(answers)), none)
  lasts[:] = -1
  rows, columns = np.nonzero(of_answer)
  np.minimum.at(firsts, windows.question[rows], left[rows, columns])
  np.maximum.at(lasts, windows.question[rows], right[rows, columns])
  begins = of_answer & (left == firsts[windows.question][:, None])
  finishes = of_answer & (right == lasts[windows.question][:, None])
  is_whole = begins.any(axis=1) & finishes.any(axis=1)
  first = np.where(is_whole, begins.argmax(axis=1), 0)
  last = finishes.shape[1] - 1 - finishes[:, ::-1].argmax(axis=1)
  has_tokens = np.array([pair is None for pair in answers]) | (lasts >= 0)
  return (
    first.astype(np.int32),
    np.where(is_whole, last, 0).astype(np.int32),
    has_tokens[windows.question],
  )


@dataclasses.dataclass(frozen=True)
class Answers:
  """What a model says to the questions of a split, by their ids.

  Attributes:
    predictions: the answers; empty for none.
    nbest: of each the likeliest, as run_squad.py's `nbest_predictions.json`.
    null_odds: of version 2.0, the logits of no answer less those of the best
      one; None of version 1.1.
  """

  predictions: dict[str, str]
  nbest: dict[str, list[dict[str, Any]]]
  null_odds: dict[str, float] | None


def answers_of(
  questions: Questions,
  windows: Windows,
  starts: np.ndarray,
  ends: np.ndarray,
  keys: ConfigDict,
) -> Answers:
  """The answers that logits mean.

  Source: run_squad.py, `write_predictions`.

  Args:
    questions: Q.
    windows: N, of these.
    starts: logits of the answers' first tokens, float32 [N, S].
    ends: of their last ones.
    keys: the `data` keys of the config.

  Raises:
    UserError: logits that are not finite.
  """
  # None is longer than a row, and room is made for as many ends.
  longest = min(keys.answer_length, starts.shape[1])
  predictions, nbest, odds = {}, {}, {}
  for number, name in enumerate(questions.ids):
    found, null = spans.best_spans(
      windows, number, starts, ends, n_best=keys.n_best, longest_answer=longest
    )
    predictions[name] = found[0].text
    if questions.has_unanswerable:
      odds[name] = null.logit - found[0].logit
      if odds[name] > keys.null_threshold:
        predictions[name] = ''
      found = sorted([*found, null], key=lambda span: -span.logit)
      found = found[: keys.n_best]
      if null not in found:  # which is always shown
        found.append(null)
    nbest[name] = _shown(found)
  return Answers(
    predictions, nbest, odds if questions.has_unanswerable else None
  )


def _shown(found: list[Span]) -> list[dict[str, Any]]:
  return [
    {
      'text': span.text,
      'probability': float(share),
      'start_logit': span.start_logit,
      'end_logit': span.end_logit,
    }
    for span, share in zip(found, spans.probabilities(found), strict=True)
  ]
