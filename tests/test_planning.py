"""What a plan is made of: bytes, steps, hours, and the sketch."""

import dataclasses

import jax
import numpy as np
import pytest

from shared_bert import config as config_lib
from shared_bert.errors import UserError
from shared_bert.model import parameters
from shared_bert.planning import course as course_lib
from shared_bert.planning import memory, subject
from shared_bert.planning.memory import Budget, activation_bytes
from shared_bert.training import optimizer as optimizer_lib
from shared_bert.training import schedules
from shared_bert.training import step as step_lib
from shared_bert.training.mesh import make_mesh, planned_mesh
from shared_bert.training.phases import Course, lay_out
from tests.tiny_jobs import finetune_config, shrink


def _subject(devices=1, seq_len=16, **train):
  """A model of one layer of width 16, pre-trained on rows of nothing yet."""
  config = shrink(config_lib.pretrain_defaults(), **({'steps': 100} | train))
  config.data.update({'seq_len': seq_len, 'vocab_size': 60})
  config.model.dtype = 'float32'
  return subject.subject_of(config, planned_mesh(devices))


@pytest.mark.parametrize('name', schedules.OPTIMIZERS)
def test_the_state_of_an_optimiser_has_the_bytes_of_its_arrays(name):
  planned = _subject(optimizer=name)
  make = planned.build(planned.model).make
  params = parameters.initialise(make, jax.random.key(0))
  state = optimizer_lib.of_config(planned.config.train).init(params)
  real = [sum(x.nbytes for x in jax.tree.leaves(t)) for t in (params, state)]
  # Every device has all of it.
  assert memory.state_bytes(planned, planned_mesh(8)) == tuple(real)
  moments = {'adamw': 2, 'lamb': 2, 'lion': 1}.get(name)
  if moments:
    assert real[1] == pytest.approx(moments * real[0], abs=64)
  else:
    assert 1.0 < real[1] / real[0] < 2.0  # Muon's matrices have one, not two


def _compiled_bytes(planned, rows):
  """XLA's own count: what a step holds beside the state that it is given."""
  trained, train = planned.build(planned.model), planned.config.train
  mesh = make_mesh(devices=jax.devices()[:1])
  optimizer = optimizer_lib.of_config(train)
  state = step_lib.abstract_state(
    lambda: parameters.initialise(trained.make, jax.random.key(0)),
    optimizer,
    trained.metric_names,
    mesh,
  )
  step = step_lib.make_train_step(
    trained.loss_sums, optimizer, mesh, seed=0, log_every=1
  )
  batch = planned.batch(rows, planned.seq_lens[0])
  compiled = step.lower(state, batch, train.accumulation).compile()
  return compiled.memory_analysis().temp_size_in_bytes


def _of_size(size, rows, **model):
  """Of a published size, in float32, which CPUs compute in."""
  config = config_lib.pretrain_defaults()
  config.model.update({'size': size, 'dtype': 'float32'} | model)
  config.train.update({'steps': 100, 'batch_size': rows})
  config.data.update({'vocab_size': 8000, 'seq_len': 128})
  return subject.subject_of(config, planned_mesh(1))


# Wide enough for what was seen (memory.activation_bytes), narrow enough to see
# a forgotten block, layer or factor of two.
@pytest.mark.parametrize(
  ('size', 'rows', 'model'),
  [
    ('tiny', 32, {}),
    pytest.param('tiny', 32, {'remat': 'full'}, marks=pytest.mark.slow),
    pytest.param('tiny', 32, {'remat': 'dots'}, marks=pytest.mark.slow),
    pytest.param('mini', 64, {}, marks=pytest.mark.slow),
    pytest.param('mini', 64, {'remat': 'full'}, marks=pytest.mark.slow),
    pytest.param('mini', 1, {}, marks=pytest.mark.slow),  # mostly updates
  ],
)
def test_the_estimate_of_memory_is_near_what_xla_counts(size, rows, model):
  planned = _of_size(size, rows, **model)
  parts = config_lib.parts_of(planned.config)
  budget = Budget(planned, parts, planned_mesh(1))
  need = budget.needs[planned.model.remat]
  counted = _compiled_bytes(planned, rows)
  ratio = (need.gradients + need.activations) / counted
  assert 0.88 < ratio < 1.25


