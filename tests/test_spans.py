"""Questions to windows, logits to answers: nothing lost, nothing shifted."""

import json

import numpy as np
import pytest

from shared_bert.data import spans
from shared_bert.data.tokenizer import SPECIAL_TOKENS, Tokenizer
from shared_bert.errors import UserError

WORDS = [f'w{i}' for i in range(100)]
TOKENIZER = Tokenizer.from_vocab([*SPECIAL_TOKENS, *WORDS])


def text_of(count, first=0):
  return ' '.join(WORDS[(first + i) % 100] for i in range(count))


def check_is_max_context(starts_and_lengths, window, position):
  """The reference: google-research/bert run_squad.py, as published."""
  best_score, best_window = None, None
  for number, (start, length) in enumerate(starts_and_lengths):
    end = start + length - 1
    if position < start or position > end:
      continue
    score = min(position - start, end - position) + 0.01 * length
    if best_score is None or score > best_score:
      best_score, best_window = score, number
  return window == best_window


def doc_spans(num_tokens, room, stride):
  """The reference: `convert_examples_to_features` of the same file."""
  found, start = [], 0
  while start < num_tokens:
    length = min(num_tokens - start, room)
    found.append((start, length))
    if start + length == num_tokens:
      break
    start += min(length, stride)
  return found


@pytest.mark.parametrize('num_tokens', [1, 2, 21, 22, 23, 32, 33, 99, 150])
def test_windows_are_those_of_run_squad(num_tokens):
  context = text_of(num_tokens)
  windows = spans.encode_windows(
    TOKENIZER, ['w5 w7', 'w8'], [context, 'w1'], seq_len=27, stride=10
  )
  expected = doc_spans(num_tokens, room=22, stride=10)
  assert windows.question.tolist() == [0] * len(expected) + [1]
  ids = TOKENIZER.encode_batch([context])[0]
  for row, (start, length) in enumerate(expected):
    assert windows.rows['lengths'][row] == length + 5
    inside = slice(4, 4 + length)
    assert (
      windows.rows['input_ids'][row, inside].tolist()
      == (ids[start : start + length])
    )
    places = windows.offsets[row, inside].tolist()
    found = [TOKENIZER.vocab.index(context[a:b]) for a, b in places]
    assert found == ids[start : start + length]
    is_max = windows.is_max_context[row, inside].tolist()
    assert is_max == [
      check_is_max_context(expected, row, start + i) for i in range(length)
    ]
    # Nothing else is of the context.
    outside = np.delete(np.arange(27), inside)
    assert not windows.offsets[row, outside].any()
    assert not windows.is_max_context[row, outside].any()


