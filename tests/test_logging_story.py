"""What a run shows of itself: metrics.jsonl, and what TensorBoard reads."""

import io
import json
import os
import signal
import sys

import numpy as np
import pytest
from PIL import Image

from shared_bert import config as config_lib
from shared_bert.errors import Preempted
from shared_bert.training import pictures
from shared_bert.training.hparams import COMPARED_KEYS, compared
from shared_bert.training.logging import MetricLog
from shared_bert.training.metrics import confusion_counts
from shared_bert.training.workdir import flatten
from tests import tiny

ENTROPY = 'token_attention_entropy'
NAMES = ('entailment', 'neutral', 'contradiction')
COUNTS = np.array([[90, 8, 2], [30, 50, 20], [0, 0, 0]])


def metrics(workdir, split):
  lines = (workdir / 'metrics.jsonl').read_text().splitlines()
  rows = [json.loads(line) for line in lines]
  return {row['step']: row for row in rows if row['split'] == split}


def events(workdir):
  """All that TensorBoard reads of a folder."""
  from tensorboard.backend.event_processing import event_accumulator

  everything = event_accumulator.EventAccumulator(str(workdir))
  everything.Reload()
  return everything


def tags(workdir, plugin):
  """Tag to steps, of one kind of data."""
  found = events(workdir)
  return {
    tag: [event.step for event in found.Tensors(tag)]
    for tag in found.PluginTagToContent(plugin)
  }


# Pictures.


def test_confusion_counts_have_gold_rows_and_predicted_columns():
  predictions, labels = np.array([0, 1, 1, 2, 1]), np.array([0, 1, 2, 2, 2])
  counts = confusion_counts(predictions, labels.astype(np.int32), 4)
  np.testing.assert_array_equal(
    counts, [[1, 0, 0, 0], [0, 1, 0, 0], [0, 2, 1, 0], [0, 0, 0, 0]]
  )


def test_a_confusion_matrix_is_drawn_blue_where_right_and_orange_elsewhere():
  counts = np.zeros((6, 6), np.int64)
  counts[0, 0], counts[1, 0] = 10, 10
  picture = pictures.confusion_matrix(counts, 'abcdef')
  assert picture.dtype == np.uint8
  # What one class more adds is the size of a cell.
  smaller = pictures.confusion_matrix(counts[:5, :5], 'abcde')
  height, width = np.subtract(picture.shape, smaller.shape)[:2]

  def colour(row, column):
    """Beside the text of a cell, counted from the lower right corner."""
    y = picture.shape[0] - round((5.75 - row) * height)
    return picture[y, picture.shape[1] - round((5.8 - column) * width)]

  red, _, blue = colour(0, 0).astype(int)
  assert blue > red + 100
  red, _, blue = colour(1, 0).astype(int)
  assert red > blue + 100
  # No example has that gold class: nothing is right or wrong there.
  np.testing.assert_array_equal(colour(2, 2), [255, 255, 255])


def test_the_picture_follows_the_matrix_and_keeps_its_size():
  first = pictures.confusion_matrix(COUNTS, NAMES)
  second = pictures.confusion_matrix(10_000 * COUNTS.T, NAMES)
  empty = pictures.confusion_matrix(0 * COUNTS, NAMES)
  assert first.shape == second.shape == empty.shape
  assert (first != second).any()
  np.testing.assert_array_equal(
    first, pictures.confusion_matrix(COUNTS.copy(), NAMES)
  )


def test_a_long_name_fits_into_the_picture():
  names = ('no', 'a_class_with_a_very_long_name')
  wide = pictures.confusion_matrix(COUNTS[:2, :2], names)
  narrow = pictures.confusion_matrix(COUNTS[:2, :2], ('no', 'yes'))
  assert wide.shape[1] > narrow.shape[1] + 100
  # Nothing is cut off: no ink at the edges.
  for edge in (wide[0], wide[-1], wide[:, 0], wide[:, -1]):
    assert (edge == 255).all()


# Runs.


@pytest.fixture(scope='module')
def shown(tmp_path_factory):
  """A run of six steps, seen by TensorBoard."""
  workdir = tmp_path_factory.mktemp('shown')
  draw = lambda: pictures.confusion_matrix(COUNTS, NAMES)  # noqa: E731
  tiny.run(
    workdir,
    evaluate_every=3,
    tensorboard=True,
    pictures={'heldout/confusion': draw},
  )
  return workdir


def test_the_attention_is_watched_from_the_start_and_at_evaluations(shown):
  rows = metrics(shown, ENTROPY)
  assert list(rows) == [0, 3, 6]
  for row in rows.values():
    assert list(row)[2:] == [
      'layer_00',
      'layer_01',
      'uniform',
    ]
    values = list(row.values())[2:]
    assert 0 < min(values)
    assert max(values) == row['uniform']
  assert rows[0] != rows[6] | {'step': 0}


