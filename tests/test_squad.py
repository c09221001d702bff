"""SQuAD: its files, where answers are, and the numbers of its two scripts."""

import json

import numpy as np
import pytest

from shared_bert import span_config, span_data
from shared_bert.data import spans, squad
from shared_bert.data.tokenizer import SPECIAL_TOKENS, Tokenizer
from shared_bert.errors import UserError
from shared_bert.training import answer_metrics
from tests.squad_files import question, write

CONTEXT = 'The small cat sees\u00a0a "big" dog, and\n the tree.'
WORDS = 'the small cat a big dog and tree what " , .'.split()
TOKENIZER = Tokenizer.from_vocab([*SPECIAL_TOKENS, *WORDS, 's', '##ees'])


def keys(**changes):
  data = span_config.squad_defaults().data
  data.update(changes)
  return data


def test_constants_are_those_of_the_windows():
  data = keys()
  assert data.seq_len == spans.LONGEST_ROW
  assert data.stride == spans.STRIDE
  assert data.question_length == spans.LONGEST_QUESTION
  assert data.answer_length == spans.LONGEST_ANSWER
  assert data.n_best == spans.N_BEST


@pytest.mark.parametrize(
  'text, expected',
  [
    ('The cat.', 'cat'),
    ('  A  BIG\tdog!? ', 'big dog'),
    ("the cat's", 'cats'),
    ('an-other', 'another'),  # punctuation goes before articles
    ('theatre and a-b', 'theatre and ab'),
    ('1,000.5', '10005'),
    ('“the” café', '“ ” café'),  # only punctuation of ASCII goes
    ('The a an', ''),
    ('', ''),
  ],
)
def test_texts_are_normalised_as_the_scripts_do(text, expected):
  assert answer_metrics.normalised(text) == expected


# Prediction, gold answers; exact match and F1 of version 1.1 and of 2.0.
SCORED = {
  'the same': ('the cat', ['A cat!'], (1, 1), (1, 1)),
  'the best of several': (
    'small cat',
    ['dog', 'small old cat', 'cat'],
    (0, 0.8),
    (0, 0.8),
  ),
  'each metric takes its own best': ('x y', ['x', 'x y'], (1, 1), (1, 1)),
  'words count as often as they are there': (
    'cat cat dog',
    ['cat dog dog dog'],
    (0, 2 * (2 / 3) * (2 / 4) / (2 / 3 + 2 / 4)),
    (0, 2 * (2 / 3) * (2 / 4) / (2 / 3 + 2 / 4)),
  ),
  'nothing in common': ('dog', ['cat'], (0, 0), (0, 0)),
  'no answer, rightly': ('', [''], (1, 0), (1, 1)),
  'no answer, wrongly': ('', ['cat'], (0, 0), (0, 0)),
  'an answer, wrongly': ('cat', [''], (0, 0), (0, 0)),
  # An answer of articles is one to version 1.1 alone, whose F1 has no words.
  'nothing but articles': ('a', ['the'], (1, 0), (1, 1)),
  'articles among others': ('an', ['the', 'cat'], (1, 0), (0, 0)),
}


@pytest.mark.parametrize('name', SCORED)
def test_answers_are_scored_as_the_scripts_do(name):
  prediction, gold, *expected = SCORED[name]
  for second, pair in zip((False, True), expected, strict=True):
    found = answer_metrics.exact_and_f1(prediction, gold, second=second)
    assert found == pytest.approx(pair, abs=1e-12)


def test_unanswerable_questions_are_right_if_they_get_no_answer():
  assert answer_metrics.exact_and_f1('', [], second=True) == (1, 1)
  assert answer_metrics.exact_and_f1('cat', [], second=True) == (0, 0)


def test_a_set_of_version_1_has_two_numbers():
  found = answer_metrics.evaluate(
    {'a': 'cat', 'b': 'small dog', 'c': 'x'},
    {'a': ['the cat'], 'b': ['dog'], 'c': ['y', 'z']},
    None,
  )
  assert found == {
    'exact_match': 100 / 3,
    'f1': pytest.approx(100 * (1 + 2 / 3) / 3),
  }


