"""`standard` attention is BERT: the same numbers as Hugging Face's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from shared_bert.interop import names
from shared_bert.model.config import BertConfig
from shared_bert.model.encoder import BertModel
from shared_bert.model.heads import BertForPreTraining
from shared_bert.model.parameters import abstract, applier, named_leaves
from tests.golden import write_huggingface
from tests.tiny_model import maker


def converted(make, weights, num_layers):
  """Hugging Face's weights as the parameters of `make(rngs)`."""
  shapes = abstract(make)
  wanted = dict(named_leaves(shapes))
  found = names.from_huggingface(weights, wanted, num_layers)
  params = jax.tree.unflatten(
    jax.tree.structure(shapes), [jnp.asarray(found[name]) for name in wanted]
  )
  assert jax.tree.map(jnp.shape, params) == jax.tree.map(jnp.shape, shapes)
  return params


def assert_same_numbers(sizes, weights, rows, expected):
  config = BertConfig(
    vocab_size=sizes['vocab_size'],
    hidden_size=sizes['hidden_size'],
    num_layers=sizes['num_hidden_layers'],
    num_heads=sizes['num_attention_heads'],
    intermediate_size=sizes['intermediate_size'],
    max_positions=sizes['max_position_embeddings'],
    attention='standard',
  )

  def run(model):
    make = maker(model, config)
    params = converted(make, weights, config.num_layers)
    return jax.jit(applier(make))(
      params,
      rows['input_ids'],
      rows['token_type_ids'],
      rows['attention_mask'],
    )

  hidden, pooled = run(BertModel)
  logits, next_sentence = run(BertForPreTraining)
  real = rows['attention_mask'] > 0
  for ours, theirs in (
    (hidden[real], expected['hidden'][real]),
    (logits[real], expected['logits'][real]),
    (pooled, expected['pooled']),
    (next_sentence, expected['next_sentence']),
  ):
    assert np.std(theirs) > 0.25  # not a comparison of zeros
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5)


def test_standard_attention_gives_the_committed_numbers_of_hugging_face():
  with np.load(write_huggingface.GOLDEN) as archive:
    golden = {'weights': {}, 'inputs': {}, 'outputs': {}}
    for name, value in archive.items():
      part, name = name.split('/', 1)
      golden[part][name] = value
  assert_same_numbers(
    write_huggingface.SIZES,
    golden['weights'],
    golden['inputs'],
    golden['outputs'],
  )


@pytest.mark.parametrize('size', ['tiny', 'mini'])
def test_standard_attention_gives_the_numbers_of_hugging_face(size):
  pytest.importorskip('torch')
  pytest.importorskip('transformers')
  config = BertConfig.of_size(size)
  sizes = {
    'vocab_size': 1000,
    'hidden_size': config.hidden_size,
    'num_hidden_layers': config.num_layers,
    'num_attention_heads': config.num_heads,
    'intermediate_size': config.intermediate_size,
    'max_position_embeddings': 64,
    'type_vocab_size': 2,
  }
  model = write_huggingface.random_bert(sizes, seed=1)
  rows = write_huggingface.random_rows((64, 40, 17, 3), 64, 1000, seed=1)
  assert_same_numbers(
    sizes,
    write_huggingface.weights(model),
    rows,
    write_huggingface.run(model, rows),
  )