def test_tensorboard_groups_scalars_by_split(shown):
  scalars = tags(shown, 'scalars')
  for name in ('loss', 'learning_rate', 'gradient_norm', 'update_norm'):
    assert scalars[f'train/{name}'] == [2, 4, 6]
  assert scalars['train/tokens_per_second'] == [2, 4, 6]
  assert scalars['heldout/loss'] == [3, 6]
  assert scalars[f'{ENTROPY}/layer_01'] == [0, 3, 6]
  assert scalars[f'{ENTROPY}/uniform'] == [0, 3, 6]


def test_tensorboard_gets_the_diagonals_of_each_layer(shown):
  histograms = tags(shown, 'histograms')
  assert histograms == {
    f'{name}/layer_{layer}': [0, 3, 6]
    for name in ('d_q_times_d_k', 'd_v')
    for layer in ('00', '01')
  }
  from tensorboard.util import tensor_util

  found = events(shown)
  for step, alike in ((0, True), (2, False)):
    event = found.Tensors('d_v/layer_00')[step]
    left, right, count = tensor_util.make_ndarray(event.tensor_proto).T
    assert count.sum() == 16  # the width
    assert (left.min() == right.max() == 1) == alike


def test_tensorboard_gets_pictures_at_evaluations(shown):
  assert tags(shown, 'images') == {'heldout/confusion': [3, 6]}
  event = events(shown).Tensors('heldout/confusion')[-1]
  *_, encoded = event.tensor_proto.string_val
  np.testing.assert_array_equal(
    np.asarray(Image.open(io.BytesIO(encoded))),
    pictures.confusion_matrix(COUNTS, NAMES),
  )


def test_tensorboard_gets_the_plan_and_the_whole_config(shown):
  texts = tags(shown, 'text')
  assert texts == {'plan': [0], 'config': [0]}


def refuse():
  raise AssertionError('drawn though nobody looks')


@pytest.mark.parametrize('missing', ['', 'tensorflow', 'clu.metric_writers'])
def test_without_tensorboard_the_numbers_are_all_there_and_nothing_is_drawn(
  missing, shown, tmp_path, monkeypatch, capsys
):
  if missing:
    monkeypatch.setitem(sys.modules, missing, None)
  tiny.run(
    tmp_path,
    evaluate_every=3,
    tensorboard=bool(missing),
    pictures={'heldout/confusion': refuse},
  )
  assert not list(tmp_path.glob('events*'))
  assert ('TensorBoard: off' in capsys.readouterr().out) == bool(missing)
  assert metrics(tmp_path, ENTROPY) == metrics(shown, ENTROPY)
  assert metrics(tmp_path, 'heldout') == metrics(shown, 'heldout')


def test_a_run_that_begins_anew_logs_its_first_step_once(tmp_path):
  class Killed(BaseException):
    pass

  def die(at):
    raise Killed

  with pytest.raises(Killed):
    tiny.run(tmp_path, make_batch=die)
  assert list(metrics(tmp_path, ENTROPY)) == [0]
  tiny.run(tmp_path)
  lines = (tmp_path / 'metrics.jsonl').read_text().splitlines()
  assert sum(ENTROPY in line for line in lines) == 2


# TensorBoard's HParams tab.


def session_groups(folder):
  """Experiment and rows as the HParams tab asks its server for them."""
  from tensorboard.backend.event_processing import (
    data_provider,
    plugin_event_multiplexer,
  )
  from tensorboard.context import RequestContext
  from tensorboard.data import provider
  from tensorboard.plugins import base_plugin
  from tensorboard.plugins.hparams import (
    api_pb2,
    backend_context,
    list_session_groups,
  )

  runs = plugin_event_multiplexer.EventMultiplexer()
  runs.AddRunsFromDirectory(str(folder)).Reload()
  context = backend_context.Context(
    base_plugin.TBContext(
      data_provider=data_provider.MultiplexerDataProvider(runs, str(folder))
    )
  )
  request = api_pb2.ListSessionGroupsRequest(
    slice_size=100, allowed_statuses=api_pb2.Status.values()
  )
  rows = list_session_groups.Handler(RequestContext(), context, '', request)
  experiment = context.experiment_from_metadata(
    RequestContext(),
    '',
    True,
    context.hparams_metadata(RequestContext(), ''),
    provider.ListHyperparametersResult([], []),
  )
  return experiment, {row.name: row for row in rows.run().session_groups}


def write_run(folder, config, scores, *, finished=True, resume_step=0):
  folder.mkdir(parents=True, exist_ok=True)
  log = MetricLog(
    folder, config.to_dict(), resume_step=resume_step, tensorboard=True
  )
  for step, (split, values) in scores:
    log.write(step, split, values)
  if finished:
    log.finish()
  log.close()