def test_a_set_of_version_2_is_split_and_searched_for_thresholds():
  predictions = {'a': 'cat', 'b': 'small dog', 'c': 'x', 'd': '', 'e': ''}
  gold = {'a': ['cat'], 'b': ['dog'], 'c': [], 'd': [], 'e': ['y']}
  odds = {'a': -5.0, 'b': -3.0, 'c': -1.0, 'd': 2.0, 'e': 4.0}
  found = answer_metrics.evaluate(predictions, gold, odds)
  two_thirds = 2 / 3
  assert found == pytest.approx(
    {
      'exact_match': 100 * 2 / 5,
      'f1': 100 * (2 + two_thirds) / 5,
      'HasAns_exact': 100 / 3,
      'HasAns_f1': 100 * (1 + two_thirds) / 3,
      'NoAns_exact': 50,
      'NoAns_f1': 50,
      # Answering a alone: it, c and d are right. b adds to F1.
      'best_exact': 100 * 3 / 5,
      'best_exact_thresh': -5,
      'best_f1': 100 * (3 + two_thirds) / 5,
      'best_f1_thresh': -3,
    }
  )
  # Where no answer at all is best, the threshold is the script's 0.
  found = answer_metrics.evaluate({'c': 'x'}, {'c': []}, {'c': -1.0})
  assert (found['best_f1'], found['best_f1_thresh']) == (100, 0)
  assert 'HasAns_f1' not in found


def test_a_file_is_read_with_all_its_gold_answers(tmp_path):
  path = write(
    tmp_path / 'dev.json',
    [
      (CONTEXT, [question('1', 'What?', ('cat', 10), ('small cat', 4))]),
      ('A dog.', [question('2', 'Who?', ('dog', 2))]),
    ],
  )
  found = squad.read(path, 'data.dev_file', training=False)
  assert list(found.ids) == ['1', '2']
  assert found.contexts == (CONTEXT, 'A dog.')
  assert found.answers == ((('cat', 10), ('small cat', 4)), (('dog', 2),))
  assert not found.has_unanswerable
  # One is learnt.
  found = squad.read(path, 'data.train_file', training=True)
  assert found.answers == ((('cat', 10),), (('dog', 2),))


@pytest.mark.parametrize(
  'version, mark', [('v2.0', {}), ('1.1', {'is_impossible': True})]
)
def test_a_file_with_unanswerable_questions_is_of_version_2(
  version, mark, tmp_path
):
  path = write(
    tmp_path / 'dev.json',
    [(CONTEXT, [question('1', 'What?', **mark)])],
    version,
  )
  found = squad.read(path, 'data.dev_file', training=False)
  assert found.has_unanswerable and found.answers == ((),)


def test_answers_that_are_not_where_they_should_be_are_left_out(tmp_path):
  start = CONTEXT.index('dog')
  qas = [
    question('there', 'What?', ('dog', start)),
    question('off by two, in the word', 'What?', ('ee', CONTEXT.index('es'))),
    question('other white space', 'What?', ('sees a', CONTEXT.index('sees'))),
    question('elsewhere', 'What?', ('dog', 0)),
    question('other case', 'What?', ('Dog', start)),
    question('beyond the end', 'What?', ('dog', 999)),
    question('before the beginning', 'What?', ('dog', -3)),
    question('nothing', 'What?', (' ', 3)),
  ]
  path = write(tmp_path / 'train.json', [(CONTEXT, qas)])
  found = squad.read(path, 'data.train_file', training=True)
  assert found.ids == tuple(q['id'] for q in qas[:3])
  assert found.num_skipped == 5
  assert [
    CONTEXT[slice(*squad.locate(CONTEXT, *gold[0]))] for gold in found.answers
  ] == ['dog', 'ee', 'sees\u00a0a']
  # To be scored, all of them count.
  assert len(squad.read(path, 'data.dev_file', training=False)) == 8


@pytest.mark.parametrize('training', [True, False])
@pytest.mark.parametrize(
  'content, words',
  [
    ('{"data": [', 'is not JSON in UTF-8'),
    ('[]', 'is JSON of something else'),
    ('{"data": {}}', "'data' should be a list"),
    ('{"data": []}', 'has no question'),
    ('{"data": [3]}', "article 1: 'paragraphs' should be a list"),
    (
      {'qas': []},
      "article 1, paragraph 1: 'context' should be a text, .* not there",
    ),
    (
      {'context': 'A cat.', 'qas': [{'id': 5}]},
      "paragraph 1, question 1: 'id' should be a text, .* is 5",
    ),
    (
      {'context': 'A cat.', 'qas': [{'id': 'x', 'question': 'q'}]},
      r"question 1 \(x\): 'answers' should be a list",
    ),
    (
      {'context': 'A cat.', 'qas': [question('x', 'q', ('cat', '2'))]},
      r"\(x\), answer 1: 'answer_start' should be a whole number",
    ),
    (
      {'context': 'A cat.', 'qas': [question('x', 'q', ('cat', 2))] * 2},
      r'question 2 \(x\): the id is there twice',
    ),
    (
      {
        'context': 'A cat.',
        'qas': [question('x', 'q', ('cat', 2), is_impossible=True)],
      },
      'is_impossible=True beside 1 answers',
    ),
    ({'context': 'A cat.', 'qas': [question('x', 'q')]}, 'has no answer'),
    (
      {'context': 'A \ud83d cat.', 'qas': [question('x', 'q', ('cat', 4))]},
      r"paragraph 1: 'context' holds half of a surrogate pair \('\\ud83d'\)",
    ),
    (
      {'context': 'A cat.', 'qas': [question('\ud83d', 'q', ('cat', 2))]},
      "question 1: 'id' holds half of a surrogate pair",
    ),
    (
      {'context': 'A cat.', 'qas': [question('x', '\ud83d', ('cat', 2))]},
      r"question 1 \(x\): 'question' holds half of a surrogate pair",
    ),
    (
      {'context': 'A cat.', 'qas': [question('x', 'q', ('\ud83d', 2))]},
      r"\(x\), answer 1: 'text' holds half of a surrogate pair",
    ),
  ],
)
def test_a_file_that_is_no_squad_is_refused_with_its_place(
  content, words, training, tmp_path
):
  path = tmp_path / 'file.json'
  if isinstance(content, dict):
    content = json.dumps({'data': [{'title': 't', 'paragraphs': [content]}]})
  path.write_text(content)
  with pytest.raises(UserError, match=words) as error:
    squad.read(path, 'data.dev_file', training=training)
  assert 'file.json' in str(error.value)