def test_remat_and_shorter_micro_batches_need_less():
  # Of two layers the last keeps little, and there is nothing to win.
  planned = _of_size('tiny', 64, num_layers=6)
  plain = planned.model
  whole = activation_bytes(planned, plain, 64, 128)
  assert activation_bytes(planned, plain, 32, 128) == pytest.approx(
    whole / 2, rel=0.05
  )
  by_remat = [
    activation_bytes(planned, dataclasses.replace(plain, remat=r), 64, 128)
    for r in memory.REMATS
  ]
  assert by_remat == sorted(by_remat, reverse=True)
  assert by_remat[0] > 1.3 * by_remat[2]


def test_parameters_are_not_counted_twice_but_where_they_are_copied():
  planned = _of_size('mini', 1)
  parameter_bytes, _ = memory.state_bytes(planned, planned_mesh(1))
  # A row of 8 tokens keeps little, a copy of the decoder's matrix, and the
  # layers as they are cut in two, the last one apart.
  kept = memory.kept_bytes(planned, planned.model, 1, 8)
  params = parameters.abstract(planned.build(planned.model).make)
  leaves = jax.tree.leaves(params['encoder']['layers'])
  layers = sum(4 * leaf.size for leaf in leaves)
  copied = 4 * 8000 * 256 + layers
  assert copied < kept < copied + 0.1 * parameter_bytes < 2 * parameter_bytes


def test_every_layer_keeps_the_same():
  planned = _of_size('tiny', 8)
  five = dataclasses.replace(planned.model, num_layers=5)
  one, two = (
    memory.kept_bytes(
      planned, dataclasses.replace(five, num_layers=count), 8, 128
    )
    for count in (1, 2)
  )
  # By which `activation_bytes` saves itself a trace.
  assert memory.kept_bytes(planned, five, 8, 128) == one + 4 * (two - one)


def _refusal(budget, gigabytes):
  with pytest.raises(UserError) as refused:
    budget.check(gigabytes)
  return str(refused.value)


def test_a_refusal_for_memory_names_settings_that_fit():
  planned = _of_size('tiny', 64)
  mesh, parts = planned_mesh(2), config_lib.parts_of(planned.config)
  budget = Budget(planned, parts, mesh)
  assert budget.rows == 32
  plain, full = (budget.needs[n].total / memory.GB for n in ('none', 'full'))
  budget.check(1.001 * plain)
  said = _refusal(budget, (plain + full) / 2)
  assert f'model.remat=full ({full:.1f} GB)' in said
  cut = int(said.partition('train.accumulation=')[2].partition(' ')[0])
  smaller = lay_out((1.0,), (64,), (cut,))
  Budget(planned, smaller, mesh).check((plain + full) / 2)
  said = _refusal(budget, 0.9 * full)
  assert 'set model.remat=full and train.accumulation=' in said or (
    'set train.accumulation=' in said
  )
  said = _refusal(budget, 0.5 * budget.needs['none'].state / memory.GB)
  assert 'model.size' in said and 'set ' not in said


def test_the_part_that_needs_most_is_the_one_that_counts():
  planned = _subject(seq_len=32, ramp_batch_size=4, ramp_ratio=0.1)
  parts = config_lib.parts_of(planned.config)
  budget = Budget(planned, parts, planned_mesh(2))
  assert (budget.rows, budget.seq_len) == (8, 32)
  two = dataclasses.replace(planned, seq_lens=(8, 32))
  parts = lay_out((0.9, 0.1), (16, 16), (1, 2))
  budget = Budget(two, parts, planned_mesh(1))
  assert (budget.rows, budget.seq_len, budget.part.stage) == (8, 32, 1)


def test_work_adds_up_over_stages_by_hand():
  planned = dataclasses.replace(_subject(), seq_lens=(8, 16))
  parts = lay_out((0.75, 0.25), (16, 4), (1, 1))
  course = Course(parts, (8, 16), steps=100)
  done = course_lib.work(planned, course)
  first, second = 75 * 16 * 8, 25 * 4 * 16
  assert (done.steps, done.tokens) == (100, first + second)
  by_hand = first * planned.train_flops(8) + second * planned.train_flops(16)
  assert done.flops == pytest.approx(by_hand, rel=1e-12)