@pytest.mark.parametrize('seq_len', [5, 6, 17, 64, 384])
@pytest.mark.parametrize('asked', [1, 9, 100])
def test_each_token_of_a_context_is_in_max_context_once(seq_len, asked):
  context = text_of(1000)
  windows = spans.encode_windows(
    TOKENIZER, [text_of(asked)], [context], seq_len
  )
  starts = windows.offsets[windows.is_max_context][:, 0]
  words = context.split()
  expected = np.cumsum([0, *(len(word) + 1 for word in words)])[:-1]
  assert sorted(starts) == expected.tolist()
  assert (windows.rows['lengths'] <= seq_len).all()
  assert windows.num_cut == (asked > min(64, (seq_len - 3) // 2))


def planted(windows, *places, noise=0):
  """Logits with the spans that `places` names: row, first, last, logit."""
  starts, ends = np.zeros((2, *windows.offsets.shape[:2]), np.float32)
  if noise:
    rng = np.random.default_rng(0)
    starts += noise * rng.normal(size=starts.shape)
    ends += noise * rng.normal(size=ends.shape)
  for row, first, last, logit in places:
    starts[row, first], ends[row, last] = logit, logit
  return starts, ends


def row_of(windows, word):
  """Row and column where a word of the context has its most context."""
  start = windows.contexts[0].index(word)
  is_word = (windows.offsets[..., 0] == start) & windows.is_max_context
  ((row, column),) = np.argwhere(is_word)
  return row, column


def test_a_planted_span_is_found_in_whatever_window_it_is():
  context = text_of(100)
  windows = spans.encode_windows(TOKENIZER, ['w1'], [context], 24)
  assert len(windows.question) > 8
  for first in range(0, 96, 5):
    row, column = row_of(windows, f'w{first}')
    logits = planted(windows, (row, column, column + 2, 9), noise=0.5)
    # What is not the context, or starts beyond it, must not count.
    logits[0][:, :2], logits[1][:, -1] = 99, 99
    found, _ = spans.best_spans(windows, 0, *logits)
    text = f'w{first} w{first + 1} w{first + 2}'
    start = context.index(text)
    assert found[0] == spans.Span(text, start, start + len(text), 18, 9, 9)
    assert len(found) == spans.N_BEST
    assert sorted(found, key=lambda s: -s.logit) == found


def test_the_best_spans_are_those_of_trying_all():
  context = f'{text_of(30)} {text_of(12)}'  # words come twice
  windows = spans.encode_windows(TOKENIZER, ['w1'], [context], 24)
  starts, ends = planted(windows, noise=1)
  best = {}
  for row in range(len(starts)):
    for first in np.flatnonzero(windows.is_max_context[row]):
      for last in range(
        first, min(first + 7, windows.rows['lengths'][row] - 1)
      ):
        place = windows.offsets[row, first, 0], windows.offsets[row, last, 1]
        logit = starts[row, first] + ends[row, last]
        text = context[slice(*place)]
        if text not in best or logit > best[text][0]:
          best[text] = (logit, *place)
  found, null = spans.best_spans(
    windows, 0, starts, ends, n_best=30, longest_answer=7
  )
  expected = sorted(best.items(), key=lambda item: -item[1][0])[:30]
  assert [(s.text, (s.logit, s.start, s.end)) for s in found] == expected
  assert (null.text, null.logit) == ('', (starts[:, 0] + ends[:, 0]).min())
  for span in (*found, null):
    assert np.float32(span.start_logit) + np.float32(span.end_logit) == (
      span.logit
    )
  # `run_squad.py` divides by the sum over the n best.
  shares = spans.probabilities(found)
  np.testing.assert_allclose(shares.sum(), 1)
  np.testing.assert_allclose(
    shares[1] / shares[0], np.exp(found[1].logit - found[0].logit)
  )


def test_a_span_that_two_windows_see_is_one_answer():
  context = text_of(40)
  windows = spans.encode_windows(TOKENIZER, ['w1'], [context], 24)
  start = context.index('w14')
  places = np.argwhere(windows.offsets[..., 0] == start)
  assert len(places) == 2
  logits = planted(windows, *((*place, place[1] + 1, 9) for place in places))
  found, _ = spans.best_spans(windows, 0, *logits)
  assert [s.text for s in found].count('w14 w15') == 1
  assert found[0].text == 'w14 w15' and found[1].logit < 18


def test_equal_texts_in_two_places_are_one_answer_at_the_better():
  context = 'w1 w2 w3 w1 w2'
  windows = spans.encode_windows(TOKENIZER, ['w9'], [context], 24)
  logits = planted(windows, (0, 3, 4, 5), (0, 6, 7, 7))
  found, _ = spans.best_spans(windows, 0, *logits)
  assert (found[0].text, found[0].start, found[0].end) == ('w1 w2', 9, 14)
  assert [s.text for s in found].count('w1 w2') == 1


def test_an_answer_is_no_longer_than_it_may_be():
  context = text_of(50)
  windows = spans.encode_windows(TOKENIZER, ['w9'], [context], 64)
  for length, is_found in ((30, True), (31, False)):
    logits = planted(windows, (0, 5, 5 + length - 1, 9))
    found, _ = spans.best_spans(windows, 0, *logits)
    assert (found[0].text == ' '.join(WORDS[2 : 2 + length])) == is_found


def test_what_cannot_be_asked_is_a_sentence():
  for pair, words in (
    (('', 'w1'), "text 2 has an empty question, ''"),
    ((' \n', 'w1'), 'text 2 has an empty question'),
    (('w1', '\u200b '), 'text 2 has an empty context'),
  ):
    with pytest.raises(UserError, match=words):
      spans.encode_windows(TOKENIZER, *zip(('w1', 'w2'), pair, strict=True), 9)
  with pytest.raises(UserError, match='sequence length of 4 is too short'):
    spans.encode_windows(TOKENIZER, ['w1'], ['w1'], 4)
  windows = spans.encode_windows(TOKENIZER, ['w1'], ['w1'], 9)
  logits = planted(windows)
  logits[0][0, 3] = np.nan
  with pytest.raises(UserError, match='NaN'):
    spans.best_spans(windows, 0, *logits)


def test_answers_of_squad_are_found_where_tokens_begin_and_end(shared_data):
  tokenizer = Tokenizer.load(
    shared_data / 'vocab' / 'bert-base-uncased-vocab.txt'
  )
  file = shared_data / 'squad' / 'dev-v1.1.json'
  articles = json.loads(file.read_text(encoding='utf-8'))['data']
  asked = [
    (question['question'], paragraph['context'], question['answers'])
    for article in articles
    for paragraph in article['paragraphs']
    for question in paragraph['qas']
  ][:500]
  questions, contexts, answers = zip(*asked, strict=True)
  windows = spans.encode_windows(tokenizer, questions, contexts, 128)
  assert len(windows.question) > 1.5 * len(asked)
  wrong = {'inside a token': 0, 'too long': 0, 'over windows': 0}
  tried = 0
  for number, gold in enumerate(answers):
    for start, text in {(a['answer_start'], a['text']) for a in gold}:
      tried += 1
      end = start + len(text)
      touched = (
        (windows.offsets[..., 1] > start)
        & (windows.offsets[..., 0] < end)
        & (windows.question == number)[:, None]
      )
      row = np.flatnonzero((touched & windows.is_max_context).any(axis=1))[0]
      first, *_, last = [*np.flatnonzero(touched[row])] * 2
      seen = windows.offsets[row, [first, last], [0, 1]].tolist()
      logits = planted(windows, (row, first, last, 9))
      found, _ = spans.best_spans(windows, number, *logits)
      if (found[0].start, found[0].end) == (start, end):
        assert found[0].text == text
      elif last - first >= spans.LONGEST_ANSWER:
        wrong['too long'] += 1
      elif seen[0] < start or seen[1] > end:
        wrong['inside a token'] += 1
      elif seen[1] < end:
        wrong['over windows'] += 1
      else:
        raise AssertionError((number, text, found[0]))
  # `gold` of "golden", `8` of "18": no span of tokens is these.
  assert (tried, wrong) == (
    854,
    {'inside a token': 12, 'too long': 0, 'over windows': 0},
  )
