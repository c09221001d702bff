"""SQuAD as a job: learnt, scored, written, gone on with, and used."""

import copy
import json
import os
import shutil
import signal

import jax
import numpy as np
import pytest
from absl.testing import flagsaver

from shared_bert import config as config_lib
from shared_bert import (
  export,
  file_validation,
  tasks,
  validation,
)
from shared_bert.data import batches
from shared_bert.data.tokenizer import SPECIAL_TOKENS, Tokenizer
from shared_bert.errors import Preempted, UserError
from shared_bert.evaluate import evaluate
from shared_bert.finetune import finetune
from shared_bert.inference import Predictor
from shared_bert.interop.huggingface import read
from shared_bert.interop.opening import open_model
from shared_bert.model import parameters
from shared_bert.model.parameters import applier
from shared_bert.planning.subject import subject_of
from shared_bert.suite import suite
from shared_bert.training import mesh as mesh_lib
from shared_bert.training.checkpoint import open_checkpoint
from shared_bert.training.mesh import planned_mesh
from shared_bert.training.run import Options
from tests.squad_files import write_random
from tests.tiny_jobs import WORDS, finetune_config
from tests.tiny_squad import config_of, on_one_device


@pytest.fixture(scope='module')
def files(tmp_path_factory):
  """Ten questions of version 2.0, two without an answer, and a vocabulary."""
  folder = tmp_path_factory.mktemp('squad')
  Tokenizer.from_vocab([*SPECIAL_TOKENS, *WORDS]).save(folder)
  return write_random(folder / 'ten.json', 10, 'v2.0')


@pytest.fixture(scope='module')
def learnt(files, tmp_path_factory):
  """A run that knows ten questions by heart: config, workdir, results."""
  workdir = tmp_path_factory.mktemp('learnt')
  config = config_of(files)
  with pytest.MonkeyPatch.context() as patch:
    on_one_device(patch)
    return config, workdir, finetune(config, workdir)


def loaded(path):
  return json.loads(path.read_text())


def files_of(workdir):
  names = ('predictions', 'null_odds', 'nbest_predictions')
  return [loaded(workdir / f'{name}.json') for name in names]


def test_ten_questions_are_learnt_and_all_right(files, learnt):
  _, workdir, results = learnt
  metrics = results['metrics']['dev']
  for name in ('exact_match', 'f1', 'HasAns_exact', 'NoAns_f1', 'best_f1'):
    assert metrics[name] == 100, name
  assert results['examples'] == {'train': 10, 'dev': 10}
  assert results['windows'] == {'train': 20, 'dev': 20}
  qas = [
    paragraph['qas'][0] for paragraph in loaded(files)['data'][0]['paragraphs']
  ]
  gold = {q['id']: (q['answers'] or [{'text': ''}])[0]['text'] for q in qas}
  assert loaded(workdir / 'predictions.json') == gold
  odds = loaded(workdir / 'null_odds.json')
  assert {name for name, value in odds.items() if value > 0} == {
    name for name, text in gold.items() if not text
  }
  nbest = loaded(workdir / 'nbest_predictions.json')
  for name, text in gold.items():
    first = nbest[name][0]
    assert first['text'] == text
    assert set(first) == {'text', 'probability', 'start_logit', 'end_logit'}


@pytest.mark.parametrize('devices', [1, 8])
def test_evaluating_the_checkpoint_gives_the_numbers_and_files_of_the_run(
  devices, learnt, tmp_path, monkeypatch
):
  config, workdir, results = learnt
  config = copy.deepcopy(config)
  config.job, config.init_from = 'eval', str(workdir)
  config.data.update({'train_file': '', 'vocab': ''})
  config.data.seq_len = 32  # the checkpoint's counts
  if devices == 1:
    on_one_device(monkeypatch)
  else:
    config.data.update({'length_buckets': (8, 19), 'eval_batch_size': 16})
  validation.validate(config)
  again = evaluate(config, tmp_path)
  assert again['windows'] == {'dev': 20}
  close = {} if devices == 1 else {'rel': 1e-5, 'abs': 1e-5}
  ours, theirs = (of['metrics']['dev'] for of in (again, results))
  assert ours == (pytest.approx(theirs, **close) if close else theirs)
  ours, theirs = (files_of(folder) for folder in (tmp_path, workdir))
  assert ours[0] == theirs[0]
  if devices == 1:
    assert ours == theirs
  else:
    assert ours[1] == pytest.approx(theirs[1], **close)


def test_a_checkpoint_is_evaluated_on_version_1_and_on_a_part(learnt, tmp_path):
  config, workdir, _ = learnt
  config = copy.deepcopy(config)
  config.job, config.init_from = 'eval', str(workdir)
  config.data.dev_file = str(write_random(tmp_path / 'dev.json', 30, seed=1))
  config.data.update({'dev_questions': 7, 'vocab': ''})
  results = evaluate(config, tmp_path / 'run')
  assert set(results['metrics']['dev']) == {'exact_match', 'f1'}
  assert len(loaded(tmp_path / 'run' / 'predictions.json')) == 7
  assert not (tmp_path / 'run' / 'null_odds.json').exists()