def finetune(attention, matthews):
  config = config_lib.finetune_defaults()
  config.data.task = 'cola'
  config.model.attention = attention
  config.train.learning_rate = 5e-5
  scores = [
    (0, (ENTROPY, {'layer_00': 2.0})),
    (10, ('train', {'accuracy': 0.5, 'loss': 0.7})),
    (10, ('dev', {'matthews': 0.1})),
    (20, ('dev', {'matthews': matthews})),
  ]
  return config, scores


@pytest.fixture(scope='module')
def compared_runs(tmp_path_factory):
  folder = tmp_path_factory.mktemp('compared')
  write_run(folder / 'shared', *finetune('shared', 0.25))
  write_run(folder / 'standard', *finetune('standard', 0.5))
  # The same settings once more: a row of its own, not a mean of two.
  write_run(folder / 'again', *finetune('standard', 0.75), finished=False)
  pretrain = config_lib.pretrain_defaults()
  write_run(folder / 'pretrain', pretrain, [(5, ('heldout', {'loss': 6.5}))])
  return session_groups(folder)


def test_hparams_tab_has_a_row_a_run_with_its_last_metrics(compared_runs):
  _, rows = compared_runs
  assert set(rows) == {'shared', 'standard', 'again', 'pretrain'}

  def value(run, tag):
    found = [v for v in rows[run].metric_values if v.name.tag == tag]
    return found[0].value if found else None

  assert value('shared', 'dev/matthews') == 0.25
  assert value('standard', 'dev/matthews') == 0.5
  assert value('again', 'dev/matthews') == 0.75
  assert value('pretrain', 'dev/matthews') is None
  assert value('pretrain', 'heldout/loss') == 6.5
  hparams = rows['shared'].hparams
  assert hparams['model.attention'].string_value == 'shared'
  assert hparams['data.task'].string_value == 'cola'
  np.testing.assert_allclose(hparams['train.learning_rate'].number_value, 5e-5)


def test_hparams_tab_says_which_runs_are_done(compared_runs):
  from tensorboard.plugins.hparams import api_pb2

  _, rows = compared_runs
  status = {name: row.sessions[0].status for name, row in rows.items()}
  assert status.pop('again') == api_pb2.Status.Value('STATUS_UNKNOWN')
  assert set(status.values()) == {api_pb2.Status.Value('STATUS_SUCCESS')}


def test_hparams_tab_shows_first_what_differs_and_what_was_scored(
  compared_runs,
):
  experiment, _ = compared_runs
  # Twenty check boxes are what the side bar shows without scrolling.
  assert len(experiment.hparam_infos) <= len(COMPARED_KEYS) <= 20
  differing = [i.name for i in experiment.hparam_infos if i.differs]
  # Five of each are shown before anything is ticked.
  assert 'model.attention' in differing[:5]
  shown = [info.name.tag for info in experiment.metric_infos]
  assert shown[:2] == ['dev/matthews', 'heldout/loss']


def test_a_resumed_run_is_done_once_it_ends(tmp_path):
  config, scores = finetune('shared', 0.25)
  write_run(tmp_path / 'run', config, scores[:3], finished=False)
  write_run(tmp_path / 'run', config, scores[3:], resume_step=10)
  _, rows = session_groups(tmp_path)
  assert set(rows) == {'run'}
  assert rows['run'].sessions[0].end_time_secs > 0
  (value,) = (
    v for v in rows['run'].metric_values if v.name.tag == 'dev/matthews'
  )
  assert (value.training_step, value.value) == (20, 0.25)


@pytest.mark.parametrize('job', ['pretrain', 'finetune'])
def test_every_compared_setting_is_a_key_of_a_config(job):
  defaults = getattr(config_lib, f'{job}_defaults')().to_dict()
  keys = set(flatten(config_lib.pretrain_defaults().to_dict())) | set(
    flatten(config_lib.finetune_defaults().to_dict())
  )
  assert set(COMPARED_KEYS) <= keys
  assert set(compared(defaults)) <= set(flatten(defaults))
  assert compared(defaults)['job'] == job


def test_an_interrupted_run_is_not_said_to_be_done(tmp_path):
  def stop(at):
    if at == 2:
      os.kill(os.getpid(), signal.SIGTERM)
    return tiny.batch(at)

  with pytest.raises(Preempted):
    tiny.run(tmp_path, make_batch=stop, tensorboard=True)
  found = tags(tmp_path, 'hparams')
  assert list(found) == ['_hparams_/session_start_info']
  tiny.run(tmp_path, tensorboard=True)
  assert '_hparams_/session_end_info' in tags(tmp_path, 'hparams')
