"""Fine-tuning on packed rows: the numbers of padded ones."""

import functools

import jax
import numpy as np
import optax
import pytest

from shared_bert import config as config_lib
from shared_bert.data import batches
from shared_bert.data.glue import Examples, Task, get_task
from shared_bert.data.packed_batches import PackedRows
from shared_bert.model.parameters import named_leaves
from shared_bert.task_data import TaskData
from shared_bert.task_model import TaskModel
from shared_bert.training import mesh as mesh_lib
from shared_bert.training.step import init_state, make_train_step
from tests.test_packed_batches import examples
from tests.tiny_model import (
  VOCAB_SIZE,
  assert_close,
  random_params,
  tiny_config,
)

S, BATCH = 32, 32
BUCKETS = (12, 24)
CLASSES, SCORES = get_task('mnli'), get_task('stsb')


def split(task: Task, count: int, seed: int):
  """Texts that nobody reads, and their rows."""
  rng = np.random.default_rng(seed)
  arrays = examples(count, seed, seq_len=S, longest=S)
  arrays['input_ids'] %= VOCAB_SIZE
  if not task.is_regression:
    arrays['labels'] = rng.integers(0, task.num_outputs, count, np.int32)
  texts = [''] * count
  return Examples(texts, None, arrays['labels'], list(range(count))), arrays


def task_model(task, packing, mesh=None):
  """On 40 examples to train on and 21 to evaluate; without dropout."""
  config = config_lib.finetune_defaults()
  config.data.packing = packing
  config.data.length_buckets = BUCKETS
  config.data.eval_batch_size = 8
  splits = {'train': split(task, 40, 0), 'dev': split(task, 21, 1)}
  data = TaskData(
    task,
    {name: texts for name, (texts, _) in splits.items()},
    {name: arrays for name, (_, arrays) in splits.items()},
  )
  mesh = mesh or mesh_lib.make_mesh(devices=jax.devices()[:1])
  model = tiny_config(
    hidden_dropout=0.0, attention_dropout=0.0, max_positions=S
  )
  return TaskModel(model, data, config, mesh), data


def trained(task, packing, devices, accumulation, steps=3):
  """Parameters and sums of every step, of plain descent."""
  mesh = mesh_lib.make_mesh(devices=jax.devices()[:devices])
  trainee, data = task_model(task, packing, mesh)
  rows_of = batches.Rows
  if packing:
    rows_of = functools.partial(PackedRows, multiple=devices * accumulation)
  rows = rows_of(data.arrays['train'], BATCH, 0, buckets=BUCKETS)
  # Plain descent: Adam would divide rounding errors by themselves.
  sgd = optax.sgd(1.0)
  state = init_state(
    lambda: random_params(trainee.make), sgd, trainee.metric_names, mesh
  )
  step = make_train_step(trainee.loss_sums, sgd, mesh, seed=0, log_every=100)
  windows, counts = [], []
  for number in range(steps):
    batch = rows(number)
    counts.append(len(batch['input_ids']))
    batch = mesh_lib.place_batch(mesh, batch)
    state, window = step(state, batch, 0.05, accumulation)
    windows.append(jax.device_get(window))
  return jax.device_get(state['params']), windows, counts


@functools.cache
def padded(task_name):
  return trained(get_task(task_name), False, 1, 1)


@pytest.mark.parametrize(('devices', 'accumulation'), [(1, 1), (8, 2)])
@pytest.mark.parametrize('task', [CLASSES, SCORES], ids=['classes', 'scores'])
def test_packed_training_has_the_numbers_of_padded_training(
  task, devices, accumulation
):
  if devices > len(jax.devices()):
    devices = 1
  params, windows, _ = padded(task.name)
  packed, packed_windows, counts = trained(task, True, devices, accumulation)
  assert max(counts) < BATCH
  # Losses and accuracies, counts of examples and tokens, norms of gradients.
  for ours, theirs in zip(packed_windows, windows, strict=True):
    for (name, mine), other in zip(
      named_leaves(ours), jax.tree.leaves(theirs), strict=True
    ):
      np.testing.assert_allclose(mine, other, rtol=1e-5, err_msg=name)
  assert windows[-1]['loss'][1] == 3 * BATCH
  assert_close(packed, params)


@pytest.mark.parametrize('task', [CLASSES, SCORES], ids=['classes', 'scores'])
def test_packed_evaluation_predicts_every_example_in_its_place(task):
  mesh = mesh_lib.make_mesh()
  (one, _), (several, _) = (task_model(task, p, mesh) for p in (False, True))
  params = mesh_lib.place(mesh, random_params(one.make))
  for name in ('train', 'dev'):
    expected = one.outputs_of(params, name)
    outputs = several.outputs_of(params, name)
    assert outputs.shape == expected.shape
    np.testing.assert_allclose(outputs, expected, rtol=0, atol=1e-5)
    assert expected.std(axis=0).min() > 0.01  # not a comparison of constants
  ours, theirs = several.evaluate(params), one.evaluate(params)
  assert ours.metrics['dev'] == pytest.approx(theirs.metrics['dev'], rel=1e-5)


def test_a_packed_example_never_hears_of_its_neighbours():
  # Bit for bit, in the loss of one example and the gradient of everything.
  model, data = task_model(CLASSES, True)
  batch = PackedRows(data.arrays['train'], 16, 0)(0)
  (row,) = np.nonzero(batch['weight'].sum(axis=1) > 2)[0][:1]
  batch['weight'][:] = 0
  batch['weight'][row, 1] = 1  # the one in the middle

  @jax.jit
  def loss_and_gradients(params, batch):
    return jax.value_and_grad(
      lambda p: model.loss_sums(p, batch, None)['loss'][0]
    )(params)

  other = {name: array.copy() for name, array in batch.items()}
  neighbours = batch['segment_ids'] > 0
  neighbours[row] &= batch['segment_ids'][row] != 2
  other['input_ids'][neighbours] = 5 + (other['input_ids'][neighbours] + 7) % 40
  assert (other['input_ids'][row] != batch['input_ids'][row]).any()
  params = random_params(model.make)
  before = loss_and_gradients(params, batch)
  after = loss_and_gradients(params, other)
  jax.tree.map(np.testing.assert_array_equal, before, after)
  assert np.abs(before[1]['pooler']['dense']['kernel']).max() > 1e-3
