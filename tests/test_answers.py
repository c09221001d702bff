"""Questions answered: the spans of transformers' model, in any text."""

import dataclasses
import json

import numpy as np
import pytest

import shared_bert
from shared_bert.data.tokenizer import SPECIAL_TOKENS, Tokenizer
from shared_bert.errors import UserError
from shared_bert.inference import Predictor
from shared_bert.interop import huggingface
from shared_bert.interop.opening import open_model
from tests.test_interop import saved_model
from tests.tiny_jobs import WORDS, sentences
from tests.transformers_bert import save_bert

ROW = 48
VOCABULARY = [
  *SPECIAL_TOKENS,
  *WORDS,
  *'who where cafe zoe ? . , 北 京 是 中 国'.split(),
  *'bcdefghijklmnopqrstuvwxyz0123456789',
  *(f'##{c}' for c in 'abcdefghijklmnopqrstuvwxyz0123456789'),
]
LONG = '. '.join(sentences(25, 0))
PAIRS = [
  ('Who sees the dog?', 'The cat sees a DOG, big and old.'),
  ('Where is Zoë?', 'Zoë is at the Café Élan, Zürich, über Straße 12.'),
  ('北京?', '北京是中国的首都, 中国 is big.'),
  ('Who runs?', 'The 🐈 sees 👩‍👩‍👧 and a\u00a0dog\n👍🏽 runs. 😀'),
  ('Who sings?', LONG),
  ('Where is the red bird that the small old cat likes?', f'Zoë. {LONG} 北'),
]


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  """A BERT for questions as transformers saves it, with random numbers."""
  folder = tmp_path_factory.mktemp('bert')
  save_bert(
    folder,
    'BertForQuestionAnswering',
    Tokenizer.from_vocab(VOCABULARY),
    max_position_embeddings=ROW,
  )
  return folder


def of_transformers(folder, question, context):
  """All spans of run_squad.py's rules, tried one by one, and that of none.

  Windows, offsets and logits are those of transformers; it has no pipeline for
  questions since version 5.
  """
  torch = pytest.importorskip('torch')
  transformers = pytest.importorskip('transformers')
  tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
  model = transformers.AutoModelForQuestionAnswering.from_pretrained(folder)
  room = ROW - 3 - len(tokenizer.tokenize(question))
  rows = tokenizer(
    question,
    context,
    truncation='only_second',
    max_length=ROW,
    stride=room - (room + 1) // 2,
    padding=True,
    return_overflowing_tokens=True,
    return_offsets_mapping=True,
    return_tensors='pt',
  )
  del rows['overflow_to_sample_mapping']
  offsets = rows.pop('offset_mapping').tolist()
  with torch.inference_mode():
    found = model.eval()(**rows)
  starts, ends = found.start_logits.numpy(), found.end_logits.numpy()
  places = [
    [i for i, part in enumerate(rows.sequence_ids(row)) if part == 1]
    for row in range(len(offsets))
  ]
  best_row = {}  # of each token, by its offsets: where it has most context
  for row, columns in enumerate(places):
    for left, column in enumerate(columns):
      company = min(left, len(columns) - 1 - left) + 0.01 * len(columns)
      place = tuple(offsets[row][column])
      if place not in best_row or company > best_row[place][0]:
        best_row[place] = company, row
  best = {}
  for row, columns in enumerate(places):
    for first in columns:
      if best_row[tuple(offsets[row][first])][1] != row:
        continue
      for last in range(first, min(first + 30, columns[-1] + 1)):
        start, end = offsets[row][first][0], offsets[row][last][1]
        logit = starts[row, first] + ends[row, last]
        text = context[start:end]
        if text not in best or logit > best[text][0]:
          best[text] = logit, start, end
  none = (starts[:, 0] + ends[:, 0]).min()
  ordered = sorted(best.items(), key=lambda item: -item[1][0])
  return ordered[:20], none, len(offsets)


@pytest.fixture(scope='module')
def predict(folder):
  return shared_bert.load(str(folder), top_k=10, batch_size=4)


@pytest.fixture(scope='module')
def predict_or_none(folder):
  return shared_bert.load(str(folder), no_answer=True, top_k=3, batch_size=4)


@pytest.mark.parametrize('number', range(len(PAIRS)))
def test_answers_are_those_of_transformers_model(
  folder, predict, predict_or_none, number
):
  question, context = PAIRS[number]
  expected, none, num_windows = of_transformers(folder, question, context)
  assert (num_windows > 6) == (len(context) > 100)
  assert predict.task == 'answer'
  found = predict((question, context))
  logits = np.array([logit for _, (logit, *_) in expected])
  shares = np.exp(logits) / np.exp(logits).sum()
  for answer, (text, (_, start, end)), share in zip(
    found['answers'], expected[:10], shares, strict=False
  ):
    assert (answer['answer'], answer['start'], answer['end']) == (
      text,
      start,
      end,
    )
    assert context[start:end] == text
    np.testing.assert_allclose(answer['probability'], share, atol=1e-5)
  assert len(found['answers']) == min(10, len(expected))
  best = {k: v for k, v in found.items() if k != 'answers'}
  assert best == found['answers'][0]

  # That there is none competes with the others.
  found = predict_or_none((question, context))['answers']
  shares = np.exp([*logits, none]) / np.exp([*logits, none]).sum()
  best = np.argsort(-shares)[:3]
  texts = [*(text for text, _ in expected), '']
  assert [a['answer'] for a in found] == [texts[i] for i in best]
  np.testing.assert_allclose(
    [a['probability'] for a in found], shares[best], atol=1e-5
  )


