"""The model of masked words: packed rows, pairs, held-out masks."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from shared_bert import config as config_lib
from shared_bert.data.tokenizer import SPECIAL_TOKENS, Tokenizer
from shared_bert.masked_model import MaskedModel
from shared_bert.model.backends import BACKENDS
from shared_bert.model.config import ATTENTIONS
from shared_bert.model.parameters import applier, named_leaves
from shared_bert.training import mesh as mesh_lib
from shared_bert.training.step import init_state, make_train_step
from tests.tiny_model import (
  VOCAB_SIZE,
  assert_close,
  random_params,
  tiny_config,
)

TOKENIZER = Tokenizer.from_vocab(
  [
    *SPECIAL_TOKENS,
    *(f'w{i}' for i in range(30)),
    *(f'##{i}' for i in range(VOCAB_SIZE - 35)),
  ]
)
PAD, CLS, SEP = TOKENIZER.pad_id, TOKENIZER.cls_id, TOKENIZER.sep_id
S = 16
# Lengths of the segments of each packed row; the second is not the longest.
PACKED = ((7, 5, 3), (4, 4, 8))


def packed_rows(lengths=PACKED, seed=0):
  """Ids int32 [B, S] of segments side by side."""
  rng = np.random.default_rng(seed)
  rows = np.full((len(lengths), S), PAD, np.int32)
  for row, segments in zip(rows, lengths, strict=True):
    start = 0
    for length in segments:
      words = rng.integers(5, VOCAB_SIZE, length - 2)
      row[start : start + length] = [CLS, *words, SEP]
      start += length
  return rows


def pair_rows(count, seed=0):
  """Ids int32 [count, S] of pairs, of many lengths, and their labels."""
  rng = np.random.default_rng(seed)
  rows = np.full((count, S), PAD, np.int32)
  for row in rows:
    a, b = (rng.integers(5, VOCAB_SIZE, rng.integers(1, 7)) for _ in range(2))
    row[: len(a) + len(b) + 3] = [CLS, *a, SEP, *b, SEP]
  return rows, rng.integers(0, 2, count).astype(np.uint8)


def masked_model(
  heldout=None,
  labels=None,
  *,
  attention='shared',
  backend='xla',
  seed=0,
  batch_size=8,
  **more,
):
  """Without dropout, half of the tokens masked."""
  config = config_lib.pretrain_defaults()
  config.seed = seed
  config.data.mask_ratio = 0.5
  config.train.batch_size = batch_size
  return MaskedModel(
    tiny_config(
      attention=attention,
      attention_backend=backend,
      hidden_dropout=0,
      attention_dropout=0,
    ),
    config,
    TOKENIZER,
    np.zeros((0, S), np.int32) if heldout is None else heldout,
    mesh_lib.make_mesh(),
    labels,
    **more,
  )


def batch_of(ids, labels=None):
  batch = {
    'input_ids': jnp.asarray(ids),
    'row_id': jnp.arange(len(ids)),
    'epoch': jnp.zeros(len(ids), jnp.int32),
  }
  if labels is not None:
    batch['next_sentence_labels'] = jnp.asarray(labels, jnp.int32)
  return batch


@functools.cache
def prepared(perturbed=False):
  """Packed rows, masked on the device, and below them rows of padding.

  Together they are as many as there are segments.

  Args:
    perturbed: every word outside the second segments is another one.
  """
  ids = packed_rows((*PACKED, (), (), (), ()))
  others = (np.cumsum(ids == CLS, axis=1) != 2) & (ids >= 5)
  if perturbed:
    ids = np.where(others, 5 + (ids - 5 + 11) % (VOCAB_SIZE - 5), ids)
  return jax.jit(masked_model().prepare)(batch_of(ids))


# Each mechanism, and what computes it.
PACKING = [*((name, 'xla') for name in ATTENTIONS), ('shared', 'pallas_shared')]


def test_every_backend_that_packs_is_tested_here():
  packing = {name for name, backend in BACKENDS.items() if backend.packs}
  assert packing == {backend for _, backend in PACKING}


@pytest.mark.parametrize(('attention', 'backend'), PACKING)
def test_a_packed_segment_never_leaks_into_its_neighbours(attention, backend):
  # Bit for bit, in logits, loss and the gradient of every parameter, however
  # the neighbours' tokens change.
  model = masked_model(attention=attention, backend=backend)
  params = random_params(model.make)
  apply = applier(model.make)

  @jax.jit
  def predict_second(params, batch):
    own = batch['masked_positions']
    own = jnp.take_along_axis(batch['segment_ids'], own, axis=1) == 2
    own &= batch['masked_weights'] > 0

    def loss(params):
      logits = apply(
        params,
        batch['input_ids'],
        batch['token_type_ids'],
        batch['segment_ids'],
        masked_positions=batch['masked_positions'],
      )
      losses = optax.softmax_cross_entropy_with_integer_labels(
        logits, batch['masked_labels']
      )
      logits = jnp.where(own[..., None], logits, 0)
      return (losses * own).sum(), (own.sum(), logits)

    return jax.value_and_grad(loss, has_aux=True)(params)

  before = predict_second(params, prepared())
  after = predict_second(params, prepared(perturbed=True))
  for (name, leaf), other in zip(
    named_leaves(before), jax.tree.leaves(after), strict=True
  ):
    np.testing.assert_array_equal(leaf, other, err_msg=name)
  (_, (count, _)), gradients = before
  assert count == 2
  assert np.abs(gradients['encoder']['layers']['attention_norm']['scale']).max()
  # Nor is there a gradient of the neighbours' inputs: the second segments end
  # at position 4, the others go on.
  positions = gradients['encoder']['embeddings']['position']['embedding']
  assert (np.abs(positions[:5]).max(axis=1) > 0).all()
  assert not positions[5:].any()


def separated(batch):
  """The segments of a prepared batch, each in a row of its own."""
  batch, rows = jax.device_get(batch), []
  for row in range(len(batch['input_ids'])):
    numbers = batch['segment_ids'][row]
    for number in range(1, numbers.max() + 1):
      (places,) = np.nonzero(numbers == number)
      positions = batch['masked_positions'][row]
      inside = np.isin(positions, places) & (batch['masked_weights'][row] > 0)
      ids = np.full(S, PAD, np.int32)
      ids[: len(places)] = batch['input_ids'][row, places]
      rows.append(
        {
          'input_ids': ids,
          'segment_ids': (np.arange(S) < len(places)).astype(np.int32),
          'token_type_ids': np.zeros(S, np.int32),
          'masked_positions': np.where(inside, positions - places[0], 0),
          'masked_labels': batch['masked_labels'][row],
          'masked_weights': inside.astype(np.float32),
        }
      )
  return {name: np.stack([row[name] for row in rows]) for name in rows[0]}


@pytest.mark.parametrize(('attention', 'backend'), PACKING)
def test_packed_and_separate_rows_have_one_loss_and_gradient(
  attention, backend
):
  model = masked_model(attention=attention, backend=backend)
  params = random_params(model.make)

  @jax.jit
  def loss_and_gradients(params, batch):
    def loss(params):
      total, weight = model.loss_sums(params, batch, None)['loss']
      return total / weight

    return jax.value_and_grad(loss)(params)

  packed = prepared()
  separate = separated(packed)
  assert len(separate['input_ids']) == 6
  assert separate['masked_weights'].sum() == packed['masked_weights'].sum()
  loss, gradients = loss_and_gradients(params, packed)
  assert_close(loss_and_gradients(params, separate), (loss, gradients))
  sizes = [np.abs(leaf).max() for leaf in jax.tree.leaves(gradients)]
  assert np.median(sizes) > 0.01  # not a comparison of zeros


def step_of_sgd(model, mesh, batch, accumulation, *, seed=0, frozen=()):
  """Parameters before and after a step of rate 1, and the means it logged."""
  sgd = optax.sgd(1.0)
  state = init_state(
    lambda: random_params(model.make, seed), sgd, model.metric_names, mesh
  )
  before = jax.device_get(state['params'])
  step = make_train_step(
    model.loss_sums,
    sgd,
    mesh,
    seed=0,
    log_every=100,
    prepare=model.prepare,
    frozen=frozen,
  )
  state, window = step(state, batch, 1.0, accumulation)
  after, window = jax.device_get((state['params'], window))
  means = {name: total / weight for name, (total, weight) in window.items()}
  return before, after, means


def test_accumulated_pairs_train_by_berts_sum_of_two_means():
  # Micro-batches have different numbers of masked tokens and equal numbers of
  # rows, so that a loss normalised by each alone would differ.
  ids, labels = pair_rows(16)
  model = masked_model(ids[:0], labels[:0])
  mesh = mesh_lib.make_mesh(devices=jax.devices()[:1])
  before, after, means = step_of_sgd(model, mesh, batch_of(ids, labels), 4)

  apply = applier(model.make)

  @jax.jit
  @jax.value_and_grad
  def bert(params):
    batch = model.prepare(batch_of(ids, labels))
    words, follows = apply(
      params,
      batch['input_ids'],
      batch['token_type_ids'],
      batch['segment_ids'],
      masked_positions=batch['masked_positions'],
    )
    entropy = optax.softmax_cross_entropy_with_integer_labels
    weights = batch['masked_weights']
    masked = (entropy(words, batch['masked_labels']) * weights).sum()
    return masked / weights.sum() + entropy(follows, labels).mean()

  loss, gradients = bert(before)
  assert_close(jax.tree.map(np.subtract, before, after), gradients)
  assert np.abs(gradients['next_sentence']['kernel']).max() > 0.01
  np.testing.assert_allclose(means['loss'], loss, rtol=1e-6)
  np.testing.assert_allclose(
    means['masked_loss'] + means['next_sentence_loss'], loss, rtol=1e-6
  )
  assert means['tokens'] == (ids != PAD).sum()
  right = means['next_sentence_accuracy'] * 16
  assert right == pytest.approx(round(right), abs=1e-4)


def test_heldout_masks_are_the_same_for_every_seed():
  rows = packed_rows(PACKED * 4)
  first, second = masked_model(rows), masked_model(rows, seed=5)
  params = random_params(first.make)
  assert first.evaluate(params) == second.evaluate(params)
  ours, theirs = (
    jax.jit(model.prepare)(batch_of(rows)) for model in (first, second)
  )
  assert (ours['masked_positions'] != theirs['masked_positions']).any()


def test_heldout_pairs_count_once_each_and_report_both_predictions():
  ids, labels = pair_rows(24)
  model = masked_model(ids, labels)
  params = random_params(model.make)
  metrics = model.evaluate(params).metrics['heldout']
  assert set(metrics) == {
    'loss',
    'masked_loss',
    'accuracy',
    'next_sentence_loss',
    'next_sentence_accuracy',
    'perplexity',
  }
  assert metrics['loss'] == (
    metrics['masked_loss'] + metrics['next_sentence_loss']
  )
  assert metrics['perplexity'] == pytest.approx(np.exp(metrics['masked_loss']))
  # A last batch filled up with rows that do not count changes nothing.
  in_one = masked_model(ids, labels, batch_size=32).evaluate(params)
  assert in_one.metrics['heldout'] == pytest.approx(metrics, rel=1e-5)
  # 24 rows, each one twenty-fourth.
  right = metrics['next_sentence_accuracy'] * 24
  assert right == pytest.approx(round(right), abs=1e-4)


def test_a_model_of_pairs_is_evaluated_on_text_without_pairs_and_back():
  ids, labels = pair_rows(16)
  paired = masked_model(ids, labels)
  params = random_params(paired.make)
  metrics = paired.evaluate(params).metrics['heldout']
  expected = {
    'loss': metrics['masked_loss'],
    'accuracy': metrics['accuracy'],
    'perplexity': metrics['perplexity'],
  }
  without_labels = masked_model(ids, has_next_sentence=True)
  seen = without_labels.evaluate(params).metrics['heldout']
  assert seen == pytest.approx(expected, rel=1e-5)
  without_head = masked_model(ids, labels, has_next_sentence=False)
  words = {k: params[k] for k in params if k not in ('pooler', 'next_sentence')}
  seen = without_head.evaluate(words).metrics['heldout']
  assert seen == pytest.approx(expected, rel=1e-5)


def test_attention_is_watched_within_the_segments_of_packed_rows():
  rows = packed_rows(PACKED * 4)
  model = masked_model(rows)
  seen = model.attention_entropy(random_params(model.make))
  # Each token sees those of its segment, not all of its row.
  sizes = np.concatenate([np.repeat(n, n) for row in PACKED for n in row])
  assert seen['uniform'] == pytest.approx(np.log(sizes).mean(), rel=1e-5)
  assert 0 < seen['layer_00'] < seen['uniform']
