"""Seeds of a task in one step: each as alone, its folder, resume, refusals."""

import copy
import json
import logging
import shutil

import jax
import numpy as np
import pytest

import shared_bert
from shared_bert import validation
from shared_bert.data.batches import Rows
from shared_bert.data.packed_batches import PackedRows
from shared_bert.data.stacked_batches import StackedRows
from shared_bert.errors import UserError
from shared_bert.evaluate import evaluate
from shared_bert.finetune import finetune, finetune_together
from shared_bert.interop import huggingface
from shared_bert.interop.opening import open_model
from shared_bert.suite import suite
from shared_bert.training.checkpoint import open_checkpoint
from tests.tiny_jobs import (
  UNEVEN_STEPS,
  finetune_config,
  interrupted,
  logged,
  on_one_device,
  uneven_config,
)

SEEDS = (0, 5)
# As packed rows, and one text a row; rows that are as long in every batch draw
# the same dropout, whatever batch of another seed is beside them.
KINDS = {
  'packed': {'dropout': 0.0},
  'packed, dropout': {'dropout': 0.1},
  'padded': {'dropout': 0.0, 'packing': False},
  'padded, dropout': {
    'dropout': 0.1,
    'packing': False,
    'length_buckets': (32,),
  },
}


def folders(workdir):
  return {seed: workdir / f'seed-{seed}' for seed in SEEDS}


def results_of(workdir):
  return json.loads((workdir / 'results.json').read_text())


def shape_of(value):
  """The keys of a tree of dicts."""
  if not isinstance(value, dict):
    return None
  return {key: shape_of(below) for key, below in value.items()}


def state_of(workdir, step=UNEVEN_STEPS):
  """All that the checkpoint of a step holds."""
  found = open_checkpoint(workdir / 'checkpoints' / str(step))
  return found, found.load_params()


def assert_as_alone(together, alone):
  """One seed's folder: logs, results, checkpoints."""
  ours, theirs = logged(together), logged(alone)
  assert len(ours) == len(theirs) > UNEVEN_STEPS
  for mine, its in zip(ours, theirs, strict=True):
    assert mine.keys() == its.keys() and mine['split'] == its['split']
    for name in mine.keys() - {'stall', 'split'}:
      assert mine[name] == pytest.approx(its[name], rel=1e-5, abs=1e-6), name
  ours, theirs = results_of(together), results_of(alone)
  assert shape_of(ours) == shape_of(theirs)
  assert ours['best']['step'] == theirs['best']['step']
  for name in ('dev', 'test'):
    if name in theirs['metrics']:
      assert ours['metrics'][name] == pytest.approx(
        theirs['metrics'][name], rel=1e-5
      )
  (ours, mine), (theirs, its) = state_of(together), state_of(alone)
  assert ours.leaves == theirs.leaves
  assert shape_of(ours.metadata) == shape_of(theirs.metadata)
  assert ours.metadata['config'] == theirs.metadata['config']
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
    mine,
    its,
  )
  config = [(w / 'config.json').read_text() for w in (together, alone)]
  assert config[0] == config[1]
  # What Orbax writes has names by chance.
  names = [
    {str(p.relative_to(w)) for p in w.rglob('*') if 'state' not in p.parts}
    for w in (together, alone)
  ]
  assert names[0] == names[1]


def alone(config, seed):
  """The config of a seed's lone run."""
  config = copy.deepcopy(config)
  config.seed = seed
  return config


@pytest.fixture(scope='module')
def on_one(uneven_files, pretrained, tmp_path_factory):
  """By kind, config and folders of seeds together on one device, made once."""
  made = {}

  def run(kind):
    if kind not in made:
      config = uneven_config(uneven_files, pretrained, **KINDS[kind])
      workdirs = folders(tmp_path_factory.mktemp('on_one'))
      with pytest.MonkeyPatch.context() as patch:
        on_one_device(patch)
        finetune_together(config, workdirs)
      made[kind] = config, workdirs
    return made[kind]

  return run


@pytest.mark.parametrize('kind', KINDS)
def test_a_seed_together_with_another_leaves_what_it_leaves_alone(
  kind, on_one, tmp_path, monkeypatch
):
  config, together = on_one(kind)
  on_one_device(monkeypatch)
  finetune(alone(config, SEEDS[1]), tmp_path)
  assert_as_alone(together[SEEDS[1]], tmp_path)


@pytest.fixture(scope='module')
def dropping(uneven_files, pretrained):
  return uneven_config(uneven_files, pretrained, **KINDS['packed, dropout'])


class Compiled(logging.Handler):
  """Counts the steps that XLA compiles while it is attached."""

  count = 0

  def emit(self, record):
    self.count += 'Finished XLA compilation of jit(step)' in record.getMessage()