def test_files_that_are_not_there_are_refused(tmp_path):
  (tmp_path / 'dev.csv').touch()
  for name, words in (
    ('dev.json', 'is not there'),
    ('', 'is a folder'),
    ('dev.csv', 'does not end in .json'),
  ):
    with pytest.raises(UserError, match=words):
      squad.read(tmp_path / name, 'data.dev_file', training=False)


def test_a_fingerprint_sees_every_change(tmp_path):
  def of(*answers, text='q', context='A cat.', version='1.1'):
    path = write(
      tmp_path / 'f.json', [(context, [question('x', text, *answers)])], version
    )
    split = squad.read(path, 'data.dev_file', training=False)
    return squad.fingerprint({'dev': split})

  plain = of(('cat', 2))
  assert plain == of(('cat', 2))
  others = [
    of(('cat', 2), text='r'),
    of(('cat', 2), context='A cat. '),
    of(('cat', 2), version='2.0'),
    of(('A', 0)),
    of(('cat', 2), ('A', 0)),
  ]
  assert len({plain, *others}) == 6


def positions(context, *answers, seq_len=12, stride=4):
  """Windows on a context, and the positions of each answer in them."""
  windows = spans.encode_windows(
    TOKENIZER,
    ['what'] * len(answers),
    [context] * len(answers),
    seq_len,
    stride=stride,
  )
  return windows, *span_data.answer_positions(windows, list(answers))


@pytest.mark.parametrize(
  'answer, covering',
  [
    ('cat', 'cat'),
    ('sees', 'sees'),
    ('ee', 'ees'),  # s ##ees
    ('small cat sees', 'small cat sees'),
    ('ig', 'big'),  # of a token
    ('dog tree', None),  # nowhere
    (', and\n the', ', and\n the'),
    ('"big"', '"big"'),
    ('\n the', 'the'),  # white space has no token
  ],
)
def test_positions_are_the_fewest_tokens_that_cover_the_answer(
  answer, covering
):
  start = CONTEXT.find(answer)
  span = None if start < 0 else (start, start + len(answer))
  windows, first, last, kept = positions(CONTEXT, span)
  assert kept.all() and len(first) > 2
  found = {
    CONTEXT[windows.offsets[row, a, 0] : windows.offsets[row, b, 1]]
    for row, (a, b) in enumerate(zip(first, last, strict=True))
    if a
  }
  assert found == ({covering} if covering else set())
  assert ((first == 0) == (last == 0)).all()


def test_a_window_without_the_whole_answer_points_at_cls():
  text = 'small cat sees'
  start = CONTEXT.index(text)
  windows, first, last, _ = positions(CONTEXT, (start, start + len(text)), None)
  for row in range(len(first)):
    inside = windows.offsets[row][windows.offsets[row, :, 1] > 0]
    is_whole = (
      windows.question[row] == 0
      and inside[0, 0] <= start
      and inside[-1, 1] >= start + len(text)
    )
    assert bool(first[row]) == bool(last[row]) == is_whole
  assert 0 < (first > 0).sum() < (windows.question == 0).sum()


def test_a_question_whose_answer_has_no_token_is_not_trained_on():
  context = 'a \u200b cat'
  *_, kept = positions(context, (2, 3), (4, 7), None)
  assert kept.tolist() == [False, True, True]


def tree_of(tmp_path, count, **changes):
  qas = [
    question(f'q{n}', 'what', ('cat', CONTEXT.index('cat')))
    for n in range(count)
  ]
  path = str(write(tmp_path / 'file.json', [(CONTEXT, qas)]))
  return keys(train_file=path, dev_file=path, **changes)


