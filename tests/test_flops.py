"""FLOPs by formula: those of the matrix products that JAX traces."""

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
  assert _traced(function, *args) == sum(by_block.values()) * B * S


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
  assert _traced(jax.grad(function), *args) == by_formula


def test_a_classifier_has_the_products_of_the_formula():
  config = _config('shared')

  def make(rngs):
    return BertForSequenceClassification(config, C, rngs=rngs)

  apply = parameters.applier(make)
  batch = (_ids(B, S), _ids(B, S), _ids(B, S))
  params = parameters.abstract(make)
  by_block = flops.forward_flops_per_token(config, S, num_outputs=C)
  assert _traced(apply, params, *batch) == sum(by_block.values()) * B * S


def test_layers_count_alike_whether_they_are_scanned_or_unrolled():
  counts = []
  for scan in (True, False):
    function, args = _masked_words(_config('shared', scan_layers=scan))
    counts.append(_traced(function, *args))
  assert counts[0] == counts[1]
