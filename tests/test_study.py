"""The study: its cells, what they wait for, and that nothing is done twice."""

import copy
import dataclasses
import json
import os
import pathlib
import re
import shlex
import signal
import subprocess
import sys
import time

import pytest

from shared_bert.errors import UserError
from shared_bert.model import parameters
from shared_bert.model.config import BertConfig
from shared_bert.study import (
  cells,
  conductor,
  cost,
  findings,
  plan,
  records,
  settings,
  work,
)
from shared_bert.training import workdir as workdir_lib
from tests.tiny_jobs import pretrain_config, shrink, write_glue

ROOT = pathlib.Path(__file__).parents[1]
MODELS = ('standard', 'shared:role_bias=True,residual_rank=2')


@pytest.fixture
def config():
  made = settings.study_defaults()
  made.pretrain.data.corpus = 'corpus'
  made.pretrain.train.steps = 10
  made.finetune.data.source = 'local'
  made.finetune.data.glue_dir = 'glue'
  made.tasks = ('cola', 'mnli', 'rte')
  return made


def names_of(config):
  return [cell.name for cell in cells.cells_of(config)]


def test_every_model_has_its_seeds_and_its_tasks(config):
  settings.validate(config)
  found = cells.cells_of(config)
  assert len({cell.name for cell in found}) == len(found)
  of = [(c.model, c.pretrain_seed) for c in found if not c.task]
  assert of.count(('shared', 2)) == of.count(('tied', 0)) == 1
  assert ('tied', 1) not in of
  assert len(of) == 3 + 3 + 5
  fine = [c for c in found if c.task]
  # Five seeds of two small tasks, two of the large one.
  assert len(fine) == len(of) * (5 + 5 + 2)


def test_cells_come_after_those_that_they_wait_for(config):
  config.finetune.from_mnli = True
  config.learning_rates = (1e-4, 3e-4)
  settings.validate(config)
  names = names_of(config)
  for cell in cells.cells_of(config):
    for name in cell.waits_for:
      assert names.index(name) < names.index(cell.name)
  last = cells.cells_of(config)[-1]
  assert last.task == 'rte'
  assert any('mnli/seed-' in name for name in last.waits_for)


def test_all_models_of_a_seed_come_before_the_next_seed(config):
  seeds = [cell.pretrain_seed for cell in cells.cells_of(config)]
  assert seeds == sorted(seeds)


def test_the_best_rate_of_a_grid_is_taken(config, tmp_path):
  config.learning_rates = (1e-4, 3e-4)
  found = cells.cells_of(config)
  kept = records.Records(tmp_path)
  later = next(c for c in found if c.grid and c.task == 'cola')
  tries = [c for c in found if c.name in later.grid]
  assert [c.learning_rate for c in tries] == [1e-4, 3e-4]
  for cell, score in zip(tries, (0.2, 0.4), strict=True):
    metrics = {'dev': {'matthews': score, 'accuracy': 0.7}}
    kept.put(cell, {'learning_rate': cell.learning_rate, 'metrics': metrics})
  assert work.best_rate(later, kept) == 3e-4
  made = cells.finetune_config(config, later, tmp_path, 3e-4)
  assert made.train.learning_rate == 3e-4


@pytest.mark.parametrize('seeds', [(0,), (0, 1)])
def test_a_report_has_of_a_grid_the_best_whatever_else_is_run(
  config, tmp_path, seeds
):
  config.models, config.closer_models = ('standard',), ()
  config.tasks, config.small_task_seeds = ('cola',), seeds
  config.learning_rates = (1e-4, 3e-4)
  kept = records.Records(tmp_path)
  for cell in cells.cells_of(config):
    if cell.task and not cell.grid:
      metrics = {'dev': {'matthews': 1e3 * cell.learning_rate}}
      kept.put(cell, {'learning_rate': cell.learning_rate, 'metrics': metrics})
  found = findings.collect(config, tmp_path)
  assert [r['learning_rate'] for r in found['finetune']] == [3e-4]
  assert [r['learning_rate'] for r in found['tries']] == [1e-4]


