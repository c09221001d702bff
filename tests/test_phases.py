"""Phases: what is laid out, where borders lie, and that runs cross them."""

import itertools
import json
import os
import signal

import jax
import numpy as np
import pytest

from shared_bert.errors import Preempted
from shared_bert.training.checkpoint import Checkpoints, open_checkpoint
from shared_bert.training.phases import Course, Position, lay_out
from shared_bert.training.schedules import OPTIMIZERS
from tests import tiny


def stages(**ramp):
  """Of 90 % and 10 %, the second with fewer rows in more parts."""
  return lay_out((0.9, 0.1), (256, 64), (2, 4), **ramp)


def test_a_run_without_stages_is_one_phase():
  course = Course(lay_out((1.0,), (32,), (1,)), (128,), steps=100)
  (phase,) = course.phases()
  assert (phase.first_step, course.last_step(phase)) == (0, 100)
  assert [phase.example(step) for step in (0, 1, 99)] == [0, 32, 99 * 32]


def test_stages_share_the_steps_and_each_begins_its_own_corpus():
  course = Course(stages(), (128, 512), steps=1_000_000)
  first, second = course.phases()
  assert (first.seq_len, first.batch_size, first.accumulation) == (128, 256, 2)
  assert (second.seq_len, second.batch_size, second.accumulation) == (
    512,
    64,
    4,
  )
  assert second.first_step == course.last_step(first) == 900_000
  assert course.last_step(second) == 1_000_000
  assert second.example(900_000) == 0
  assert second.example(900_003) == 3 * 64


def test_a_ramp_doubles_and_follows_a_straight_line():
  parts = stages(ramp_batch_size=16, ramp_ratio=0.6)
  assert [part.batch_size for part in parts] == [16, 32, 64, 128, 256, 64]
  # As many rows of a micro-batch as after it, where there are as many.
  assert [part.accumulation for part in parts] == [1, 1, 1, 1, 2, 4]
  assert parts[3].until == 0.6
  lengths = np.diff([0, *(part.until for part in parts[:4])])
  np.testing.assert_allclose(lengths / lengths[0], [1, 2, 4, 8])


def test_sizes_that_are_no_doubles_end_at_the_full_batch():
  parts = lay_out((1.0,), (250,), (5,), ramp_batch_size=60, ramp_ratio=0.5)
  assert [part.batch_size for part in parts] == [60, 120, 240, 250]
  assert [part.accumulation for part in parts] == [2, 3, 5, 5]


def test_examples_go_on_where_the_smaller_batch_stopped():
  course = Course(
    lay_out((0.9, 0.1), (8, 4), (1, 1), ramp_batch_size=2, ramp_ratio=0.3),
    (16, 32),
    steps=100,
  )
  read: dict[int, list[int]] = {0: [], 1: []}
  for phase in course.phases():
    for step in range(phase.first_step, course.last_step(phase)):
      start = phase.example(step)
      read[phase.stage] += range(start, start + phase.batch_size)
  # No row of a stage twice, and none left out.
  for rows in read.values():
    assert rows == list(range(len(rows)))
  assert course.slots_after(0) == len(read[0]) * 16 + len(read[1]) * 32
  assert course.slots_after(95) == 5 * 4 * 32


@pytest.mark.parametrize('steps', [1, 2, 3, 7, 10, 99, 12_345])
def test_every_step_has_one_phase_however_few_there_are(steps):
  course = Course(
    stages(ramp_batch_size=16, ramp_ratio=0.3), (128, 512), steps=steps
  )
  phases = course.phases()
  ends = [course.last_step(phase) for phase in phases]
  firsts = [phase.first_step for phase in phases]
  assert firsts == [0, *ends[:-1]] and ends[-1] == steps
  # A run that is watched step by step crosses the same borders.
  position = Position(course)
  seen = []
  for step in range(steps):
    if position.phase not in seen:
      seen.append(position.phase)
    position.move(step + 1, 0.0)
  assert seen == phases and position.is_over


def test_a_budget_in_tokens_or_rows_is_met_to_a_step():
  parts = stages(ramp_batch_size=32, ramp_ratio=0.2)
  course = Course.of_tokens(parts, (128, 512), 1e9)
  assert course.slots_after(0) == pytest.approx(1e9, rel=1e-3)
  course = Course.of_rows(parts, (128, 512), 1e6)
  ends = [course.last_step(phase) for phase in course.phases()]
  rows = sum(
    (end - phase.first_step) * phase.batch_size
    for phase, end in zip(course.phases(), ends, strict=True)
  )
  assert rows == pytest.approx(1e6, rel=1e-3)


def test_a_clock_ends_phases_and_its_borders_can_be_kept():
  course = Course(stages(), (128, 512), seconds=100.0)
  position = Position(course)
  position.move(1, 89.0)
  assert position.phase.stage == 0 and position.progress == 0.89
  position.move(2, 91.0)
  assert (position.phase.stage, position.phase.first_step) == (1, 2)
  again = Position(course, 2, json.loads(json.dumps(position.kept())))
  assert (again.phase, again.progress) == (position.phase, position.progress)
  again.move(3, 101.0)
  assert again.is_over and again.phase == position.phase