def test_models_of_other_tasks_are_refused(
  learnt, glue, pretrained, files, tmp_path
):
  config, workdir, _ = learnt
  classes = finetune_config('cola', glue, pretrained)
  classes.job, classes.init_from = 'eval', str(workdir)
  with pytest.raises(UserError, match='answers questions.*configs/squad.py'):
    evaluate(classes, tmp_path / 'a')
  config = copy.deepcopy(config)
  config.job, config.init_from = 'eval', str(pretrained)
  with pytest.raises(UserError, match='is a checkpoint of job=pretrain'):
    evaluate(config, tmp_path / 'b')


def interrupted(job, monkeypatch):
  """Runs a job until it is told to stop, as its third batch is made."""
  make = batches.Rows.__call__

  def told(self, step):
    if step == 2:
      os.kill(os.getpid(), signal.SIGTERM)
    return make(self, step)

  with monkeypatch.context() as patch:
    patch.setattr(batches.Rows, '__call__', told)
    with pytest.raises(Preempted):
      job()


def test_an_interrupted_run_ends_with_the_bits_of_a_whole_one(
  files, pretrained, tmp_path, monkeypatch
):
  on_one_device(monkeypatch)
  config = config_of(
    files,
    **{
      'init_from': str(pretrained),
      'model.hidden_size': 16,
      'model.hidden_dropout': 0.1,
      'train.steps': 6,
      'train.eval_every': 3,
    },
  )
  whole, parts = tmp_path / 'whole', tmp_path / 'parts'
  finetune(config, whole)
  interrupted(lambda: finetune(config, parts), monkeypatch)
  assert not (parts / 'predictions.json').exists()
  finetune(config, parts)
  found = [open_checkpoint(folder) for folder in (whole, parts)]
  assert [checkpoint.step for checkpoint in found] == [6, 6]
  jax.tree.map(np.testing.assert_array_equal, *(c.load_params() for c in found))
  assert files_of(whole) == files_of(parts)
  ours, theirs = (loaded(f / 'results.json')['metrics'] for f in (whole, parts))
  assert ours == theirs


def test_the_loss_is_the_mean_of_two_and_does_not_see_padding(files):
  config = config_of(files)
  tokenizer = Tokenizer.load(config.data.vocab)
  data = tasks.load(config.data).encode(tokenizer, 32)
  model = config_lib.model_config(config, tokenizer.vocab_size, 'cpu')
  spans = tasks.model_of(model, data, config, mesh_lib.make_mesh())
  params = parameters.initialise(spans.make, jax.random.key(0))
  arrays = data.arrays['train']
  assert arrays['lengths'].max() < 30
  batches_of = [
    batches.Rows(arrays, 6, 0, buckets)(0) for buckets in (None, (30,))
  ]
  whole, cut = (spans.loss_sums(params, batch, None) for batch in batches_of)
  cut, whole = jax.device_get((cut, whole))
  assert cut['loss'][0] == pytest.approx(whole['loss'][0], rel=1e-6)
  expected, right = [], []
  for row in range(6):
    length, ends = batches_of[1]['lengths'][row], []
    row_logits = applier(spans.make)(
      params,
      batches_of[1]['input_ids'][row : row + 1, :length],
      batches_of[1]['token_type_ids'][row : row + 1, :length],
    )
    for name, values in zip(
      ('start_positions', 'end_positions'), row_logits, strict=True
    ):
      gold = batches_of[1][name][row]
      values = np.asarray(values[0], np.float64)
      expected.append(np.log(np.exp(values).sum()) - values[gold])
      ends.append(values.argmax() == gold)
    right.append(all(ends))
  assert cut['loss'][1] == 6
  assert cut['loss'][0] == pytest.approx(6 * np.mean(expected), rel=1e-5)
  assert cut['accuracy'] == (sum(right), 6)


def test_a_dry_run_of_seeds_takes_few_questions(files, tmp_path, monkeypatch):
  on_one_device(monkeypatch)
  config = config_of(files, **{'data.eval_batch_size': 3, 'seeds': (3,)})
  results = suite(config, tmp_path, Options(dry_run=True))
  assert results['tasks']['squad']['summary']['dev']['f1']['runs'] == 1
  assert len(files_of(tmp_path / 'squad' / 'seed-3')[0]) == 3


