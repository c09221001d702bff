"""Names, shapes and numbers of parameters, against a committed list.

`python -m tests.test_parameters` writes the list anew: a change of it breaks
checkpoints that exist, and wants a reason.
"""

import json
import math
import pathlib
import re

import jax
import jax.numpy as jnp
import pytest

from shared_bert.model.config import ATTENTIONS, SIZES, BertConfig
from shared_bert.model.encoder import BertModel
from shared_bert.model.heads import (
  BertForMaskedLM,
  BertForPreTraining,
  BertForQuestionAnswering,
  BertForSequenceClassification,
)
from shared_bert.model.parameters import (
  abstract,
  beside_standard,
  count,
  count_by_block,
  named_leaves,
)

GOLDEN = pathlib.Path(__file__).parent / 'golden' / 'parameters.json'

VARIANTS = {
  'shared with role_bias': {'attention': 'shared', 'role_bias': True},
  'shared with pre_norm': {'attention': 'shared', 'pre_norm': True},
}


def shapes_of(make):
  return {name: list(leaf.shape) for name, leaf in named_leaves(abstract(make))}


def head_shapes(model, *args):
  """The parameters that a head has beside the encoder and the pooler."""
  config = BertConfig.of_size('base')
  shapes = shapes_of(lambda rngs: model(config, *args, rngs=rngs))
  return {
    name: shape
    for name, shape in shapes.items()
    if not name.startswith(('encoder/', 'pooler/'))
  }


def describe_heads():
  return {
    'BertForMaskedLM': head_shapes(BertForMaskedLM),
    'BertForPreTraining': head_shapes(BertForPreTraining),
    'BertForSequenceClassification, 3 outputs': head_shapes(
      BertForSequenceClassification, 3
    ),
    'BertForQuestionAnswering': head_shapes(BertForQuestionAnswering),
  }


def describe(size, attention):
  """The shapes in a `BertModel`, and how many numbers they make."""
  values = VARIANTS.get(attention, {'attention': attention})
  config = BertConfig.of_size(size, **values)
  shapes = shapes_of(lambda rngs: BertModel(config, rngs=rngs))
  return {'total': sum(map(math.prod, shapes.values())), 'shapes': shapes}


CASES = [
  *((size, attention) for size in SIZES for attention in ATTENTIONS),
  *(('base', variant) for variant in VARIANTS),
]


@pytest.fixture(scope='module')
def golden():
  return json.loads(GOLDEN.read_text())


@pytest.mark.parametrize(('size', 'attention'), CASES)
def test_parameters_are_those_of_the_committed_list(golden, size, attention):
  assert describe(size, attention) == golden[size][attention]


def test_heads_are_those_of_the_committed_list(golden):
  assert describe_heads() == golden['heads']


def test_the_committed_list_has_nothing_else(golden):
  listed = [(s, a) for s in golden if s != 'heads' for a in golden[s]]
  assert sorted(listed) == sorted(CASES)


@pytest.mark.parametrize(
  ('attention', 'per_layer'),
  [
    ('standard', 1_771_776),
    ('shared', 592_896),
    ('symmetric', 1_181_184),
    ('pairwise', 1_230_336),
    ('tied', 590_592),
    ('tied_kv', 1_181_184),
  ],
)
def test_attention_parameters_at_base(golden, attention, per_layer):
  # The table in model/attention.py.
  counts = count_by_block(BertConfig.of_size('base', attention=attention))
  assert counts['query/key/value'] == 12 * per_layer
  assert counts['total'] == golden['base'][attention]['total']


def test_whole_models_have_the_published_sizes(golden):
  standard = golden['base']['standard']['total']
  shared = golden['base']['shared']['total']
  assert standard == 109_482_240  # of BERT-base with its pooler
  assert shared == 95_335_680
  assert round(100 * (shared / standard - 1), 2) == -12.92
  assert golden['large']['standard']['total'] == 335_141_888
  # Projections alone: the paper prints 66.53 %.
  assert round(100 * (1 - 592_896 / 1_771_776), 2) == 66.54


def test_masked_lm_adds_a_transform_and_a_bias_but_no_decoder():
  config = BertConfig.of_size('base', attention='standard')
  masked_lm = abstract(lambda rngs: BertForMaskedLM(config, rngs=rngs))
  pooler = 768 * 768 + 768
  # 109,514,298 with no pooler, as Hugging Face's BertForMaskedLM.
  assert count(masked_lm) == 109_514_298
  assert count(masked_lm['encoder']) == 109_482_240 - pooler


def test_blocks_add_up_beside_those_of_standard_attention():
  config = BertConfig.of_size('base', attention='shared', role_bias=True)
  blocks = beside_standard(config)
  model = abstract(lambda rngs: BertModel(config, rngs=rngs))
  assert blocks['total'] == (count(model), 109_482_240)
  ours, theirs = blocks.pop('query/key/value')
  assert theirs - ours == 12 * (1_771_776 - 768 * 768 - 6 * 768)
  assert blocks.pop('total')
  assert all(ours == theirs for ours, theirs in blocks.values())
  assert all(ours > 0 for ours, _ in blocks.values())


def test_parameters_are_float32_also_for_bfloat16_arithmetic():
  config = BertConfig.of_size('tiny', dtype='bfloat16')
  model = abstract(lambda rngs: BertForMaskedLM(config, rngs=rngs))
  assert {leaf.dtype for leaf in jax.tree.leaves(model)} == {
    jnp.dtype('float32')
  }


def write():
  golden = {'heads': describe_heads()}
  for size, attention in CASES:
    golden.setdefault(size, {})[attention] = describe(size, attention)
  text = json.dumps(golden, indent=1)
  # One line a shape.
  text = re.sub(r'\[[\d\s,]+\]', lambda match: ' '.join(match[0].split()), text)
  GOLDEN.write_text(text.replace('[ ', '[').replace(' ]', ']') + '\n')


if __name__ == '__main__':
  write()