def test_time_pays_for_the_steps_of_each_part_by_hand():
  planned = dataclasses.replace(_subject(), seq_lens=(8, 16))
  parts = lay_out((0.5, 0.5), (16, 4), (1, 1))
  course = Course(parts, (8, 16), seconds=100.0)
  steps = [16 * 8 * planned.train_flops(8), 4 * 16 * planned.train_flops(16)]
  # 50 seconds each: 20.5 of the one, some of the other.
  speed = 20.5 * steps[0] / 50
  paid = course_lib.work_in_time(planned, course, speed)
  second = int(50 * speed / steps[1])
  assert paid.steps == 20 + second
  assert paid.tokens == 20 * 128 + second * 64
  assert paid.flops == pytest.approx(20 * steps[0] + second * steps[1])


def test_a_device_keeps_up_its_share_of_its_peak():
  rates, meant = course_lib.speeds('h100', None, 0.25)
  assert [rate.flops for rate in rates] == [0.25 * 989e12]
  assert 'assumption' not in meant
  rates, meant = course_lib.speeds(None, None, None)
  assert {rate.name: rate.flops for rate in rates}['A100'] == (
    pytest.approx(0.4 * 312e12)
  )
  assert 'assumption' in meant
  (rate,), _ = course_lib.speeds(None, 1.5, None)
  assert rate.flops == 1.5e12


def _sketch(schedule, warmup, course):
  """The drawing, and what stands under it."""
  *rows, axis, marks = course_lib.sketch(schedule, warmup, course)
  return [row[12:].ljust(60) for row in rows], axis[12:72], marks


def test_the_sketch_rises_to_the_warm_up_and_falls_to_the_end():
  course = Course(lay_out((0.9, 0.1), (4, 4), (1, 1)), (8, 16), steps=1000)
  schedule = schedules.learning_rate_schedule('linear', 0.5, 0.25)
  rows, axis, marks = _sketch(schedule, 0.25, course)
  levels = np.array(
    [[' ▁▂▃▄▅▆▇█'.index(bar) for bar in row] for row in rows]
  ).sum(0)
  exact = [32 * schedule((n + 0.5) / 60) / 0.5 for n in range(60)]
  assert np.abs(levels - exact).max() <= 0.5
  assert levels.argmax() in (14, 15)
  assert (axis.index('w'), axis.index('┴')) == (15, 54)
  assert marks.strip().startswith('w the warm-up ends, at 25.0%; ┴ ')


def test_a_rate_of_nothing_is_drawn_as_nothing():
  course = Course(lay_out((1.0,), (4,), (1,)), (8,), steps=10)
  *rows, axis = course_lib.sketch(lambda done: 0.0, 0.0, course)
  assert [row.strip() for row in rows] == ['rate', '', '', '']
  assert axis.endswith(' 10 steps')


def test_epochs_without_rows_leave_the_steps_open():
  planned = _subject(steps=None, epochs=3.0)
  assert planned.course is None
  assert any('name it, or set train.steps' in line for line in planned.data)


def test_a_task_is_planned_with_its_recipe_and_its_head(glue, pretrained):
  config = finetune_config('mnli', glue, pretrained)
  config.train.learning_rate = None
  planned = subject.subject_of(config, planned_mesh(1))
  assert planned.num_outputs == 3
  assert planned.config.train.learning_rate  # which the recipe fills in
  assert config.train.learning_rate is None  # in a copy
  # 40 rows, once, in steps of 16; the vocabulary is the checkpoint's.
  assert planned.course.steps == round(40 / 16)
  assert planned.model.vocab_size == 60


def test_a_checkpoint_of_another_model_is_refused(glue, pretrained):
  config = finetune_config('cola', glue, pretrained)
  config.model.num_layers = 2
  with pytest.raises(UserError, match='does not fit this model'):
    subject.subject_of(config, planned_mesh(1))
