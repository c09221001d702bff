"""Measuring how a model holds: the same numbers however it is computed."""

import collections
import copy

import jax
import numpy as np
import pytest
from PIL import Image

from shared_bert import file_validation, validation
from shared_bert.errors import UserError
from shared_bert.finetune import finetune
from shared_bert.interop import huggingface
from shared_bert.interop.saved import open_saved
from shared_bert.robustness import measure, robustness
from shared_bert.robustness_config import KINDS, robustness_defaults
from shared_bert.robustness_results import read_predictions
from shared_bert.training import bootstrap
from shared_bert.training.metrics import accuracy, area_under_curve
from shared_bert.training.run import Options
from tests.tiny_jobs import finetune_config, sentences

LEVELS = (0.0, 0.2, 0.5)


def config_of(run, **data):
  config = robustness_defaults()
  config.init_from = str(run)
  config.noise.levels = LEVELS
  config.noise.resamples = 50
  config.data.length_buckets = (16,)
  config.data.eval_batch_size = 16
  config.data.update(data)
  return config


def finetuned(config, pretrained, workdir):
  """A run of one step, of a model whose answers differ by text.

  Its weights are large and random; so short a training would only teach it
  the commonest class.
  """
  config.init_from = ''
  (config.data.vocab,) = map(str, pretrained.glob('checkpoints/4'))
  config.model.initializer_range = 0.5
  config.train.update({'epochs': None, 'steps': 1, 'learning_rate': 0.0})
  config.data.predict_test = False
  return finetune(config, workdir)


@pytest.fixture(scope='module')
def run(glue, pretrained, tmp_path_factory):
  """A finished MNLI run: its workdir and results."""
  workdir = tmp_path_factory.mktemp('mnli')
  config = finetune_config('mnli', glue, pretrained)
  return workdir, finetuned(config, pretrained, workdir)


@pytest.fixture(scope='module')
def outside(tmp_path_factory):
  """A folder with one known set, and two files of the user's."""
  folder = tmp_path_factory.mktemp('outside')
  (folder / 'mnli').mkdir()
  rows = list(zip(sentences(30, 5), sentences(30, 6), strict=True))
  labels = ['entailment', 'non-entailment', 'non-entailment'] * 10
  lines = ['gold_label\tsentence1\tsentence2']
  for label, pair in zip(labels, rows, strict=True):
    lines.append('\t'.join((label, *pair)))
  (folder / 'mnli' / 'hans_perturbed_eval.tsv').write_text('\n'.join(lines))
  for name, label in (('three', 'neutral'), ('two', 'not_entailment')):
    lines = ['premise,hypothesis,label', f'a dog,a cat,{label}']
    lines += [f'{a},{b},entailment' for a, b in rows]
    (folder / f'{name}.csv').write_text('\n'.join(lines))
  return folder


def with_outside(config, outside):
  config.outside.dir = str(outside)
  files = [str(outside / f'{name}.csv') for name in ('three', 'two')]
  config.outside.files = tuple(files)
  config.data.text_columns = ('premise', 'hypothesis')
  return config


@pytest.fixture(scope='module')
def measured(run, outside, tmp_path_factory):
  """The config, workdir and results of the job."""
  workdir = tmp_path_factory.mktemp('measured')
  config = with_outside(config_of(run[0]), outside)
  validation.validate(config)
  file_validation.check_files(config)
  return config, workdir, robustness(config, workdir)


def test_without_noise_the_numbers_are_those_of_the_training(run, measured):
  _, _, results = measured
  for split, values in run[1]['metrics'].items():
    assert results['metrics'][split] == pytest.approx(values, rel=1e-5)
    for kind, found in results['noise']['curves'][split].items():
      assert found['values'][0] == values[found['metric']], kind
  assert results['examples'] == {'dev_matched': 21, 'dev_mismatched': 21}
  assert results['task'] == 'mnli' and results['attention'] == 'shared'


def test_curves_areas_and_intervals_are_those_of_the_predictions(measured):
  _, workdir, results = measured
  kept = read_predictions(workdir / 'robustness.npz')
  np.testing.assert_array_equal(kept['levels'], LEVELS)
  for split, kinds in results['noise']['curves'].items():
    assert tuple(kinds) == KINDS
    labels = kept[f'{split}/labels']
    for kind, found in kinds.items():
      predictions = kept[f'{split}/{kind}']
      assert predictions.shape == (3, 21) and predictions.dtype == np.uint8
      values = [accuracy(each, labels) for each in predictions]
      assert found['values'] == values
      area = area_under_curve(np.array(LEVELS), np.array(values))
      assert found['auc'] == pytest.approx(area)
      samples = bootstrap.metric_samples(
        'accuracy', predictions, labels, count=50
      )
      areas = area_under_curve(np.array(LEVELS), samples)
      assert found['auc_interval'] == pytest.approx(bootstrap.interval(areas))
      low, high = found['auc_interval']
      assert low <= found['auc'] <= high
  # Noise is no idle word: each kind of it changes some prediction.
  for kind in KINDS:
    both = [kept[f'{split}/{kind}'] for split in results['metrics']]
    assert any((each[2] != each[0]).any() for each in both), kind