def test_a_dry_run_takes_a_step_of_each_phase():
  for budget in ({'steps': 10_000}, {'seconds': 3600.0}):
    course = Course(
      stages(ramp_batch_size=16, ramp_ratio=0.3), (128, 512), **budget
    ).shortened()
    assert [phase.batch_size for phase in course.phases()] == [
      16, 32, 64, 128, 256, 64,
    ]  # fmt: skip
    assert course.steps == 6


# Runs.

# Steps 1 to 2 of 8 rows, 3 to 4 of 16 in two parts, 5 to 6 of 8.
COURSE = Course(
  lay_out((2 / 3, 1 / 3), (16, 8), (2, 1), ramp_batch_size=8, ramp_ratio=1 / 3),
  (tiny.S, tiny.S),
  steps=6,
)
ONE_DEVICE = {'devices': jax.devices()[:1]}


class Killed(BaseException):
  pass


def metrics(workdir):
  rows = map(json.loads, (workdir / 'metrics.jsonl').read_text().splitlines())
  return [
    {k: v for k, v in row.items() if k != 'stall' and 'per_second' not in k}
    for row in rows
  ]


def arrays(workdir, optimizer='adamw'):
  found = open_checkpoint(workdir / 'checkpoints' / '6')
  return jax.device_get(found.load(tiny.abstract_state(optimizer)))


def broken_at(step, *, kill):
  def make_batch(at):
    if at == step and kill:
      raise Killed
    if at == step:
      os.kill(os.getpid(), signal.SIGTERM)
    return tiny.batch(at)

  return make_batch


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
  workdir = tmp_path_factory.mktemp('whole')
  tiny.run(workdir, course=COURSE, checkpoint_every=1, **ONE_DEVICE)
  return workdir


# The second phase begins with step 3, counted from 1; batches from 0.
@pytest.mark.parametrize(
  ('at', 'kill'), [(1, True), (2, True), (3, True), (1, False), (2, False)]
)
def test_a_run_stopped_around_a_border_ends_as_a_whole_one(
  at, kill, whole, tmp_path
):
  settings = ONE_DEVICE | {'course': COURSE, 'checkpoint_every': 1}
  with pytest.raises(Killed if kill else Preempted):
    tiny.run(tmp_path, make_batch=broken_at(at, kill=kill), **settings)
  saved = Checkpoints(tmp_path / 'checkpoints').latest()
  assert saved in (at - 1, at, at + 1)
  tiny.run(tmp_path, **settings)
  jax.tree.map(np.testing.assert_array_equal, arrays(whole), arrays(tmp_path))
  assert metrics(whole) == metrics(tmp_path)
  kept = open_checkpoint(tmp_path / 'checkpoints' / '6').metadata['position']
  assert kept['borders'] == list(COURSE.borders()) == [2, 4]


@pytest.mark.parametrize('name', [n for n in OPTIMIZERS if n != 'adamw'])
def test_every_optimiser_goes_on_bit_for_bit(name, tmp_path):
  settings = ONE_DEVICE | {'optimizer_name': name}
  tiny.run(tmp_path / 'whole', **settings)
  with pytest.raises(Preempted, match='step 3 of 6'):
    tiny.run(tmp_path, make_batch=broken_at(2, kill=False), **settings)
  tiny.run(tmp_path, **settings)
  jax.tree.map(
    np.testing.assert_array_equal,
    arrays(tmp_path / 'whole', name),
    arrays(tmp_path, name),
  )
  assert metrics(tmp_path / 'whole') == metrics(tmp_path)


def test_a_budget_of_time_drives_the_schedule_over_a_stop(tmp_path):
  seconds = 3.0
  course = Course(
    lay_out((0.5, 0.5), (16, 8), (1, 1)), (tiny.S, tiny.S), seconds=seconds
  )
  settings = ONE_DEVICE | {'course': course, 'log_every': 1}
  asked = itertools.count()

  def stop_in_the_first_stage(at):
    if next(asked) == 20:
      os.kill(os.getpid(), signal.SIGTERM)
    return tiny.batch(at)

  with pytest.raises(Preempted):
    tiny.run(tmp_path, make_batch=stop_in_the_first_stage, **settings)
  stopped = open_checkpoint(tmp_path)
  spent = stopped.metadata['position']['seconds']
  assert 0 < spent < seconds
  outcome = tiny.run(tmp_path, **settings)
  assert outcome.steps > stopped.step
  # Steps after the budget: the one that spent it, and one under way.
  assert seconds <= outcome.training_seconds < seconds + 1
  # Compiling, evaluating and saving took time as well, and did not count.
  assert outcome.seconds > outcome.training_seconds
  rates = [
    row['learning_rate'] for row in metrics(tmp_path) if row['split'] == 'train'
  ]
  assert len(rates) == outcome.steps
  # A warm-up of a sixth, then down: not anew after the stop.
  peak = int(np.argmax(rates))
  assert rates[:peak] == sorted(rates[:peak])
  assert rates[peak:] == sorted(rates[peak:], reverse=True)
  assert rates[0] == 0 and rates[-1] < 0.1 * rates[peak]
  kept = open_checkpoint(tmp_path).metadata['position']
  (border,) = kept['borders']
  assert 0 < border < outcome.steps