def test_no_answer_is_the_answer_where_the_model_says_so(folder):
  pair = PAIRS[0]
  saved = open_model(str(folder))
  # Vectors after a fresh LayerNorm are of one length: none is so much like
  # that of [CLS] as itself.
  cls = Predictor(saved, 'embed')(pair)['embedding']
  for sign, no_answer, is_empty in (
    (1, True, True),
    (1, False, False),
    (-1, True, False),
  ):
    head = {'kernel': sign * np.stack([cls, cls], 1), 'bias': np.zeros(2)}
    changed = dataclasses.replace(saved, params=saved.params | {'span': head})
    found = Predictor(changed, no_answer=no_answer)(pair)
    assert (found['answer'] == '') == is_empty
    if is_empty:
      assert (found['start'], found['end']) == (0, 0)
      assert found['probability'] > found['answers'][1]['probability']


def test_answers_do_not_depend_on_the_company(predict):
  done = []
  together = predict(PAIRS, lambda *count: done.append(count))
  assert done[-1][0] == done[-1][1] > 3 * len(PAIRS)
  for pair, answer in zip(PAIRS, together, strict=True):
    alone = predict(pair)
    np.testing.assert_allclose(
      alone.pop('probability'), answer.pop('probability'), atol=1e-5
    )
    del alone['answers'], answer['answers']
    assert alone == answer


def test_a_context_is_never_cut_and_a_question_that_is_counts(predict):
  before = predict.cut
  predict(PAIRS)
  assert predict.cut == before
  predict([(LONG, LONG), PAIRS[0]])
  assert predict.cut == before + 1


def test_a_model_of_ours_answers_as_what_it_exports_to(tmp_path):
  saved = saved_model('question_answering')
  huggingface.write(saved, tmp_path)
  pairs = [('the cat', 'a dog sees the big bird'), ('a', 'old ' * 9 + 'tree')]
  ours = Predictor(saved)(pairs)
  # Their rows are as long as the positions, 16, and not as the training's 12.
  assert [a['answer'] for a in ours] == [
    context[a['start'] : a['end']]
    for a, (_, context) in zip(ours, pairs, strict=True)
  ]
  theirs = shared_bert.load(str(tmp_path))(pairs[0])
  assert theirs['answer'] == ours[0]['answer']
  np.testing.assert_allclose(
    theirs['probability'], ours[0]['probability'], atol=1e-5
  )


def test_the_command_answers_in_lines_and_in_json(
  commands, folder, predict, predict_or_none, tmp_path
):
  question, context = PAIRS[1]
  expected = predict((question, context))
  done = commands.run(
    'predict', f'--checkpoint={folder}', f'{question}\t{context}'
  )
  assert done.code == 0, done.err
  answer, probability, *texts = done.out.rstrip('\n').split('\t')
  assert answer == expected['answer'] and texts == [question, context]
  assert abs(float(probability) - expected['probability']) < 1e-4

  table = tmp_path / 'questions.jsonl'
  names = 'question', 'context'
  table.write_text(
    '\n'.join(json.dumps(dict(zip(names, p, strict=True))) for p in PAIRS)
  )
  output = tmp_path / 'answers.jsonl'
  done = commands.run(
    'predict',
    f'--checkpoint={folder}',
    '--task=answer',
    '--no_answer',
    '--top_k=3',
    f'--file={table}',
    '--text_columns=question,context',
    f'--output={output}',
  )
  assert done.code == 0, done.err
  answers = [json.loads(line) for line in output.read_text().splitlines()]
  theirs = predict_or_none(PAIRS)
  for pair, found, answer in zip(PAIRS, answers, theirs, strict=True):
    assert found['text'] == list(pair)
    assert found['answer'] == answer['answer']
    assert len(found['answers']) == 3
    assert found['answers'][0].keys() == {
      'answer',
      'probability',
      'start',
      'end',
    }


def test_what_cannot_be_asked_is_a_sentence(commands, folder):
  with pytest.raises(UserError, match='not trained for task=answer'):
    Predictor(saved_model('classification'), 'answer')
  for text, words in (
    ('Who runs?', 'text 1 is a single one: task=answer takes a question'),
    ('\tThe cat runs.', "text 1 has an empty question, ''"),
    ('Who runs?\t ', "text 1 has an empty context, ' '"),
  ):
    done = commands.run('predict', f'--checkpoint={folder}', text)
    assert done.code == 1 and words in done.err, done.err
    assert len(done.err.splitlines()) == 1