def test_sets_outside_have_their_metrics_beside_the_commonest_class(measured):
  _, workdir, results = measured
  outside = results['outside']
  assert list(outside) == ['hans', 'three', 'two']
  assert [each['classes'] for each in outside.values()] == [2, 3, 2]
  assert outside['hans']['examples'] == 30
  assert outside['hans']['majority'] == pytest.approx(2 / 3)
  kept = read_predictions(workdir / 'robustness.npz')
  for name, found in outside.items():
    (predictions,), labels = (
      kept[f'outside/{name}'],
      kept[f'outside/{name}/labels'],
    )
    assert found['metrics'] == {'accuracy': accuracy(predictions, labels)}
    low, high = found['interval']
    assert low <= found['metrics']['accuracy'] <= high


def test_a_picture_is_left_and_a_table_printed(measured, capsys):
  config, workdir, results = measured
  with Image.open(workdir / 'robustness.png') as picture:
    assert picture.size[1] == 2 * 440  # one panel a split
  # A finished run says again what came out, and computes nothing.
  assert robustness(config, workdir)['noise'] == results['noise']
  shown = capsys.readouterr().out
  assert 'is complete; nothing to do' in shown
  assert 'dev_matched: accuracy by level of noise, 21 examples' in shown
  for kind in KINDS:
    assert f'\n{kind} ' in shown
  assert '\nhans ' in shown


@pytest.mark.parametrize(
  'data',
  [
    {'eval_batch_size': 8},
    {'packing': False},
    {'packing': False, 'eval_batch_size': 40, 'length_buckets': (10, 12)},
  ],
  ids=['batches of 8', 'one a row', 'cut to lengths'],
)
def test_batches_and_packing_change_nothing(data, measured, tmp_path):
  config, workdir, results = measured
  config = copy.deepcopy(config)
  config.data.update(data)
  again = measure(config, tmp_path)
  assert again['noise'] == results['noise']
  assert again['outside'] == results['outside']
  ours, theirs = (
    (folder / 'robustness.npz').read_bytes() for folder in (tmp_path, workdir)
  )
  assert ours == theirs


def test_spread_parameters_get_the_same_noise(measured, tmp_path):
  config = copy.deepcopy(measured[0])
  config.mesh.fsdp, config.noise.kinds = '2', ('embedding',)
  for split, kinds in measure(config, tmp_path)['noise']['curves'].items():
    assert (
      kinds['embedding'] == (measured[2]['noise']['curves'][split]['embedding'])
    )


def test_another_seed_is_another_noise(measured, tmp_path):
  config, workdir, _ = measured
  config = copy.deepcopy(config)
  config.noise.seed = 1
  measure(config, tmp_path)
  one, other = (
    read_predictions(f / 'robustness.npz') for f in (tmp_path, workdir)
  )
  assert any((one[name] != other[name]).any() for name in one)


def _compiled(config, workdir, caplog):
  """How often a fresh process would compile each function."""
  jax.clear_caches()
  caplog.clear()
  with jax.log_compiles():
    measure(config, workdir)
  return collections.Counter(
    message.split()[1]
    for message in caplog.messages
    if message.startswith('Compiling ')
  )


def test_all_levels_kinds_and_sets_share_two_compilations(
  measured, tmp_path, caplog
):
  config = copy.deepcopy(measured[0])
  config.noise.levels = (0.0, 0.5)
  once = _compiled(config, tmp_path, caplog)
  assert once['jit(<lambda>)'] == once['jit(outputs)'] == 1
  config.noise.levels = (0.0, 0.1, 0.2, 0.3)
  assert _compiled(config, tmp_path, caplog) == once


def test_scores_of_own_files_have_a_curve_of_their_correlation(
  pretrained, glue, tmp_path
):
  for name, seed in (('train', 0), ('dev', 1), ('new', 2)):
    rows = [f'{t},{n % 5}' for n, t in enumerate(sentences(20, seed))]
    (tmp_path / f'{name}.csv').write_text('\n'.join(['text,stars', *rows]))
  columns = {'text_columns': ('text',), 'label_column': 'stars'}
  config = finetune_config('own', glue, pretrained)
  config.data.update({'source': 'files', 'glue_dir': '', 'regression': True})
  config.data.update(columns)
  config.data.train_file = str(tmp_path / 'train.csv')
  config.data.dev_file = str(tmp_path / 'dev.csv')
  finetuned(config, pretrained, tmp_path / 'run')
  config = config_of(tmp_path / 'run')
  config.noise.kinds = ('word_drop',)
  config.outside.files = (str(tmp_path / 'new.csv'),)
  results = measure(config, tmp_path)
  assert results['examples'] == {'dev': 20}
  found = results['noise']['curves']['dev']['word_drop']
  assert found['metric'] == 'pearson'
  assert found['values'][0] == results['metrics']['dev']['pearson']
  assert results['outside']['new']['majority'] is None
  kept = read_predictions(tmp_path / 'robustness.npz')
  assert kept['dev/word_drop'].dtype == np.float32
  # Another file in place of the dev set, with what the run says given by hand.
  config.data.update({'source': 'files', **columns})
  config.data.test_file, config.outside.files = config.outside.files[0], ()
  validation.validate(config)
  again = measure(config, tmp_path)
  assert again['examples'] == {'test': 20}
  assert (
    again['metrics']['test']['pearson']
    == results['outside']['new']['metrics']['pearson']
  )


