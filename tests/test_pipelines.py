"""Exports in transformers' own pipelines: our answers, without a complaint.

With transformers 4.57 and 5, as tests/test_interop.py.
"""

import logging

import numpy as np
import pytest

from shared_bert.inference import Predictor
from shared_bert.interop import huggingface
from tests.test_interop import saved_model

transformers = pytest.importorskip('transformers')
pytest.importorskip('torch')

TEXTS = ['the cat sees a dog', 'a bird', 'big dog sees the bird']


@pytest.fixture
def complaints():
  """What transformers warns of, which goes to its logger."""
  found = []
  handler = logging.Handler(logging.WARNING)
  # 4.57 always says which device a pipeline is on.
  handler.addFilter(lambda x: not x.getMessage().startswith('Device set to'))
  handler.emit = lambda record: found.append(record.getMessage())
  logger = logging.getLogger('transformers')
  logger.addHandler(handler)
  yield found
  logger.removeHandler(handler)


def pipeline(task, auto, folder):
  """By a model: by a path, 4.57 tries TensorFlow too, which wants Keras 2."""
  return transformers.pipeline(
    task,
    getattr(transformers, auto).from_pretrained(folder),
    tokenizer=transformers.AutoTokenizer.from_pretrained(folder),
    device='cpu',
  )


@pytest.mark.parametrize('head', ['masked_lm', 'pretraining'])
def test_words_for_a_mask(head, complaints, tmp_path):
  saved = saved_model(head)
  huggingface.write(saved, tmp_path)
  fill = pipeline('fill-mask', 'AutoModelForMaskedLM', tmp_path)
  text = 'the [MASK] sees a dog'
  found = fill(text, top_k=5)
  ours = Predictor(saved, top_k=5)(text)['masks'][0]
  words = saved.tokenizer.vocab
  assert [words[x['token']] for x in found] == [x['token'] for x in ours]
  np.testing.assert_allclose(
    [x['score'] for x in found],
    [x['probability'] for x in ours],
    rtol=0,
    atol=1e-5,
  )
  # Of a head for words and sentences the pipeline takes the words alone.
  if head == 'masked_lm':
    assert not complaints


def test_classes_by_their_names(complaints, tmp_path):
  saved = saved_model('classification')
  huggingface.write(saved, tmp_path)
  classify = pipeline(
    'text-classification', 'AutoModelForSequenceClassification', tmp_path
  )
  for text, ours in zip(TEXTS, Predictor(saved)(TEXTS), strict=True):
    found = {x['label']: x['score'] for x in classify(text, top_k=None)}
    assert found == pytest.approx(ours['probabilities'], rel=0, abs=1e-5)
  pair = {'text': 'the cat', 'text_pair': 'a dog'}
  ours = Predictor(saved)([('the cat', 'a dog')])[0]
  found = classify(pair)
  found = found[0] if isinstance(found, list) else found
  assert found['label'] == ours['label']
  assert found['score'] == pytest.approx(ours['probability'], rel=0, abs=1e-5)
  assert not complaints


def test_a_score_as_it_is(complaints, tmp_path):
  saved = saved_model('classification', labels=())
  huggingface.write(saved, tmp_path)
  score = pipeline(
    'text-classification', 'AutoModelForSequenceClassification', tmp_path
  )
  for text, ours in zip(TEXTS, Predictor(saved)(TEXTS), strict=True):
    found = score(text)[0]
    assert found['label'] == 'score'
    assert found['score'] == pytest.approx(ours['score'], rel=0, abs=1e-5)
  assert not complaints


@pytest.mark.parametrize(
  ('head', 'name'),
  [
    ('encoder', 'AutoModel'),
    ('masked_lm', 'AutoModelForMaskedLM'),
    ('pretraining', 'AutoModelForPreTraining'),
    ('classification', 'AutoModelForSequenceClassification'),
    ('question_answering', 'AutoModelForQuestionAnswering'),
  ],
)
def test_a_folder_loads_whole_by_its_path_alone(
  head, name, complaints, tmp_path
):
  saved = saved_model(head)
  huggingface.write(saved, tmp_path)
  model, told = getattr(transformers, name).from_pretrained(
    tmp_path, output_loading_info=True
  )
  tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
  assert model(**tokenizer(TEXTS, padding=True, return_tensors='pt'))
  assert not any(told.values()) and not complaints
