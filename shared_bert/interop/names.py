"""Our names of a standard BERT's parameters, and Hugging Face's.

Theirs are those of transformers, models/bert/modeling_bert.py. A matrix is
[in, out] here and [out, in] there; layers are stacked here and numbered there.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from shared_bert.model.parameters import named_leaves

_LAYER = 'bert.encoder.layer.{}.'
_MODULES = {
  'encoder/embeddings/word': 'bert.embeddings.word_embeddings',
  'encoder/embeddings/position': 'bert.embeddings.position_embeddings',
  'encoder/embeddings/token_type': 'bert.embeddings.token_type_embeddings',
  'encoder/embeddings/norm': 'bert.embeddings.LayerNorm',
  'encoder/layers/attention/projection/query': _LAYER + 'attention.self.query',
  'encoder/layers/attention/projection/key': _LAYER + 'attention.self.key',
  'encoder/layers/attention/projection/value': _LAYER + 'attention.self.value',
  'encoder/layers/attention/output': _LAYER + 'attention.output.dense',
  'encoder/layers/attention_norm': _LAYER + 'attention.output.LayerNorm',
  'encoder/layers/feed_forward/up': _LAYER + 'intermediate.dense',
  'encoder/layers/feed_forward/down': _LAYER + 'output.dense',
  'encoder/layers/feed_forward_norm': _LAYER + 'output.LayerNorm',
  'pooler/dense': 'bert.pooler.dense',
  'transform': 'cls.predictions.transform.dense',
  'norm': 'cls.predictions.transform.LayerNorm',
  'next_sentence': 'cls.seq_relationship',
  'classifier': 'classifier',
  'span': 'qa_outputs',
}
_DECODER_BIAS = 'cls.predictions.bias'


def theirs_of(name: str) -> str:
  """Their name of one of our parameters, with {} for the layer's number.

  Args:
    name: such as `encoder/layers/feed_forward/up/kernel`.

  Raises:
    KeyError: a standard BERT has no such parameter.
  """
  if name == 'decoder_bias':
    return _DECODER_BIAS
  module, kind = name.rsplit('/', 1)
  return _MODULES[module] + ('.bias' if kind == 'bias' else '.weight')


def to_huggingface(params: Any) -> dict[str, np.ndarray]:
  """Their parameters, of ours.

  Args:
    params: of a standard model, nested by name, as the heads have them.

  Returns:
    float32 arrays by their names, each contiguous.
  """
  found = {}
  for name, leaf in named_leaves(params):
    value, theirs = np.asarray(leaf), theirs_of(name)
    is_kernel = name.endswith('/kernel')
    layers = enumerate(value) if '{}' in theirs else [(0, value)]
    for number, one in layers:
      found[theirs.format(number)] = np.ascontiguousarray(
        one.T if is_kernel else one
      )
  return found


def from_huggingface(
  weights: Mapping[str, np.ndarray], names: Iterable[str], num_layers: int
) -> dict[str, np.ndarray]:
  """Our parameters, of theirs.

  Args:
    weights: by their names, as `canonical` gives them.
    names: of ours that are wanted, such as `pooler/dense/kernel`.
    num_layers: L.

  Returns:
    float32 arrays by our names, layers stacked.

  Raises:
    KeyError: with their name of what is missing.
  """
  found = {}
  for name in names:
    theirs = theirs_of(name)
    layers = range(num_layers) if '{}' in theirs else [0]
    values = [
      np.asarray(weights[theirs.format(number)], np.float32)
      for number in layers
    ]
    if name.endswith('/kernel'):
      values = [value.T for value in values]
    found[name] = np.stack(values) if '{}' in theirs else values[0]
  return found


def canonical(weights: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
  """Their parameters under the names of today's transformers.

  A bare `BertModel` is saved without the prefix `bert.`; LayerNorms of old
  files, and of TensorFlow's, have gamma and beta; the bias of the decoder is
  kept twice.
  """
  bare = not any(name.startswith('bert.') for name in weights)
  found = {}
  for name, value in weights.items():
    if bare and name.startswith(('embeddings.', 'encoder.', 'pooler.')):
      name = f'bert.{name}'
    if name.endswith('.gamma'):
      name = name.removesuffix('gamma') + 'weight'
    elif name.endswith('.beta'):
      name = name.removesuffix('beta') + 'bias'
    elif name == 'cls.predictions.decoder.bias':
      name = _DECODER_BIAS
    found[name] = value
  return found
