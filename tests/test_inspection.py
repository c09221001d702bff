"""What is seen of a model's inside, against NumPy in float64."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from shared_bert.model.attention import PROJECTIONS
from shared_bert.model.config import ATTENTIONS
from shared_bert.model.encoder import BertModel, Embeddings, EncoderLayer
from shared_bert.model.inspection import (
  attention_entropy,
  diagonals,
  uniform_entropy,
)
from shared_bert.model.parameters import applier, initialise
from tests.tiny_model import maker, random_params, tiny_config, token_rows

CASES = [
  *({'attention': name} for name in ATTENTIONS),
  {'attention': 'shared', 'role_bias': True},
  {'attention': 'shared', 'pre_norm': True},
  {'attention': 'standard', 'scan_layers': False, 'remat': 'full'},
]


def packed_rows():
  """Three rows of 12 with several segments and padding."""
  ids, token_types, _ = token_rows((12, 12, 12))
  segments = np.array(
    [[1] * 12, [1] * 4 + [2] * 5 + [3] + [0] * 2, [1] * 2 + [0] * 10]
  )
  return ids, token_types, jnp.asarray(segments, jnp.int32)


def run(module, config):
  # Not compiled: it runs once.
  return applier(maker(module, config))


@functools.cache
def compiled(config):
  return jax.jit(attention_entropy(config))


def entropy(config, params, rows):
  return np.asarray(compiled(config)(params, *rows))


def queries_and_keys(config, layer, x):
  """[B, S, D] each; by hand for the two mechanisms that are compared most."""
  p = layer['attention']['projection']
  if config.attention == 'standard':
    return [x @ p[r]['kernel'] + p[r]['bias'] for r in ('query', 'key')]
  if config.attention == 'shared' and not config.role_bias:
    s = x @ p['shared']['kernel'] + p['shared']['bias']
    return s * p['d_q'], s * p['d_k']
  return run(PROJECTIONS[config.attention], config)(p, jnp.asarray(x))[:2]


def layer_norm(x, p):
  x = x - x.mean(-1, keepdims=True)
  return x / np.sqrt((x**2).mean(-1, keepdims=True)) * p['scale'] + p['bias']


def entropy_by_hand(config, params, rows):
  """One layer, row, head and query at a time."""
  ids, token_types, segments = rows
  encoder = params['encoder']
  x = run(Embeddings, config)(encoder['embeddings'], *rows)
  segments = np.asarray(segments)
  result = []
  for number in range(config.num_layers):
    layer = jax.tree.map(lambda leaf, i=number: leaf[i], encoder['layers'])
    seen = np.asarray(x)
    if config.pre_norm:
      seen = layer_norm(seen, layer['attention_norm'])
    shape = (*seen.shape[:2], config.num_heads, config.head_size)
    q, k = (
      np.asarray(y, np.float64).reshape(shape)
      for y in queries_and_keys(config, layer, seen)
    )
    entropies = []
    for b, s in zip(*np.nonzero(segments), strict=True):
      own = segments[b] == segments[b, s]
      for h in range(config.num_heads):
        scores = k[b, own, h] @ q[b, s, h] / np.sqrt(config.head_size)
        p = np.exp(scores - scores.max())
        p /= p.sum()
        entropies.append(-(p[p > 0] * np.log(p[p > 0])).sum())
    result.append(np.mean(entropies))
    x = run(EncoderLayer, config)(layer, x, rows[2])
  return result


@pytest.mark.parametrize(
  'case', CASES, ids=lambda case: ' '.join(map(str, case.values()))
)
def test_attention_entropy_is_what_it_is_by_hand(case):
  config = tiny_config(**case)
  params = random_params(maker(BertModel, config))
  rows = packed_rows()
  expected = entropy_by_hand(config, params, rows)
  assert abs(expected[0] - expected[1]) > 1e-3  # the layers are told apart
  np.testing.assert_allclose(
    entropy(config, params, rows), expected, rtol=0, atol=1e-5
  )


def without_queries(params):
  """Scores of 0 whatever the tokens, with standard attention."""
  query = params['encoder']['layers']['attention']['projection']['query']
  query['kernel'] = jnp.zeros_like(query['kernel'])
  query['bias'] = jnp.zeros_like(query['bias'])
  return params


def test_looking_everywhere_alike_has_the_entropy_of_the_segments_length():
  config = tiny_config(attention='standard')
  params = without_queries(random_params(maker(BertModel, config)))
  rows = packed_rows()
  lengths = [12] * 12 + [4] * 4 + [5] * 5 + [1] + [2] * 2
  expected = np.log(lengths).mean()
  np.testing.assert_allclose(entropy(config, params, rows), expected, rtol=1e-6)
  np.testing.assert_allclose(uniform_entropy(rows[2]), expected, rtol=1e-6)


def test_looking_at_one_token_has_no_entropy():
  config = tiny_config(attention='tied')
  params = random_params(maker(BertModel, config))
  kernel = params['encoder']['layers']['attention']['projection']['shared']
  kernel['kernel'] = 1000 * kernel['kernel']
  found = entropy(config, params, packed_rows())
  assert np.isfinite(found).all()
  assert found.max() < 0.05


@pytest.mark.parametrize('attention', ['standard', 'shared'])
def test_padding_does_not_change_the_entropy(attention):
  config = tiny_config(attention=attention)
  params = random_params(maker(BertModel, config))
  rows = packed_rows()
  # Four more columns and two more rows, of words but in no segment.
  padded = [
    jnp.pad(array, ((0, 2), (0, 4)), constant_values=value)
    for array, value in zip(rows, (7, 1, 0), strict=True)
  ]
  np.testing.assert_allclose(
    entropy(config, params, padded), entropy(config, params, rows), rtol=1e-5
  )
  np.testing.assert_allclose(
    uniform_entropy(padded[2]), uniform_entropy(rows[2]), rtol=1e-6
  )


def test_nothing_but_padding_has_no_entropy():
  config = tiny_config()
  params = random_params(maker(BertModel, config))
  ids, token_types, segments = packed_rows()
  empty = (ids, token_types, jnp.zeros_like(segments))
  np.testing.assert_array_equal(entropy(config, params, empty), [0, 0])
  assert uniform_entropy(empty[2]) == 0


def test_tied_queries_and_keys_start_out_looking_at_themselves():
  # Self-scores of 2.46 at base width, as in tests/test_attention.py.
  config = tiny_config(hidden_size=768, num_heads=12, num_layers=1)
  rows = packed_rows()

  def fresh(attention):
    changed = dataclasses.replace(config, attention=attention)
    params = initialise(maker(BertModel, changed), jax.random.key(0))
    return entropy(changed, params, rows)[0]

  uniform = float(uniform_entropy(rows[2]))
  assert uniform - 0.1 < fresh('standard') < uniform
  assert fresh('shared') < uniform - 0.25


def test_diagonals_are_those_that_the_output_depends_on():
  config = tiny_config(attention='shared')
  params = random_params(maker(BertModel, config))
  projection = params['encoder']['layers']['attention']['projection']
  found = diagonals(params)
  assert set(found) == {'d_q_times_d_k', 'd_v'}
  assert found['d_v'].shape == (config.num_layers, config.hidden_size)
  np.testing.assert_array_equal(found['d_v'], projection['d_v'])
  np.testing.assert_array_equal(
    found['d_q_times_d_k'], projection['d_q'] * projection['d_k']
  )


@pytest.mark.parametrize('attention', sorted(set(ATTENTIONS) - {'shared'}))
def test_mechanisms_without_diagonals_show_none(attention):
  config = tiny_config(attention=attention)
  assert diagonals(random_params(maker(BertModel, config))) == {}
