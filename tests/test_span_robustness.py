"""A model of questions under noise: its answers, its curve, its files."""

import collections
import copy

import jax
import numpy as np
import pytest

from shared_bert import file_validation, validation
from shared_bert.data.squad import read
from shared_bert.data.tokenizer import SPECIAL_TOKENS, Tokenizer
from shared_bert.errors import UserError
from shared_bert.evaluate import evaluate
from shared_bert.finetune import finetune
from shared_bert.interop import huggingface
from shared_bert.interop.saved import open_saved
from shared_bert.robustness import measure, robustness
from shared_bert.robustness_config import (
  KINDS,
  robustness_defaults,
  with_questions_of,
)
from shared_bert.robustness_results import read_predictions
from shared_bert.span_data import SpanData
from shared_bert.training import answer_metrics, bootstrap
from shared_bert.training.metrics import area_under_curve
from shared_bert.training.run import Options
from tests.squad_files import question, write, write_random
from tests.tiny_jobs import WORDS
from tests.tiny_squad import config_of as squad_config

LEVELS = (0.0, 0.3, 0.9)


def config_of(run, **data):
  config = robustness_defaults()
  config.init_from = str(run)
  config.noise.levels, config.noise.resamples = LEVELS, 50
  config.data.update(data)
  config.lock()  # as the command does
  validation.validate(config)
  file_validation.check_files(config)
  return config


@pytest.fixture(scope='module')
def squad_file(tmp_path_factory):
  """Three texts of version 2.0, each with four questions, one unanswered.

  The answer to a word is the next one of a ring, wherever it stands.
  """
  folder = tmp_path_factory.mktemp('squad')
  Tokenizer.from_vocab([*SPECIAL_TOKENS, *WORDS]).save(folder)
  rng, paragraphs = np.random.default_rng(0), []
  ring = dict(zip(WORDS, [*WORDS[1:], WORDS[0]], strict=True))
  for number in range(3):
    absent, *words = rng.permutation(WORDS).tolist()
    found = []
    for asked in rng.permutation([w for w in WORDS if ring[w] != absent])[:3]:
      answer = ring[asked]
      start = len(' '.join(['', *words[: words.index(answer)]]))
      name = f'q{number}{len(found)}'
      found.append(question(name, asked, (answer, start)))
    (asked,) = (w for w in WORDS if ring[w] == absent)
    found.append(question(f'q{number}3', asked, is_impossible=True))
    paragraphs.append((' '.join(words), found))
  return write(folder / 'twelve.json', paragraphs, 'v2.0')


@pytest.fixture(scope='module')
def learnt(squad_file, tmp_path_factory):
  """A run that knows these by heart: its workdir and results."""
  workdir = tmp_path_factory.mktemp('learnt')
  # Small weights take longer to see that answers depend on the question.
  config = squad_config(squad_file, **{'model.initializer_range': 0.2})
  return workdir, finetune(config, workdir)


@pytest.fixture(scope='module')
def measured(learnt, tmp_path_factory):
  """The config, workdir and results of the job."""
  workdir = tmp_path_factory.mktemp('measured')
  config = config_of(learnt[0])
  return config, workdir, robustness(config, workdir)


def test_without_noise_the_numbers_are_those_of_the_training(learnt, measured):
  theirs, ours = learnt[1], measured[2]
  assert ours['metrics']['dev'] == pytest.approx(theirs['metrics']['dev'])
  assert ours['task'] == 'squad' and ours['examples'] == {'dev': 12}
  for kind, found in ours['noise']['curves']['dev'].items():
    assert found['metric'] == 'f1', kind
    assert found['values'][0] == theirs['metrics']['dev']['f1'] == 100, kind