def test_narrow_is_the_widest_that_has_no_more_parameters_than_shared():
  shared = BertConfig.of_size('tiny', vocab_size=8_000)
  sizes = cells.narrowed(shared)
  standard = shared.with_attention('standard')

  def count(width):
    one = dataclasses.replace(
      standard, hidden_size=width, intermediate_size=4 * width
    )
    return parameters.count_by_block(one)['total']

  width = sizes['hidden_size']
  most = parameters.count_by_block(shared)['total']
  assert sizes['intermediate_size'] == 4 * width
  assert count(width) <= most < count(width + shared.num_heads)


def test_fine_tuning_takes_the_shape_of_what_it_begins_with(config, tmp_path):
  config.models = ('standard', 'shared:residual_rank=2,role_bias=True')
  config.pretrain.model.num_layers = 3
  config.pretrain.model.hidden_dropout = 0.0
  cell = next(c for c in cells.cells_of(config) if c.task and 'rank' in c.name)
  made = cells.finetune_config(config, cell, tmp_path, None)
  assert made.model.num_layers == 3
  assert made.model.residual_rank == 2
  assert made.model.hidden_dropout == 0.1  # its own
  assert made.init_from == str(
    tmp_path / 'pretrain/shared-residual_rank=2-role_bias=True/seed-0'
  )


def test_more_updates_than_are_allowed_are_cut(config, tmp_path):
  cell = next(c for c in cells.cells_of(config) if c.task == 'cola')
  made = cells.finetune_config(config, cell, tmp_path, None)
  cells.bound(made, 100, 320)
  assert made.train.steps == 100
  made = cells.finetune_config(config, cell, tmp_path, None)
  cells.bound(made, 1_000, 320)
  assert made.train.steps is None
  assert cells.updates_of(made, 320) == 10 * made.train.epochs


def test_the_command_of_the_guide_is_valid(tmp_path):
  text = (ROOT / 'docs' / 'guides' / 'study.md').read_text()
  command = re.search(
    r'```\n(python -m shared_bert\.study.*?)\n```', text, re.S
  )
  words = shlex.split(command[1].replace('\\\n', ' '))
  words = [word.replace('configs/', f'{ROOT}/configs/') for word in words]
  done = subprocess.run(
    [sys.executable, *words[1:]],
    cwd=tmp_path,
    env=os.environ | {'PYTHONPATH': str(ROOT)},
    capture_output=True,
    text=True,
    check=False,
  )
  # All that is wrong is that the files are not here.
  assert done.returncode == 1
  assert 'corpus' in done.stderr
  assert 'not' in done.stderr


BAD = {
  'a mechanism that there is not': ({'models': ('sharde',)}, 'sharde'),
  'a key that there is not': (
    {'models': ('standard', 'shared:role_bais=True')},
    'role_bias',
  ),
  'a value of another type': (
    {'models': ('standard', 'shared:role_bias=maybe')},
    'another type',
  ),
  'a key without a value': ({'models': ('standard', 'shared:x')}, 'key=value'),
  'no model': ({'models': ()}, 'models is empty'),
  'a model twice': ({'models': ('standard', 'standard')}, 'twice'),
  'a baseline that is not run': ({'models': ('shared',)}, 'baseline'),
  'a task that is not trained': ({'tasks': ('ax',)}, 'cannot be trained'),
  'a seed twice': ({'finetune_seeds': (1, 1)}, 'finetune_seeds'),
  'no pre-training seed': ({'pretrain_seeds': ()}, 'pretrain_seeds'),
  'no worker': ({'workers': 0}, 'workers'),
  'no update': ({'max_updates': 0}, 'max_updates'),
  'a rate of one': ({'learning_rates': (1.0,)}, 'learning_rates'),
}


@pytest.mark.parametrize(('changes', 'words'), BAD.values(), ids=BAD)
def test_what_cannot_work_is_refused(config, changes, words):
  with pytest.raises(UserError, match=words):
    config.update(changes)
    settings.validate(config)


@pytest.mark.parametrize(
  ('part', 'key', 'value'),
  [
    ('pretrain', 'seed', 3),
    ('finetune', 'seeds', (1, 2)),
    ('finetune', 'init_from', 'runs/x'),
    ('finetune', 'from_mnli', True),
  ],
)
def test_keys_that_a_study_sets_itself_are_refused(config, part, key, value):
  config.tasks = ('cola',)
  config[part][key] = value
  with pytest.raises(UserError, match=key):
    settings.validate(config)