def test_a_bert_of_others_is_measured_on_data_that_is_named(
  run, glue, measured, tmp_path
):
  huggingface.write(open_saved(run[0]), tmp_path)
  config = config_of(tmp_path, seq_len=16)
  config.noise.kinds = ('word_shuffle', 'embedding')
  with pytest.raises(UserError, match='does not say what it was trained on'):
    measure(config, tmp_path)
  config.data.update({'source': 'local', 'glue_dir': str(glue)})
  with pytest.raises(UserError, match='which task it was trained on'):
    measure(config, tmp_path)
  config.data.task = 'mnli'
  validation.validate(config)
  theirs = measure(config, tmp_path)['noise']['curves']
  for split, kinds in theirs.items():
    for kind, found in kinds.items():
      assert found == measured[2]['noise']['curves'][split][kind]


def test_a_dry_run_measures_a_few_rows_and_prints_no_result(
  measured, tmp_path, capsys
):
  results = robustness(measured[0], tmp_path, Options(dry_run=True))
  assert results['examples']['dev_matched'] == 16
  assert results['outside']['hans']['examples'] == 16
  assert 'by level of noise' not in capsys.readouterr().out


def test_a_model_of_words_is_refused(pretrained, tmp_path):
  with pytest.raises(UserError, match='is a checkpoint of job=pretrain'):
    measure(config_of(pretrained), tmp_path)


@pytest.mark.parametrize(
  ('section', 'key', 'value', 'message'),
  [
    ('noise', 'levels', (0.0,), r'noise.levels=\(0.0,\) must rise from 0.0'),
    ('noise', 'levels', (0.1, 0.2), 'must rise from 0.0'),
    ('noise', 'levels', (0.0, 0.2, 0.2), 'must rise from 0.0'),
    ('noise', 'levels', (0.0, 1.5), 'to at most 1.0'),
    ('noise', 'levels', (0.0, 'much'), 'noise.levels=.* must hold shares'),
    ('noise', 'kinds', ('typos',), "names 'typos', which is not known: use"),
    ('noise', 'kinds', ('embedding',) * 2, 'names one twice'),
    ('noise', 'seed', -1, 'noise.seed=-1 must be from 0'),
    ('noise', 'resamples', 0, 'noise.resamples=0 must be at least 1'),
    ('outside', 'sets', ('hands',), "names 'hands', which is not known"),
    ('outside', 'sets', ('hans',), 'looked for in outside.dir, and that is'),
    ('data', 'glue_dir', 'glue', 'data.glue_dir=glue is set, and data.source'),
    ('data', 'source', 'local', 'data.glue_dir is not set'),
    ('data', 'source', 'web', "data.source='web' is not known"),
    ('data', 'length_buckets', (9, 3), 'must rise from short to long'),
  ],
)
def test_settings_that_cannot_be_are_refused(section, key, value, message):
  config = config_of('run')
  config[section][key] = value
  with pytest.raises(UserError, match=message):
    validation.validate(config)


def test_other_jobs_keys_and_no_model_are_refused(tmp_path):
  config = config_of('run')
  config.job = 'eval'
  with pytest.raises(UserError, match='which are those of robustness'):
    validation.validate(config)
  config = config_of('')
  with pytest.raises(UserError, match='job=robustness needs init_from'):
    validation.validate(config)
  config = config_of(tmp_path)
  config.outside.files = (str(tmp_path / 'no.csv'),)
  validation.validate(config)
  with pytest.raises(UserError, match='outside.files=.*there is no such file'):
    file_validation.check_files(config)


def test_a_split_without_labels_is_refused(run, all_of_glue, tmp_path):
  config = config_of(run[0], source='local', glue_dir=str(all_of_glue))
  config.data.splits = ('test_matched',)
  with pytest.raises(UserError, match='has no labelled split here'):
    measure(config, tmp_path)


def test_two_sets_of_one_name_are_refused(run, outside, tmp_path):
  config = with_outside(config_of(run[0]), outside)
  other = tmp_path / 'two.csv'
  other.write_bytes((outside / 'two.csv').read_bytes())
  config.outside.files = (str(other), str(outside / 'two.csv'))
  with pytest.raises(UserError, match="two sets would be called 'two'"):
    measure(config, tmp_path)


@pytest.mark.parametrize('damage', ['absent', 'cut', 'objects'])
def test_damaged_predictions_are_refused(damage, measured, tmp_path):
  path = tmp_path / 'robustness.npz'
  if damage == 'cut':
    path.write_bytes((measured[1] / path.name).read_bytes()[:-200])
  elif damage == 'objects':
    np.savez(path, levels=np.array([{}]))
  with pytest.raises(UserError, match='measure the model again'):
    read_predictions(path)
