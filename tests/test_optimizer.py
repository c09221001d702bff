"""Optimisers and schedules: those of optax, one decay mask, all learn."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from optax import contrib

from shared_bert import config as config_lib
from shared_bert.data import toy
from shared_bert.errors import UserError
from shared_bert.model import parameters
from shared_bert.pretrain import pretrain
from shared_bert.training import schedules
from shared_bert.training.optimizer import make_optimizer
from shared_bert.training.schedules import OPTIMIZERS
from tests import tiny
from tests.tiny_jobs import SMALL

NO_DECAY = r'(bias|scale|/d_[qkv])$'
RATE, DECAY = 0.01, 0.1


def tree(seed):
  """Two layers, a pairwise form of three heads, and what is no matrix."""
  rng = np.random.default_rng(seed)
  shapes = {
    'embeddings': {'word': {'embedding': (7, 4)}},
    'encoder': {
      'layers': {
        'up': {'kernel': (2, 4, 6), 'bias': (2, 6)},
        'projection': {'pairwise': (2, 3, 4, 4), 'd_q': (2, 4)},
      }
    },
    'pooler': {'kernel': (4, 4), 'bias': (4,)},
  }
  return jax.tree.map(
    lambda shape: jnp.asarray(rng.normal(size=shape), jnp.float32),
    shapes,
    is_leaf=lambda x: isinstance(x, tuple),
  )


def layers_apart(params):
  """The same with a leaf for each layer, so that optax sees single ones."""
  flat = {}
  for name, leaf in parameters.named_leaves(params):
    parts = leaf if 'layers' in name else [leaf]
    flat |= {f'{n}|{name}': part for n, part in enumerate(parts)}
  return flat


def three_steps(optimizer, params, rate=1.0, prepare=lambda tree: tree):
  params = prepare(params)
  state = optimizer.init(params)
  for seed in (1, 2, 3):
    grads = prepare(tree(seed))
    updates, state = optimizer.update(grads, state, params)
    updates = jax.tree.map(lambda u: rate * u, updates)
    params = optax.apply_updates(params, updates)
  return params


def decayed(flat):
  return {name: not name.endswith(('bias', 'd_q')) for name in flat}


def of_optax(name, flat):
  """What optax itself makes of a tree of single layers."""
  plain = {'b1': 0.9, 'weight_decay': DECAY, 'mask': decayed}
  adam = {'b2': 0.999, 'eps': 1e-6}
  if name == 'muon':
    is_matrix = {
      key: 'layers' in key and leaf.ndim >= 2 for key, leaf in flat.items()
    }
    axes = contrib.MuonDimensionNumbers(-2, -1)
    muon = contrib.muon(
      RATE,
      weight_decay=DECAY,
      consistent_rms=0.2,
      muon_weight_dimension_numbers=lambda tree: jax.tree.map(
        lambda _: axes, tree
      ),
    )
    labels = {k: 'muon' if m else 'adam' for k, m in is_matrix.items()}
    adamw = optax.adamw(RATE, **plain, **adam)
    return optax.partition({'muon': muon, 'adam': adamw}, labels)
  return {
    'adamw': lambda: optax.adamw(RATE, **plain, **adam),
    'lamb': lambda: optax.lamb(RATE, **plain, **adam),
    'lion': lambda: optax.lion(RATE, **plain, b2=0.99),
  }[name]()


@pytest.mark.parametrize('name', OPTIMIZERS)
@pytest.mark.parametrize('clip_norm', [0.0, 1.0])
def test_updates_are_those_of_optax_for_each_layer_by_itself(name, clip_norm):
  ours = make_optimizer(
    name, weight_decay=DECAY, no_decay=NO_DECAY, clip_norm=clip_norm
  )
  params = tree(0)
  theirs = of_optax(name, layers_apart(params))
  if clip_norm:
    theirs = optax.chain(optax.clip_by_global_norm(clip_norm), theirs)
  actual = layers_apart(three_steps(ours, params, RATE))
  expected = three_steps(theirs, params, prepare=layers_apart)
  assert actual.keys() == expected.keys()
  for key, value in expected.items():
    np.testing.assert_allclose(
      actual[key], value, rtol=2e-5, atol=1e-6, err_msg=key
    )


def test_muon_makes_each_layer_and_head_orthogonal_by_itself():
  muon = make_optimizer(
    'muon', weight_decay=0.0, no_decay=NO_DECAY, clip_norm=0.0
  )
  params = tree(0)
  updates, _ = muon.update(tree(1), muon.init(params), params)
  layers = updates['encoder']['layers']
  kernels = layers['up']['kernel'], layers['projection']['pairwise']
  for update in kernels:
    longest = max(update.shape[-2:])
    for matrix in update.reshape(-1, *update.shape[-2:]):
      values = np.linalg.svd(matrix, compute_uv=False)
      # Newton and Schulz's five steps end between 0.5 and 1.5, not at 1.
      scale = 0.2 * np.sqrt(longest)
      assert (values > 0.3 * scale).all() and (values < 1.6 * scale).all()


@pytest.mark.parametrize('name', OPTIMIZERS)
def test_decay_leaves_biases_scales_and_diagonals_alone(name):
  optimizer = make_optimizer(
    name, weight_decay=0.5, no_decay=NO_DECAY, clip_norm=0.0
  )
  params = parameters.initialise(
    tiny.maker(tiny.model_config()), jax.random.key(0)
  )
  params = jax.tree.map(jnp.ones_like, params)
  zero = jax.tree.map(jnp.zeros_like, params)
  updates, _ = optimizer.update(zero, optimizer.init(params), params)
  decayed = {
    name for name, u in parameters.named_leaves(updates) if (u != 0).any()
  }
  spared = {name for name, _ in parameters.named_leaves(params)} - decayed
  assert all(name.endswith(('kernel', 'embedding')) for name in decayed)
  assert all(
    name.endswith(('bias', 'scale', 'd_q', 'd_k', 'd_v')) for name in spared
  )
  assert 'encoder/layers/attention/projection/d_q' in spared


@pytest.mark.parametrize('name', ['adamw', 'muon'])
def test_diagonals_can_learn_at_a_rate_of_their_own(name):
  optimizer = make_optimizer(
    name,
    weight_decay=0.0,
    no_decay='bias',
    clip_norm=0.0,
    diagonal_learning_rate_scale=0.25,
  )
  params = {'p': {'d_q': jnp.ones(3), 'kernel': jnp.ones(3)}}
  grads = jax.tree.map(jnp.ones_like, params)
  updates, _ = optimizer.update(grads, optimizer.init(params), params)
  np.testing.assert_allclose(
    updates['p']['d_q'], 0.25 * updates['p']['kernel'], rtol=1e-6
  )


def test_an_unknown_optimiser_is_refused():
  with pytest.raises(UserError, match='adamw, lamb, lion, muon'):
    make_optimizer('adam', weight_decay=0, no_decay='b', clip_norm=0)


@pytest.mark.parametrize(
  ('name', 'values'),
  [
    ('linear', {0: 0.0, 5: 0.5, 10: 1.0, 55: 0.5, 100: 0.0}),
    ('cosine', {0: 0.0, 10: 1.0, 55: 0.5, 100: 0.0}),
    ('constant', {0: 0.0, 5: 0.5, 10: 1.0, 100: 1.0}),
    ('rsqrt', {0: 0.0, 5: 0.5, 10: 1.0, 40: 0.5, 90: 1 / 3}),
    ('wsd', {0: 0.0, 10: 1.0, 80: 1.0, 85: 0.5, 100: 0.0}),
  ],
)
def test_schedules_warm_up_and_end_where_they_should(name, values):
  schedule = schedules.learning_rate_schedule(name, 2.0, 0.1)
  for percent, value in values.items():
    np.testing.assert_allclose(schedule(percent / 100), 2 * value, atol=1e-9)


def test_a_warm_up_may_start_above_nothing():
  schedule = schedules.learning_rate_schedule(
    'linear', 1.0, 0.75, warmup_from=0.25
  )
  # cramming's schedulers.py, `get_budget_triangle` with 0.25 and 0.25.
  for done in (0.0, 0.1, 0.5, 0.75, 0.8, 1.0):
    triangle = min(0.25 + done * 0.75 / 0.75, 1 / 0.25 - done / 0.25)
    np.testing.assert_allclose(schedule(done), triangle, atol=1e-9)


@pytest.mark.parametrize(
  ('name', 'warmup', 'words'),
  [
    ('rsqrt', 0.0, 'falls from the end of the warm-up'),
    ('wsd', 0.9, 'train.decay_ratio=0.2'),
    ('step', 0.1, 'linear, cosine, constant, rsqrt, wsd'),
  ],
)
def test_a_schedule_that_cannot_be_is_refused(name, warmup, words):
  with pytest.raises(UserError, match=words):
    schedules.learning_rate_schedule(name, 1.0, warmup)


# Peak learning rates under which each learns in 200 steps; not tuned.
LEARNING_RATES = {'adamw': 1e-2, 'lamb': 3e-2, 'lion': 2e-3, 'muon': 1e-2}


@pytest.mark.parametrize('name', OPTIMIZERS)
def test_every_optimiser_learns_the_embedded_language(name, tmp_path):
  config = config_lib.pretrain_defaults()
  config.tensorboard = False
  config.data.update({'source': 'toy', 'seq_len': 16, 'heldout_rows': 256})
  config.model.update(
    SMALL
    | {
      'hidden_size': 32,
      'intermediate_size': 64,
      'hidden_dropout': 0.0,
      'attention_dropout': 0.0,
      'initializer_range': 0.1,
      'diagonal_init': 'signs',
    }
  )
  config.train.update(
    {
      'optimizer': name,
      'learning_rate': LEARNING_RATES[name],
      'steps': 200,
      'batch_size': 64,
      'checkpoint_every': 0,
    }
  )
  loss = pretrain(config, tmp_path)['metrics']['heldout']['loss']
  ids = np.asarray(toy.toy_corpus(16).train)
  words = ids[~np.isin(ids, toy.toy_tokenizer().special_ids)]
  shares = np.bincount(words) / words.size
  shares = shares[shares > 0]
  guess = -(shares * np.log(shares)).sum()  # of words by their frequency
  assert loss < 0.5 * guess