def test_turns_are_begun_by_each_in_its_round():
  order = []

  def stepper(name):
    def take(count):
      order.append(name)
      return cost.Timed(2.0 * count, 1.0 * count, None)

    return take

  found = cost.in_turns(
    {name: stepper(name) for name in 'ab'}, 2, {'a': 4, 'b': 2}
  )
  assert order == ['a', 'b', 'b', 'a']
  assert [turn.wall for turn in found['b']] == [2.0, 2.0]


def test_joules_are_those_of_the_packages_alone(monkeypatch, tmp_path):
  monkeypatch.setattr(cost, '_ENERGY', tmp_path)
  assert cost._joules() is None
  for folder, name, used in (
    ('intel-rapl:0', 'package-0', 3_000_000),
    ('intel-rapl:0:0', 'core', 1_000_000),
    ('intel-rapl:1', 'psys', 9_000_000),
    ('intel-rapl:2', 'package-1', 500_000),
  ):
    (tmp_path / folder).mkdir()
    (tmp_path / folder / 'name').write_text(f'{name}\n')
    (tmp_path / folder / 'energy_uj').write_text(f'{used}\n')
  assert cost._joules() == 3.5


def test_workers_share_the_gpus(monkeypatch):
  monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '4,5,6')
  shown = [conductor._devices(number, 2) for number in range(2)]
  assert [s['CUDA_VISIBLE_DEVICES'] for s in shown] == ['4,6', '5']
  shown = [conductor._devices(number, 4) for number in range(4)]
  assert [s['CUDA_VISIBLE_DEVICES'] for s in shown] == ['4', '5', '6', '4']
  assert conductor._devices(0, 1) == {}


def test_gpus_are_numbered_as_cuda_sees_them(monkeypatch, tmp_path):
  monkeypatch.delenv('CUDA_VISIBLE_DEVICES', raising=False)
  monkeypatch.setattr(conductor, '_DEVICES', tmp_path)
  assert conductor._devices(0, 2) == {}
  for name in ('nvidia3', 'nvidia11', 'nvidiactl', 'nvidia-uvm'):
    (tmp_path / name).touch()
  shown = [conductor._devices(number, 2) for number in range(2)]
  assert [s['CUDA_VISIBLE_DEVICES'] for s in shown] == ['0', '1']


def test_workers_do_not_share_a_tpu(monkeypatch, tmp_path):
  monkeypatch.delenv('JAX_PLATFORMS', raising=False)
  monkeypatch.setattr(conductor, '_DEVICES', tmp_path)
  monkeypatch.setattr(conductor.importlib.util, 'find_spec', lambda name: name)
  assert conductor._devices(0, 2) == {}
  (tmp_path / 'accel0').touch()
  assert conductor._devices(0, 1) == {}
  with pytest.raises(UserError, match='workers=2, and a TPU belongs to one'):
    conductor._devices(1, 2)
  monkeypatch.setenv('JAX_PLATFORMS', 'cpu')
  assert conductor._devices(1, 2) == {}


def test_workers_that_share_a_gpu_share_its_memory(monkeypatch):
  keys = ('XLA_PYTHON_CLIENT_MEM_FRACTION', 'XLA_CLIENT_MEM_FRACTION')
  monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '4,5')
  for key in keys:
    monkeypatch.delenv(key, raising=False)
  assert keys[0] not in conductor._devices(0, 2)
  # Of the third worker's GPU the first has a half as well.
  shown = [conductor._devices(number, 3) for number in range(3)]
  assert [s[keys[0]] for s in shown] == ['0.450'] * 3
  assert conductor._devices(0, 40)[keys[0]] == '0.045'
  for key in keys:
    with monkeypatch.context() as users:
      users.setenv(key, '.2')
      assert not set(keys) & conductor._devices(0, 3).keys()