def test_curves_are_of_each_answer_and_every_kind_costs_some(measured):
  _, workdir, results = measured
  kept = read_predictions(workdir / 'robustness.npz')
  curves = results['noise']['curves']['dev']
  assert tuple(curves) == KINDS
  assert kept['dev/ids'][:5].tolist() == ['q00', 'q01', 'q02', 'q03', 'q10']
  for kind, found in curves.items():
    f1 = kept[f'dev/{kind}']
    assert f1.shape == (3, 12) and (f1 <= 1).all()
    assert found['values'] == pytest.approx(100 * f1.mean(1))
    area = area_under_curve(np.array(LEVELS), np.array(found['values']))
    assert found['auc'] == pytest.approx(area)
    samples = 100 * bootstrap.mean_samples(f1, count=50)
    areas = area_under_curve(np.array(LEVELS), samples)
    assert found['auc_interval'] == pytest.approx(bootstrap.interval(areas))
    if kind in ('word_drop', 'word_shuffle'):  # a word alone stays
      assert found['values'] == [100, 100, 100]
    else:
      assert found['values'][2] < 100, kind


def test_a_question_with_noise_is_answered_as_if_it_were_asked_so(
  squad_file,
):
  questions = read(squad_file, 'data.dev_file', training=False)
  config = squad_config(squad_file)
  tokenizer = Tokenizer.load(config.data.vocab)
  data = SpanData(config.data, {'dev': questions})
  clean = data.encode(tokenizer, 20).windows['dev']
  others = tokenizer.encode_batch(questions.texts)[::-1]
  windows = data.asked_otherwise('dev', others, tokenizer, 20)
  # Another question of the same length moves nothing of the context.
  np.testing.assert_array_equal(windows.offsets, clean.offsets)
  asked = windows.rows['input_ids'][:, 1:2]
  assert asked.tolist() == [others[n] for n in windows.question]
  for name in ('input_ids', 'token_type_ids', 'segment_ids'):
    np.testing.assert_array_equal(
      windows.rows[name][:, 2:], clean.rows[name][:, 2:]
    )
  # And one of which nothing is left leaves its place to the context.
  nothing = data.asked_otherwise('dev', [[]] * 12, tokenizer, 20)
  first = nothing.rows['input_ids'][0]
  assert first[:2].tolist() == [tokenizer.cls_id, tokenizer.sep_id]
  places = nothing.offsets[0][nothing.offsets[0, :, 1] > 0]
  text = [questions.contexts[0][a:b] for a, b in places]
  assert text == questions.contexts[0].split()[: len(text)]
  assert set(nothing.question) == set(range(12))


@pytest.mark.parametrize(
  'data',
  [{'eval_batch_size': 16}, {'length_buckets': (19, 20)}],
  ids=['batches of 16', 'cut to lengths'],
)
def test_batches_change_nothing(data, measured, tmp_path):
  config = copy.deepcopy(measured[0])
  config.data.update(data)
  again = measure(config, tmp_path)
  assert again['noise'] == measured[2]['noise']


def test_spread_parameters_and_another_seed(measured, tmp_path):
  config = copy.deepcopy(measured[0])
  config.mesh.fsdp, config.noise.kinds = '2', ('embedding', 'characters')
  curves = measured[2]['noise']['curves']['dev']
  again = measure(config, tmp_path)['noise']['curves']['dev']
  assert again == {kind: curves[kind] for kind in config.noise.kinds}
  config.noise.seed = 1
  again = measure(config, tmp_path)['noise']['curves']['dev']
  assert any(again[kind] != curves[kind] for kind in again)


def test_all_levels_and_kinds_share_two_compilations(
  measured, tmp_path, caplog
):
  found = []
  for levels in ((0.0, 0.5), (0.0, 0.1, 0.2, 0.3)):
    config = copy.deepcopy(measured[0])
    config.noise.levels = levels
    jax.clear_caches()
    caplog.clear()
    with jax.log_compiles():
      measure(config, tmp_path)
    names = (m.split()[1] for m in caplog.messages if m[:9] == 'Compiling')
    found.append(collections.Counter(names))
  assert found[0] == found[1]
  assert found[0]['jit(<lambda>)'] == found[0]['jit(outputs)'] == 1