def test_the_run_answers_questions_and_exports_them(
  files, learnt, tmp_path, monkeypatch
):
  config, workdir, results = learnt
  saved = open_model(workdir)
  paragraphs = loaded(files)['data'][0]['paragraphs']
  pairs = [(p['qas'][0]['question'], p['context']) for p in paragraphs]
  predictor = Predictor(saved, 'answer', no_answer=True)
  found = [answer['answer'] for answer in predictor(pairs)]
  # Windows of another stride, but what is known by heart is found.
  wanted = list(loaded(workdir / 'predictions.json').values())
  assert sum(map(str.__eq__, found, wanted)) >= 8
  output = tmp_path / 'hf'
  assert run_command(export, workdir, output) == 0
  # The folder is scored as the run was.
  on_one_device(monkeypatch)
  config = copy.deepcopy(config)
  config.job, config.init_from = 'eval', str(output)
  config.data.vocab = ''
  again = evaluate(config, tmp_path / 'eval')['metrics']['dev']
  assert again == pytest.approx(results['metrics']['dev'], rel=1e-5, abs=1e-5)
  assert read(output).head == 'question_answering'
  torch = pytest.importorskip('torch')
  transformers = pytest.importorskip('transformers')
  theirs = transformers.BertForQuestionAnswering.from_pretrained(output)
  ids = np.array([saved.tokenizer.encode_batch([pairs[0][1]])[0][:12]])
  ours = applier(saved.make)(saved.params, ids)
  with torch.no_grad():
    logits = theirs.eval()(torch.tensor(ids))
  for mine, its in zip(
    ours, (logits.start_logits, logits.end_logits), strict=True
  ):
    np.testing.assert_allclose(mine, its.numpy(), atol=1e-5)


def run_command(module, checkpoint, output):
  with flagsaver.flagsaver():
    return module.run(
      [module.__name__, f'--checkpoint={checkpoint}', f'--output={output}']
    )


def test_a_plan_counts_windows_where_it_knows_the_vocabulary(files, pretrained):
  changes = {
    'model.hidden_size': 16,
    'train.steps': None,
    'train.epochs': 2.0,
  }
  config = config_of(files, init_from=str(pretrained), **changes)
  known = subject_of(config, planned_mesh(1))
  assert known.num_rows > 20
  assert known.course.steps == round(2 * known.num_rows / 16)
  assert set(known.batch(4, 20)) > {'start_positions', 'end_positions'}
  assert known.predictions(20) == 0
  config = config_of(files, **changes)
  config.data.vocab = ''
  unknown = subject_of(config, planned_mesh(1))
  assert unknown.course is None and unknown.num_rows is None
  assert any('steps       are open' in line for line in unknown.data)


# Keys of a config of questions that cannot be, and words of the error.
REFUSED = {
  'data.stride': (0, 'must be at least 1'),
  'data.answer_length': (0, 'must be at least 1'),
  'data.question_length': (0, 'must be at least 1'),
  'data.n_best': (2**25, 'must be at most 16777216'),
  'data.train_questions': (-1, 'must not be negative'),
  'data.dev_questions': (-1, 'must not be negative'),
  'data.null_threshold': (float('inf'), 'must be a finite number'),
  'data.source': ('tfds', 'use files'),
  'data.task': ('cola', 'data.task=squad'),
  'data.dev_file': ('', 'such as dev-v1.1.json'),
  'data.train_file': ('', 'such as train-v1.1.json'),
  'data.seq_len': (600, 'is longer than model.max_positions'),
  'data.length_buckets': ((64, 32), 'must rise from short to long'),
  'seeds': ((1, 1), 'names a seed twice'),
}


@pytest.mark.parametrize('key', REFUSED)
def test_settings_that_cannot_be_are_refused(key):
  value, words = REFUSED[key]
  with pytest.raises(UserError, match=words):
    config_of('train.json', 'dev.json', **{key: value})


def test_files_are_looked_for_before_anything_else(files, tmp_path):
  config = config_of(files, tmp_path / 'absent.json')
  with pytest.raises(UserError, match='data.dev_file=.*absent.json is not'):
    file_validation.check_files(config)
  config.data.dev_file, config.data.train_file = str(files), 'absent.json'
  with pytest.raises(UserError, match='data.train_file=absent.json is not'):
    file_validation.check_files(config)
  config.job = 'eval'
  file_validation.check_files(config)


def test_a_changed_file_is_not_gone_on_with(files, tmp_path, monkeypatch):
  on_one_device(monkeypatch)
  path = tmp_path / 'train.json'
  for name in ('vocab.txt', 'tokenizer_config.json'):
    shutil.copy(files.with_name(name), tmp_path)
  path.write_text(files.read_text())
  config = config_of(path, files, **{'train.steps': 4})
  interrupted(lambda: finetune(config, tmp_path / 'run'), monkeypatch)
  text = path.read_text()
  place = text.index('"question": "') + len('"question": "')
  path.write_text(text[:place] + 'the ' + text[place:])
  with pytest.raises(UserError, match='trained with another data fingerprint'):
    finetune(config, tmp_path / 'run')