def test_questions_are_drawn_the_same_by_every_run(tmp_path):
  data = tree_of(tmp_path, 50, train_questions=10, dev_questions=20)
  loaded = span_data.load(data)
  again = span_data.load(data, evaluating=True)
  assert list(again.splits) == ['dev']
  assert again.splits['dev'].ids == loaded.splits['dev'].ids
  assert len(set(loaded.splits['train'].ids)) == 10
  # Fewer are some of the more, and the order is the file's.
  assert set(loaded.splits['train'].ids) < set(loaded.splits['dev'].ids)
  places = [int(name[1:]) for name in loaded.splits['dev'].ids]
  assert places == sorted(places)
  with pytest.raises(UserError, match='train_questions=51 asks for more'):
    span_data.load(tree_of(tmp_path, 50, train_questions=51))


def test_training_rows_do_not_depend_on_how_many_are_encoded_at_once(
  tmp_path, monkeypatch
):
  loaded = span_data.load(tree_of(tmp_path, 7, stride=4))
  whole = loaded.encode(TOKENIZER, 12).arrays['train']
  monkeypatch.setattr(span_data, '_AT_ONCE', 3)
  parts = loaded.encode(TOKENIZER, 12).arrays['train']
  assert loaded.training_rows(TOKENIZER, 12) == len(whole['lengths']) > 14
  for name, array in whole.items():
    np.testing.assert_array_equal(parts[name], array)


def one_hot(windows, first, last):
  """Logits that name the answers' tokens, and [CLS] a little."""
  logits = np.zeros((2, *windows.offsets.shape[:2]), np.float32)
  logits[:, :, 0] = 1
  rows = np.flatnonzero(first > 0)
  logits[0, rows, first[rows]] = logits[1, rows, last[rows]] = 9
  return logits


@pytest.mark.parametrize('threshold, answer', [(0, ''), (99, 'cat')])
def test_no_answer_is_given_above_the_threshold(threshold, answer, tmp_path):
  text = 'small cat'
  path = write(
    tmp_path / 'dev.json',
    [(CONTEXT, [question('x', 'what', (text, 4)), question('y', 'what')])],
    'v2.0',
  )
  data = keys(dev_file=str(path), null_threshold=float(threshold), n_best=3)
  encoded = span_data.load(data, evaluating=True).encode(TOKENIZER, 30)
  windows = encoded.windows['dev']
  logits = np.zeros((2, 2, 30), np.float32)
  at = windows.offsets[0, :, 0].tolist().index(CONTEXT.index('cat'))
  logits[:, 0, [at - 1, at]] = [[5, 0], [0, 4]]
  logits[:, 1, at], logits[0, 1, 0] = 2, 7
  found = span_data.answers_of(encoded.splits['dev'], windows, *logits, data)
  assert found.predictions == {'x': text, 'y': answer}
  assert found.null_odds == {'x': -9, 'y': 3}
  # No answer is always among them, at its place or behind the others.
  shown = found.nbest['x']
  assert [entry['text'] for entry in shown][0] == text
  assert len(shown) == 4 and shown[-1]['text'] == ''
  assert (shown[0]['start_logit'], shown[0]['end_logit']) == (5, 4)
  assert found.nbest['y'][0]['text'] == '' and len(found.nbest['y']) == 3
  assert sum(entry['probability'] for entry in shown) == pytest.approx(1)


def test_logits_of_the_gold_answers_are_right_to_real_questions(shared_data):
  tokenizer = Tokenizer.load(
    shared_data / 'vocab' / 'bert-base-uncased-vocab.txt'
  )
  file = str(shared_data / 'squad' / 'dev-v1.1.json')
  data = keys(dev_file=file, dev_questions=1500)
  encoded = span_data.load(data, evaluating=True).encode(tokenizer, 384)
  dev, windows = encoded.splits['dev'], encoded.windows['dev']
  located = [
    squad.locate(context, *gold[0])
    for context, gold in zip(dev.contexts, dev.answers, strict=True)
  ]
  assert None not in located
  first, last, kept = span_data.answer_positions(windows, located)
  assert kept.all()
  found = span_data.answers_of(
    dev, windows, *one_hot(windows, first, last), data
  )
  gold = {
    name: [answers[0][0]]
    for name, answers in zip(dev.ids, dev.answers, strict=True)
  }
  numbers = answer_metrics.evaluate(found.predictions, gold, None)
  wrong = [
    (found.predictions[name], text)
    for name, (text,) in gold.items()
    if answer_metrics.exact_and_f1(
      found.predictions[name], [text], second=False
    )
    != (1, 1)
  ]
  assert numbers['exact_match'] >= 99
  # Parts of words, such as `gold` of "golden", and answers of over 30 tokens.
  assert all(text in answer or answer in text for answer, text in wrong)