def test_a_plan_counts_steps_and_leaves_out_what_is_done(config, tmp_path):
  config.models, config.closer_models = ('standard',), ()
  config.tasks, config.finetune_seeds = ('mnli',), (0, 1)
  config.pretrain.train.steps, config.workers = 100, 2
  timed = {'seconds': [1.0, 2.0, 9.0], 'rows': 4, 'seq_len': 16}
  found = {
    'hardware': '1 x cpu',
    'models': {'standard': {'pretrain': timed, 'finetune': timed}},
    'tasks': {'mnli': {'train': 64, 'dev': 32, 'tokens': 8.0}},
  }
  made = plan.make(config, tmp_path, found)
  first, second, _ = made.cells
  # Two workers have half of the machine each.
  assert made.seconds[first.name] == 2 * (100 * 2.0 + 10)
  assert made.hours == made.hours_left
  records.Records(tmp_path).put(first, {'loss': 1.0})
  made = plan.make(config, tmp_path, found)
  assert made.done == {first.name}
  assert made.hours_left == pytest.approx(made.seconds[second.name] / 3600)
  assert 'pre-training' in plan.shown(made, config, found)


def test_a_report_without_times_of_a_new_model_has_no_hours(config, tmp_path):
  config.models, config.tasks = ('standard',), ()
  config.closer_models = ()
  timed = {'seconds': [1.0, 2.0], 'rows': 4, 'seq_len': 16}
  cost_of_it = {
    'of': settings.costly(config),
    'models': {'standard': {'pretrain': timed}},
    'tasks': {},
  }
  (tmp_path / 'cost.json').write_text(json.dumps(cost_of_it))
  assert findings.collect(config, tmp_path)['plan']['hours'] > 0
  config.models = ('standard', 'shared')
  assert findings.collect(config, tmp_path)['plan']['hours'] is None
  (tmp_path / 'cost.json').write_text('{')
  with pytest.raises(UserError, match=r'cost\.json is damaged'):
    findings.collect(config, tmp_path)


def test_a_part_of_a_study_is_done_under_the_times_of_all_of_it(
  config, tmp_path
):
  config.models, config.closer_models = ('standard', 'shared', 'tied'), ()
  config.tasks = ('mnli', 'cola')
  cost_of_it = {
    'of': settings.costly(config),
    'models': {model: {} for model in config.models},
    'tasks': {},
  }
  config.models, config.tasks = ('tied', 'standard'), ('cola',)
  assert records.is_timed(cost_of_it, config)
  found = findings._of_models(cost_of_it, config.models)
  assert set(found['models']) == {'standard', 'tied'}
  assert records.is_timed(found, config)
  config.models = ('standard', 'symmetric')
  assert not records.is_timed(cost_of_it, config)
  config.models = ('shared',)
  assert records.is_timed(cost_of_it, config)
  assert not records.is_timed(found, config)
  config.models = ('standard',)
  config.pretrain.data.seq_len = 48
  assert not records.is_timed(cost_of_it, config)


@pytest.fixture(scope='module')
def tiny_study(text, pretrained, tmp_path_factory):
  """A study of seconds, as a file; to the command in a folder."""
  del pretrained  # the corpus is prepared by then
  folder = tmp_path_factory.mktemp('study')
  glue = folder / 'glue'
  write_glue(glue, ('cola',))
  made = settings.study_defaults()
  pretrain = shrink(copy.deepcopy(pretrain_config(text)), warmup_steps=0)
  made.pretrain.update(pretrain.to_dict())
  [corpus] = (text.parent / 'data').glob('corpus-*')
  made.pretrain.data.text, made.pretrain.data.corpus = '', str(corpus)
  made.pretrain.data.heldout_rows = 8
  shrink(made.finetune, steps=6)
  made.finetune.data.seq_len = 16
  made.finetune.data.length_buckets = (16,)
  made.finetune.data.source = 'local'
  made.finetune.data.glue_dir = str(glue)
  made.models, made.closer_models = MODELS, ()
  made.tasks, made.small_task_seeds = ('cola',), (0, 1)
  made.robustness.noise.kinds = ('word_drop',)
  made.robustness.noise.levels = (0.0, 0.4)
  made.cost_rounds = 2
  made.lock()
  file = folder / 'tiny_study.py'
  file.write_text(
    'import json\n'
    'from ml_collections import ConfigDict\n'
    'from shared_bert.study import settings\n'
    'def get_config():\n'
    '  config = settings.study_defaults()\n'
    f'  config.update(ConfigDict(json.loads({made.to_json()!r})))\n'
    '  return config\n'
  )
  return file


