"""FLOPs by formula: those of the matrix products that JAX traces."""

import dataclasses
import itertools
import math

import jax
import jax.numpy as jnp
import pytest

from shared_bert.model import flops, parameters
from shared_bert.model.config import ATTENTIONS, BertConfig
from shared_bert.model.heads import (
  BertForMaskedLM,
  BertForSequenceClassification,
)

B, S, P, C = 2, 24, 5, 3


def exactly(flops):
  """A whole number; the share P / S of a layer is no binary fraction."""
  assert flops == pytest.approx(round(flops), rel=1e-12)
  return round(flops)


def _products(jaxpr) -> int:
  """FLOPs of all matrix products of a jaxpr, those of inner ones too."""
  total = 0
  for equation in jaxpr.eqns:
    if equation.primitive.name == 'dot_general':
      (contracted, _), _ = equation.params['dimension_numbers']
      left = equation.invars[0].aval.shape
      summed = math.prod(left[axis] for axis in contracted)
      total += 2 * summed * equation.outvars[0].aval.size
    times = (
      equation.params['length'] if equation.primitive.name == 'scan' else 1
    )
    for inner in jax.tree.leaves(list(equation.params.values())):
      inner = getattr(inner, 'jaxpr', inner)  # one with its constants
      if hasattr(inner, 'eqns'):
        total += times * _products(inner)
  return total


def _traced(function, *args):
  return _products(jax.make_jaxpr(function)(*args).jaxpr)


def _config(attention, **changes):
  return BertConfig.of_size(
    'tiny',
    vocab_size=70,
    num_layers=3,
    hidden_size=16,
    num_heads=2,
    intermediate_size=40,
    attention=attention,
    **changes,
  )


def _ids(*shape):
  return jax.ShapeDtypeStruct(shape, jnp.int32)


def _masked_words(config):
  """The model's sum of logits as a function of its parameters, and these."""

  def make(rngs):
    return BertForMaskedLM(config, rngs=rngs)

  apply = parameters.applier(make)
  batch = (_ids(B, S), _ids(B, S), _ids(B, S), _ids(B, P))

  def function(params, ids, types, segments, positions):
    logits = apply(params, ids, types, segments, masked_positions=positions)
    return logits.sum()

  return function, (parameters.abstract(make), *batch)


@pytest.mark.parametrize('attention', ATTENTIONS)
def test_a_forward_pass_has_the_products_of_the_formula(attention):
  config = _config(attention)
  function, args = _masked_words(config)
  by_block = flops.forward_flops_per_token(config, S, P)
  assert _traced(function, *args) == exactly(sum(by_block.values()) * B * S)


@pytest.mark.parametrize(
  ('attention', 'remat'),
  [
    *((attention, 'none') for attention in ATTENTIONS),
    # U is a product within heads, which `dots` repeats.
    *itertools.product(('shared', 'pairwise'), ('full', 'dots')),
  ],
)
def test_a_training_step_has_the_products_of_the_formula(attention, remat):
  config = _config(attention, remat=remat)
  function, args = _masked_words(config)
  by_formula = flops.train_flops_per_token(config, S, P) * B * S
  # The gradient of a small table is a product, which is a way to add: formulas
  # of a model's arithmetic have no look-ups.
  rows = config.vocab_size + config.max_positions + config.type_vocab_size
  look_ups = 2 * B * S * rows * config.hidden_size
  assert _traced(jax.grad(function), *args) == exactly(by_formula + look_ups)


def test_residuals_of_low_rank_count():
  plain = _config('shared', role_bias=True)
  function, args = _masked_words(_config('shared', role_bias=True))
  more, args_of_more = _masked_words(
    _config('shared', role_bias=True, residual_rank=5)
  )
  added = _traced(more, *args_of_more) - _traced(function, *args)
  # L layers, three roles, two matrices [D, 5] each; of the last layer's queries
  # those of P tokens.
  assert added == (8 * S + P) * B * 2 * (2 * 16 * 5)
  rank = dataclasses.replace(plain, residual_rank=5)
  by_formula = [
    sum(flops.forward_flops_per_token(config, S, P).values()) * B * S
    for config in (rank, plain)
  ]
  assert added == exactly(by_formula[0] - by_formula[1])


def test_a_classifier_has_the_products_of_the_formula():
  config = _config('shared')

  def make(rngs):
    return BertForSequenceClassification(config, C, rngs=rngs)

  apply = parameters.applier(make)
  batch = (_ids(B, S), _ids(B, S), _ids(B, S))
  params = parameters.abstract(make)
  by_block = flops.forward_flops_per_token(config, S, num_outputs=C)
  assert _traced(apply, params, *batch) == exactly(
    sum(by_block.values()) * B * S
  )


def test_layers_count_alike_whether_they_are_scanned_or_unrolled():
  counts = []
  for scan in (True, False):
    function, args = _masked_words(_config('shared', scan_layers=scan))
    counts.append(_traced(function, *args))
  assert counts[0] == counts[1]
