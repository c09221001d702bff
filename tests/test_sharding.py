"""Shared parameters: the same numbers, less memory, and no rows on the wire."""

import json
import re
import shutil

import jax
import numpy as np
import pytest

from shared_bert.errors import UserError
from shared_bert.finetune import finetune
from shared_bert.model import parameters
from shared_bert.pretrain import pretrain
from shared_bert.training import mesh as mesh_lib
from shared_bert.training.step import abstract_state, make_train_step
from tests import tiny
from tests.tiny_jobs import finetune_config, pretrain_config

STEPS = 20
MESHES = ('1', '2', '4', '8')
EIGHT = pytest.mark.skipif(
  jax.device_count() != 8, reason='wants eight devices'
)


def lines(workdir):
  rows = (workdir / 'metrics.jsonl').read_text().splitlines()
  return [json.loads(row) for row in rows]


def packed(text, glue, pretrained):
  """Rows of several documents each."""
  return pretrain, pretrain_config(text, steps=STEPS)


def unpacked(text, glue, pretrained):
  """A sentence a row, of the embedded language."""
  config = pretrain_config(text, steps=STEPS)
  config.data.update({'source': 'toy', 'text': '', 'heldout_rows': 40})
  return pretrain, config


def fine_tuning(text, glue, pretrained):
  config = finetune_config('cola', glue, pretrained)
  config.train.update({'epochs': None, 'steps': STEPS, 'eval_every': 10})
  config.train.learning_rate = 1e-3
  return finetune, config


@pytest.fixture(scope='module')
def curve(text, glue, pretrained, tmp_path_factory):
  """Runs a job on a mesh, or on one device; to its lines of metrics."""
  kept = {}

  def run(job, fsdp):
    if (job, fsdp) not in kept:
      function, config = job(text, glue, pretrained)
      config.train.log_every = 1
      config.train.warmup_steps = 2
      workdir = tmp_path_factory.mktemp('curve')
      with pytest.MonkeyPatch.context() as patch:
        if fsdp:
          config.mesh.fsdp = fsdp
        else:
          patch.setattr(mesh_lib, 'find_devices', lambda: jax.devices()[:1])
        function(config, workdir)
      kept[job, fsdp] = lines(workdir)
    return kept[job, fsdp]

  return run


@EIGHT
@pytest.mark.parametrize('fsdp', MESHES)
@pytest.mark.parametrize('job', [packed, unpacked, fine_tuning])
def test_the_mesh_does_not_change_the_losses(curve, job, fsdp):
  alone, together = curve(job, ''), curve(job, fsdp)
  assert [(r['step'], r['split']) for r in alone] == [
    (r['step'], r['split']) for r in together
  ]
  pairs = [
    (a['loss'], b['loss'])
    for a, b in zip(alone, together, strict=True)
    if 'loss' in a
  ]
  assert len(pairs) > STEPS
  np.testing.assert_allclose(*zip(*pairs, strict=True), rtol=1e-5)
  entropies = [
    [list(r.values())[2:] for r in rows if 'uniform' in r]
    for rows in (alone, together)
  ]
  np.testing.assert_allclose(*entropies, rtol=1e-4)


@EIGHT
@pytest.mark.parametrize(('devices', 'fsdp'), [(1, 1), (2, 2), (4, 1), (8, 8)])
def test_a_run_goes_on_with_other_devices_as_if_nothing_had_happened(
  tmp_path, devices, fsdp
):
  whole, parts = tmp_path / 'whole', tmp_path / 'parts'
  run = {'steps': 8, 'checkpoint_every': 4, 'log_every': 1}
  tiny.run(whole, fsdp=4, **run)
  shutil.copytree(whole, parts)
  shutil.rmtree(parts / 'checkpoints' / '8')
  tiny.run(parts, devices=jax.devices()[:devices], fsdp=fsdp, **run)
  losses = [
    [r['loss'] for r in lines(workdir) if r['split'] == 'train']
    for workdir in (whole, parts)
  ]
  assert len(losses[0]) == 8
  np.testing.assert_allclose(*losses, rtol=1e-5)


def step_on(fsdp):
  """The tiny step and the state that it takes, on eight devices."""
  mesh, optimizer = mesh_lib.make_mesh(fsdp), tiny.optimizer()
  config = tiny.model_config()
  state = abstract_state(
    lambda: parameters.initialise(tiny.maker(config), jax.random.key(0)),
    optimizer,
    ('loss',),
    mesh,
  )
  loss = tiny.loss_function(config)
  step = make_train_step(loss, optimizer, mesh, seed=0, log_every=1)
  return state, step, mesh_lib.place_batch(mesh, tiny.batch(0))


@EIGHT
def test_matrices_and_their_moments_are_shared_and_nothing_else():
  state, _, _ = step_on(4)
  held = {'': 0, 'matrices': 0}
  total = dict(held)
  for name, leaf in parameters.named_leaves(state):
    kind = 'matrices' if name.endswith(('kernel', 'embedding')) else ''
    held[kind] += np.prod(leaf.sharding.shard_shape(leaf.shape), dtype=int)
    total[kind] += leaf.size
  assert 4 * held['matrices'] == total['matrices'] > 10_000
  assert held[''] == total['']


@EIGHT
@pytest.mark.parametrize('accumulation', [1, 2])
def test_devices_send_each_other_weights_and_gradients_but_no_rows(
  accumulation,
):
  state, step, batch = step_on(4)
  text = step.lower(state, batch, accumulation).compile().as_text()
  weights = set()
  for name, leaf in parameters.named_leaves(state['params']):
    shape = leaf.shape[1:] if '/layers/' in name else leaf.shape
    weights |= {shape, (1, *shape), leaf.shape}
  sent = set()
  moved = r'= (.*?) (?:all-|reduce-scatter|collective-)[a-z-]*\('
  for result in re.findall(moved, text):
    for kind, dims in re.findall(r'(\w+)\[([\d,]*)\]', result):
      sent.add((kind, tuple(map(int, filter(None, dims.split(','))))))
  shapes = {shape for kind, shape in sent if kind == 'f32' and shape}
  assert shapes and shapes <= weights, shapes - weights
  # Whole numbers: counts of tokens and targets.
  assert {shape for kind, shape in sent if kind != 'f32'} <= {()}


def test_a_mesh_that_divides_no_devices_or_widths_is_refused_with_what_fits():
  model = tiny.model_config()
  with pytest.raises(UserError, match='not divide the 8 devices: use 1, 2, 4'):
    mesh_lib.fsdp_of('3', model, 8)
  narrow = tiny.model_config(hidden_size=20, intermediate_size=40)
  with pytest.raises(UserError, match='hidden_size=20 .* use 1, 2, 4 or auto'):
    mesh_lib.fsdp_of('8', narrow, 8)


def test_auto_shares_no_more_than_memory_asks_for():
  model = tiny.model_config()
  state = 16 * parameters.count_by_block(model)['total']
  assert mesh_lib.fsdp_of('auto', model, 8) == 1  # nobody knows the memory
  assert mesh_lib.fsdp_of('auto', model, 8, 2 * state) == 1
  assert mesh_lib.fsdp_of('auto', model, 8, 2 * state - 1) == 2
  assert mesh_lib.fsdp_of('auto', model, 8, state // 3) == 8
  assert mesh_lib.fsdp_of('auto', model, 8, 1) == 8