def start(file, workdir, *flags):
  return subprocess.Popen(
    [
      sys.executable,
      '-m',
      'shared_bert.study',
      f'--config={file}',
      f'--workdir={workdir}',
      *flags,
    ],
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
    env=os.environ | {'JAX_NUM_CPU_DEVICES': '1', 'XLA_FLAGS': ''},
  )


def records_of(workdir):
  return {
    str(path.relative_to(workdir / 'records')): path.stat().st_mtime_ns
    for path in (workdir / 'records').rglob('*.json')
  }


def test_a_stopped_study_goes_on_and_repeats_nothing(tiny_study, tmp_path):
  workdir = tmp_path / 'study'
  process = start(tiny_study, workdir, '--config.workers=2')
  deadline = time.monotonic() + 240
  while len(records_of(workdir)) < 2 and process.poll() is None:
    assert time.monotonic() < deadline
    time.sleep(0.1)
  process.send_signal(signal.SIGTERM)
  said = process.communicate(timeout=200)[0]
  assert process.returncode == 75, said
  assert 'cells at a time' in said
  before = records_of(workdir)
  assert 2 <= len(before) < 6

  process = start(
    tiny_study,
    workdir,
    '--config.workers=2',
    '--config.seeds_together=True',
  )
  said = process.communicate(timeout=300)[0]
  assert process.returncode == 0, said
  after = records_of(workdir)
  assert len(after) == 2 + 2 * 2
  assert {name: after[name] for name in before} == before
  report = json.loads((workdir / 'report.json').read_text())
  assert {r['model'] for r in report['records']} == set(MODELS)
  for record in report['finetune']:
    assert record['robustness']['noise']['curves']['dev'].keys() == {
      'word_drop'
    }
    log = workdir / record['cell'] / 'metrics.jsonl'
    assert log.exists()  # of each seed, also of those that trained together
  assert (workdir / 'report.md').exists()

  # Looking does not need a study that rests.
  with workdir_lib.alone(workdir):
    for flag in ('--plan', '--report'):
      process = start(tiny_study, workdir, '--config.workers=2', flag)
      said = process.communicate(timeout=200)[0]
      assert process.returncode == 0, said

  # What is left of a study is a report, and it is enough.
  restored = tmp_path / 'restored'
  restored.mkdir()
  (restored / 'report.json').write_text(json.dumps(report))
  process = start(tiny_study, restored, '--report')
  said = process.communicate(timeout=200)[0]
  assert process.returncode == 0, said
  assert '6 cells are taken over' in said
  assert records_of(restored).keys() == after.keys()
  assert (restored / 'report.md').exists()


_CONDUCTOR = (
  'import pathlib, sys\n'
  'from shared_bert.study import conductor\n'
  'folder = pathlib.Path(sys.argv[-1].partition("=")[2])\n'
  'conductor.run_parts(["worker-0"], folder, lambda: None)\n'
)


@pytest.mark.parametrize('number', [signal.SIGKILL, signal.SIGHUP])
def test_workers_save_and_end_with_the_process_that_started_them(
  tiny_study, tmp_path, number
):
  process = subprocess.Popen(
    [
      sys.executable,
      '-c',
      _CONDUCTOR,
      f'--config={tiny_study}',
      '--config.pretrain.train.steps=20000',
      f'--workdir={tmp_path}',
    ],
    cwd=ROOT,
    env=os.environ | {'JAX_NUM_CPU_DEVICES': '1', 'XLA_FLAGS': ''},
  )
  log = tmp_path / 'logs' / 'worker-0.log'

  def wait_for(seen):
    deadline = time.monotonic() + 200
    while not (log.exists() and seen in log.read_text()):
      assert time.monotonic() < deadline, log.read_text()
      time.sleep(0.1)

  try:
    wait_for('pre-train ')
  finally:
    process.send_signal(number)
    process.wait()
  wait_for('stopped by SIGTERM after step')