@pytest.fixture(scope='module')
def whole(dropping, tmp_path_factory):
  """All seeds on all devices, undisturbed, each number of rows compiled once.

  Their folders.
  """
  workdirs, shapes = folders(tmp_path_factory.mktemp('whole')), set()
  make, compiled = StackedRows.__call__, Compiled()

  def seen(self, step):
    batch = make(self, step)
    shapes.add(batch['input_ids'].shape)
    return batch

  logger = logging.getLogger('jax._src.dispatch')
  logger.addHandler(compiled)
  with pytest.MonkeyPatch.context() as patch, jax.log_compiles():
    patch.setattr(StackedRows, '__call__', seen)
    finetune_together(dropping, workdirs)
  logger.removeHandler(compiled)
  assert 1 < len(shapes) <= 3
  assert compiled.count == len(shapes)
  return workdirs


def assert_same_bits(one, other):
  jax.tree.map(
    np.testing.assert_array_equal, state_of(one)[1], state_of(other)[1]
  )
  ours, theirs = (
    [{k: v for k, v in row.items() if k != 'stall'} for row in logged(w)]
    for w in (one, other)
  )
  assert ours == theirs


def test_seeds_together_on_eight_devices_have_the_numbers_of_one(whole, on_one):
  _, on_one = on_one('packed, dropout')
  for seed in SEEDS:
    assert_as_alone(whole[seed], on_one[seed])


def test_an_interrupted_run_of_seeds_goes_on_to_the_bit_together_or_alone(
  dropping, whole, tmp_path, monkeypatch
):
  parts, apart = folders(tmp_path / 'parts'), folders(tmp_path / 'apart')
  interrupted(
    lambda: finetune_together(dropping, parts), StackedRows, monkeypatch
  )
  shutil.copytree(tmp_path / 'parts', tmp_path / 'apart')
  finetune_together(dropping, parts)
  for seed in SEEDS:
    assert_same_bits(parts[seed], whole[seed])
  # What it left are checkpoints of each alone; then one is complete and is not
  # repeated, and nobody is beside the other.
  finetune(alone(dropping, SEEDS[1]), apart[SEEDS[1]])
  results = finetune_together(dropping, apart)
  assert list(results) == list(SEEDS)
  for seed in SEEDS:
    assert_as_alone(apart[seed], whole[seed])


def as_killed(whole, tmp_path, *, steps):
  """Unfinished runs, of which each seed has the checkpoints of some steps."""
  for (seed, workdir), kept in zip(whole.items(), steps, strict=True):
    copied = tmp_path / f'seed-{seed}'
    shutil.copytree(workdir, copied)
    (copied / 'results.json').unlink()
    for path in (copied / 'checkpoints').iterdir():
      if int(path.name) not in kept:
        shutil.rmtree(path)
  return folders(tmp_path)


@pytest.mark.parametrize('steps', [((3, 6), (3,)), ((3,), ())], ids=str)
def test_a_kill_between_the_saves_of_two_seeds_costs_steps_but_no_bits(
  dropping, whole, tmp_path, steps
):
  killed = as_killed(whole, tmp_path, steps=steps)
  finetune_together(dropping, killed)
  for seed in SEEDS:
    assert_same_bits(killed[seed], whole[seed])


def test_seeds_that_were_saved_at_no_step_in_common_go_on_from_their_own(
  dropping, whole, tmp_path, capsys
):
  killed = as_killed(whole, tmp_path, steps=((3,), (6,)))
  results = finetune_together(dropping, killed)
  said = capsys.readouterr().out
  for step in (3, 6):
    assert f'resuming from step {step} in' in said
  assert list(results) == list(SEEDS)
  assert_as_alone(killed[SEEDS[0]], whole[SEEDS[0]])
  assert_same_bits(killed[SEEDS[1]], whole[SEEDS[1]])


def test_a_seed_that_was_begun_alone_loses_nothing_when_others_join(
  dropping, whole, tmp_path, monkeypatch, capsys
):
  joined, (first, _) = folders(tmp_path), SEEDS
  interrupted(
    lambda: finetune(alone(dropping, first), joined[first]),
    PackedRows,
    monkeypatch,
  )
  (saved,) = (joined[first] / 'checkpoints').iterdir()
  capsys.readouterr()
  finetune_together(dropping, joined)
  said = capsys.readouterr().out
  assert f'resuming from step {saved.name} in' in said
  for seed in SEEDS:
    assert_as_alone(joined[seed], whole[seed])


def test_seeds_without_an_intact_step_in_common_are_left_alone(
  dropping, whole, tmp_path
):
  killed = as_killed(whole, tmp_path, steps=((3,), (3,)))
  (killed[SEEDS[1]] / 'checkpoints' / '3' / 'manifest.json').write_text('{')
  with pytest.raises(UserError, match='seeds_together=False goes on with each'):
    finetune_together(dropping, killed)
  assert (killed[SEEDS[0]] / 'checkpoints' / '3').exists()