def test_a_table_is_printed_once_more_by_a_finished_run(measured, capsys):
  config, workdir, results = measured
  assert robustness(config, workdir)['noise'] == results['noise']
  shown = capsys.readouterr().out
  assert 'dev: f1 by level of noise, 12 examples' in shown
  assert '\ncharacters           100.00' in shown
  assert (workdir / 'robustness.png').exists()


def test_another_file_is_measured_as_it_is_evaluated(learnt, tmp_path):
  # Of version 1.1, where no question may have no answer.
  other = write_random(tmp_path / 'other.json', 7, seed=5)
  config = config_of(learnt[0], source='files', dev_file=str(other))
  found = measure(config, tmp_path)
  assert found['examples'] == {'dev': 7}
  assert 'NoAns_f1' not in found['metrics']['dev']
  evaluation = squad_config(
    other, **{'job': 'eval', 'init_from': str(learnt[0])}
  )
  evaluated = evaluate(evaluation, tmp_path / 'eval')
  assert evaluated['metrics'] == found['metrics']


def test_a_bert_of_others_is_measured_on_a_file_that_is_named(
  learnt, squad_file, tmp_path
):
  huggingface.write(open_saved(learnt[0]), tmp_path)
  config = config_of(tmp_path, seq_len=20)
  with pytest.raises(UserError, match='answers questions, .* data.dev_file'):
    measure(config, tmp_path)
  config.data.update({'source': 'files', 'dev_file': str(squad_file)})
  validation.validate(config)
  file_validation.check_files(config)
  config.noise.kinds = ('characters',)
  theirs = measure(config, tmp_path)['noise']['curves']['dev']['characters']
  evaluation = squad_config(squad_file, job='eval', init_from=str(tmp_path))
  evaluation.data.update({'stride': 128, 'question_length': 64})
  evaluated = evaluate(evaluation, tmp_path / 'eval')
  assert theirs['values'][0] == pytest.approx(evaluated['metrics']['dev']['f1'])


def test_a_dry_run_asks_a_few_questions(measured, tmp_path, capsys):
  config = copy.deepcopy(measured[0])
  config.data.eval_batch_size = 8
  results = robustness(config, tmp_path, Options(dry_run=True))
  assert results['examples'] == {'dev': 8}
  assert 'by level of noise' not in capsys.readouterr().out


@pytest.mark.parametrize(
  ('section', 'key', 'value'),
  [
    ('outside', 'files', ('new.csv',)),
    ('outside', 'dir', 'ood'),
    ('data', 'splits', ('dev',)),
    ('data', 'test_file', 'test.tsv'),
  ],
)
def test_what_no_model_of_questions_reads_is_refused(
  section, key, value, learnt, tmp_path
):
  config = config_of(learnt[0])
  config[section][key] = value
  with pytest.raises(UserError, match=f'{section}.{key}=.* leave it out'):
    measure(config, tmp_path)


def test_files_that_are_not_of_squad_or_gone_are_refused(
  learnt, glue, tmp_path
):
  config = config_of(learnt[0], source='local', glue_dir=str(glue), task='cola')
  with pytest.raises(UserError, match='in files of SQuAD: set data.source'):
    measure(config, tmp_path)
  with pytest.raises(UserError, match='data.dev_file=absent.json: there is no'):
    config_of(learnt[0], source='files', dev_file='absent.json')
  moved = {'data': {'dev_file': str(tmp_path / 'moved.json')}}
  with pytest.raises(UserError, match='moved.json, on which .* data.dev_file'):
    with_questions_of(config_of(learnt[0]), moved)


def test_f1_of_each_answer_has_the_mean_of_all():
  gold = {'a': ['one two'], 'b': [], 'c': ['three', 'one three']}
  answers = {'a': 'two', 'b': '', 'c': 'three'}
  found = [
    answer_metrics.exact_and_f1(answers[name], gold[name], second=True)[1]
    for name in gold
  ]
  odds = dict.fromkeys(gold, 0.0)
  whole = answer_metrics.evaluate(answers, gold, odds)
  assert whole['f1'] == pytest.approx(100 * np.mean(found))