def test_the_part_that_failed_first_is_named(monkeypatch, tmp_path):
  # A stand-in for Python: the first part does not end when it is told to.
  python = tmp_path / 'python'
  python.write_text(
    '#!/usr/bin/env bash\n'
    'case $* in\n'
    "  *=slow) trap '' TERM; exec sleep 60 ;;\n"
    '  *) echo "error: it broke."; exit 3 ;;\n'
    'esac\n'
  )
  python.chmod(0o755)
  monkeypatch.setattr(sys, 'executable', str(python))
  monkeypatch.setattr(conductor, '_GRACE', 1.0)
  with pytest.raises(UserError, match='quick of the .* code 3: error: it brok'):
    conductor.run_parts(['slow', 'quick'], tmp_path, lambda: None)


def test_records_of_other_settings_are_not_taken_over(config, tmp_path):
  claimed = settings.claimed(config)
  report = {'records': [], 'claimed': claimed}
  (tmp_path / 'report.json').write_text(json.dumps(report))
  config.max_updates = 5
  with pytest.raises(UserError, match='max_updates'):
    records.restore(tmp_path, settings.claimed(config))


def test_records_of_another_corpus_are_not_taken_over(config, tmp_path):
  claimed = settings.claimed(config)
  found = [{'cell': 'pretrain/x/seed-0', 'corpora': ['one', 'two']}]
  # Fine-tunings name none.
  found += [{'cell': 'finetune/x/seed-0/cola/seed-0'}]
  report = {'records': found, 'claimed': claimed}
  (tmp_path / 'report.json').write_text(json.dumps(report))
  with pytest.raises(UserError, match='another corpus of the same name'):
    records.restore(tmp_path, claimed, ['one', 'three'])
  assert records.restore(tmp_path, claimed, ['one', 'two']) == 2


def test_a_report_from_before_a_key_came_is_taken_over(config, tmp_path):
  claimed = settings.claimed(config)
  del claimed['finetune']['train']['early_stopping']
  report = {'records': [{'cell': 'pretrain/x/seed-0'}], 'claimed': claimed}
  (tmp_path / 'report.json').write_text(json.dumps(report))
  assert records.restore(tmp_path, settings.claimed(config)) == 1


def test_a_record_cannot_leave_the_study(config, tmp_path):
  claimed = settings.claimed(config)
  report = {'records': [{'cell': 'x'}, {'cell': '../../x'}], 'claimed': claimed}
  (tmp_path / 'report.json').write_text(json.dumps(report))
  with pytest.raises(UserError, match='no cell'):
    records.restore(tmp_path, claimed)
  # Nor does the one before it stay, which would pass for the whole study.
  assert records.to_restore(tmp_path)


def test_a_study_goes_on_whatever_its_steps_were_timed_with(config, tmp_path):
  claimed = settings.claimed(config)
  report = {
    'records': [{'cell': 'pretrain/x/seed-0'}],
    # As an earlier version wrote it.
    'claimed': claimed | {'cost_rounds': 5},
  }
  (tmp_path / 'report.json').write_text(json.dumps(report))
  assert records.restore(tmp_path, claimed) == 1
  config.cost_rounds += 1
  assert settings.claimed(config) == claimed
  config.pretrain.train.steps = 77
  assert settings.claimed(config) != claimed


def test_an_interrupted_restore_takes_nothing_over_and_is_begun_again(
  config, tmp_path, monkeypatch
):
  claimed = settings.claimed(config)
  names = [f'pretrain/x/seed-{n}' for n in range(3)]
  report = {
    'records': [{'cell': name} for name in names],
    'claimed': claimed,
    'cost': {'rounds': 2},
  }
  (tmp_path / 'report.json').write_text(json.dumps(report))
  write_json = workdir_lib.write_json

  def fail(path, value):
    if path.name == 'seed-2.json':
      raise UserError(f'{path} cannot be written')
    write_json(path, value)

  monkeypatch.setattr(workdir_lib, 'write_json', fail)
  with pytest.raises(UserError, match='cannot be written'):
    records.restore(tmp_path, claimed)
  assert records.to_restore(tmp_path)
  assert records.Records(tmp_path).get(names[0]) is None
  monkeypatch.undo()
  assert records.restore(tmp_path, claimed) == 3
  kept = records.Records(tmp_path)
  assert [kept.get(name) for name in names] == report['records']
  assert records.read_cost(tmp_path) == {'rounds': 2}
  assert not records.to_restore(tmp_path)
  assert not (tmp_path / 'records.partial').exists()