def test_a_loss_that_is_not_finite_stops_all_and_names_its_seed(
  pretrained, tmp_path, monkeypatch
):
  on_one_device(monkeypatch)
  orders = [Rows({'x': np.arange(40)}, 16, seed)(0)['row_id'] for seed in SEEDS]
  only = next(row for row in orders[1] if row not in orders[0])
  lines = [f'the cat {n},{1e30 if n == only else n / 40}' for n in range(40)]
  (tmp_path / 'train.csv').write_text('sentence,label\n' + '\n'.join(lines))
  (tmp_path / 'dev.csv').write_text('sentence,label\na dog,0.5\na bird,1\n')
  files = {
    'source': 'files',
    'train_file': str(tmp_path / 'train.csv'),
    'dev_file': str(tmp_path / 'dev.csv'),
    'regression': True,
  }
  config = uneven_config(files, pretrained)
  config.train.steps = 1
  with pytest.raises(UserError, match=r'no longer finite by step 1') as stopped:
    finetune_together(config, folders(tmp_path / 'runs'))
  assert f'seed-{SEEDS[1]}/loss' in str(stopped.value)
  assert f'seed-{SEEDS[0]}/' not in str(stopped.value)


@pytest.fixture(scope='module')
def two_seeds(glue, pretrained, tmp_path_factory):
  """A suite of CoLA, its seeds together: config, folder, results."""
  workdir = tmp_path_factory.mktemp('suite')
  config = finetune_config('cola', glue, pretrained)
  config.seeds, config.seeds_together = SEEDS, True
  validation.validate(config)
  return config, workdir, suite(config, workdir)


def test_a_suite_of_seeds_together_reports_what_one_by_one_reports(
  two_seeds, tmp_path, capsys
):
  config, workdir, together = two_seeds
  one_by_one = copy.deepcopy(config)
  one_by_one.seeds_together = False
  apart = suite(one_by_one, tmp_path)
  assert shape_of(together) == shape_of(apart)
  ours, theirs = (
    results['tasks']['cola']['summary']['dev'] for results in (together, apart)
  )
  for name, values in theirs.items():
    assert ours[name] == pytest.approx(values, rel=1e-5, abs=1e-6), name
  names = [
    {str(p.relative_to(w)) for p in w.rglob('*') if 'state' not in p.parts}
    for w in (workdir, tmp_path)
  ]
  assert names[0] == names[1]
  # Complete is complete, whichever way.
  capsys.readouterr()
  suite(config, tmp_path)
  suite(one_by_one, workdir)
  assert capsys.readouterr().out.count('nothing to do') == 2 * len(SEEDS)


def test_one_seeds_checkpoint_is_evaluated_asked_and_exported(
  two_seeds, tmp_path
):
  config, workdir, results = two_seeds
  seed = SEEDS[1]
  folder = workdir / 'cola' / f'seed-{seed}'
  config = copy.deepcopy(config)
  config.job, config.seeds, config.seeds_together = 'eval', (), False
  config.init_from = str(folder)
  validation.validate(config)
  found = evaluate(config, tmp_path / 'eval')
  assert found['metrics'] == results['tasks']['cola']['metrics'][str(seed)]
  predictions = [
    (f / 'predictions' / 'CoLA.tsv').read_text().split('\n')
    for f in (tmp_path / 'eval', folder)
  ]
  assert predictions[0] == predictions[1]
  answers = shared_bert.load(folder)(['the cat sees a dog', 'big runs'])
  assert len(answers) == 2
  (tmp_path / 'hf').mkdir()
  huggingface.write(open_model(folder), tmp_path / 'hf')
  assert (tmp_path / 'hf' / 'model.safetensors').exists()


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'seeds': (3,)}, 'name them'),
    ({'train.early_stopping': 2}, 'each would stop elsewhere'),
    ({'train.on_nonfinite': 'rewind'}, 'skip other batches'),
    ({'mesh.fsdp': 'auto'}, 'mesh.fsdp'),
    ({'model.attention_backend': 'cudnn'}, 'attention_backend=cudnn'),
    ({'init_from': ''}, 'set init_from or data.vocab'),
    ({'data.task': 'mnli,rte', 'from_mnli': True}, 'start at another model'),
  ],
  ids=str,
)
def test_what_seeds_cannot_do_together_is_a_sentence(changes, message):
  config = finetune_config('cola', 'glue', 'checkpoint')
  config.seeds, config.seeds_together = SEEDS, True
  config.model.attention_dropout = 0.0  # which cudnn has not
  config.update_from_flattened_dict(changes)
  with pytest.raises(UserError, match=message):
    validation.validate(config)
