"""A BERT learns shared attention: fitted to what it sees, then taught."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import optax
import pytest
import safetensors.numpy

from shared_bert import config as config_lib
from shared_bert.data.tokenizer import SPECIAL_TOKENS, Tokenizer
from shared_bert.distillation import Teacher
from shared_bert.errors import UserError
from shared_bert.evaluate import evaluate
from shared_bert.interop import huggingface, model_card
from shared_bert.interop.fitting import fit_shared
from shared_bert.interop.moments import second_moments
from shared_bert.interop.saved import maker_of, open_saved
from shared_bert.interop.starting import open_start, weighted_by
from shared_bert.masked_model import MaskedModel
from shared_bert.model.encoder import Encoder
from shared_bert.model.parameters import applier, named_leaves
from shared_bert.planning.memory import Budget
from shared_bert.planning.subject import subject_of
from shared_bert.pretrain import pretrain
from shared_bert.training import mesh as mesh_lib
from tests.test_interop import saved_model
from tests.test_masked_model import (
  batch_of,
  packed_rows,
  pair_rows,
  step_of_sgd,
)
from tests.tiny_jobs import SMALL, pretrain_config
from tests.tiny_model import (
  assert_close,
  random_params,
  tiny_config,
  token_rows,
)

VOCABULARY = [
  *SPECIAL_TOKENS,
  *(f'w{i}' for i in range(30)),
  *(f'##{i}' for i in range(15)),
]
MODEL = config_lib.pretrain_defaults().model.to_dict() | SMALL
EIGHT = pytest.mark.skipif(jax.device_count() < 8, reason='wants eight devices')


def test_second_moments_are_those_of_what_each_layer_sees():
  saved = saved_model('encoder', attention='standard')
  rows = token_rows([12, 7, 3, 1] * 5)  # 20: not 16, not 32
  names = ('input_ids', 'token_type_ids', 'segment_ids')
  found = second_moments(
    saved.params, saved.config, dict(zip(names, rows, strict=True))
  )
  # What goes into the second layer comes out of an encoder that has one.
  encoder, shallow = (
    saved.params['encoder'],
    tiny_config(attention='standard', num_layers=1),
  )
  first = jax.tree.map(lambda x: x[:1], encoder['layers'])
  embed = applier(lambda rngs: Encoder(shallow, rngs=rngs).embeddings)
  encode = applier(lambda rngs: Encoder(shallow, rngs=rngs))
  inputs = (
    embed(encoder['embeddings'], *rows),
    encode(encoder | {'layers': first}, *rows),
  )
  for moments, x in zip(found, inputs, strict=True):
    x = np.asarray(x, np.float64)[rows[2] > 0]
    x = np.concatenate([x, np.ones((len(x), 1))], axis=1)
    np.testing.assert_allclose(moments, x.T @ x / len(x), atol=1e-5)


@pytest.fixture(scope='module')
def bert(pretrained, tmp_path_factory):
  """A pre-trained model of ours as others have it, standard attention."""
  folder = tmp_path_factory.mktemp('bert')
  huggingface.write(open_saved(pretrained), folder)
  return folder


def uptrain_config(text, bert, steps=4, **train):
  config = pretrain_config(text, steps)
  config.init_from = str(bert)
  config.train.update(train)
  return config


def test_a_fit_is_weighted_by_rows_from_all_over_the_text(tmp_path):
  # Three random matrices, of which every fit is another compromise.
  saved = saved_model('encoder', attention='standard')
  huggingface.write(saved, tmp_path)
  sizes = ('num_layers', 'hidden_size', 'num_heads', 'intermediate_size')
  model = MODEL | {
    key: getattr(saved.config, key) for key in (*sizes, 'max_positions')
  }
  start = open_start(str(tmp_path), model)
  rng = np.random.default_rng(0)
  text = rng.integers(5, 40, (1000, 12)).astype(np.int32)

  def rows(chosen):
    assert len(chosen) == 256 and chosen[0] == 0 and chosen[-1] == 999
    ones = np.ones((256, 12), np.int32)
    return {
      'input_ids': text[chosen],
      'token_type_ids': 0 * ones,
      'segment_ids': ones,
    }

  start = weighted_by(start, len(text), rows)
  moments = second_moments(
    start.saved.params, start.saved.config, start.sample()
  )
  expected = fit_shared(start.saved.params, second_moments=moments).params
  plain = fit_shared(start.saved.params).params
  assert_close(start.load_params(), expected, atol=0)
  for (name, ours), (_, other) in zip(
    named_leaves(expected), named_leaves(plain), strict=True
  ):
    if '/projection/' in name:
      assert np.abs(ours - other).max() > 1e-3, name
  # What is taken over exactly needs no text.
  exact = open_start(str(tmp_path), model | {'attention': 'standard'})
  assert weighted_by(exact, len(text), rows) is exact


def student(teacher=None, labels=None, *, weight=0.3, mesh=None, **model):
  config = config_lib.pretrain_defaults()
  config.data.mask_ratio = 0.5
  config.train.update({'batch_size': 8, 'distill_weight': weight})
  settings = {'hidden_dropout': 0, 'attention_dropout': 0} | model
  return MaskedModel(
    tiny_config(**settings),
    config,
    Tokenizer.from_vocab(VOCABULARY),
    np.zeros((0, 16), np.int32),
    mesh or mesh_lib.make_mesh(devices=jax.devices()[:1]),
    labels,
    teacher=teacher,
  )


def teacher_of(head='masked_lm', temperature=2.0, **settings):
  saved = saved_model(head, **({'attention': 'standard'} | settings))
  return Teacher(saved, tiny_config(), temperature)


def taught_step(teacher, mesh, accumulation=1, weight=0.3, pairs=False):
  """Parameters before and after a step of SGD, and the means it logged."""
  ids, labels = pair_rows(8) if pairs else (packed_rows([(7, 5, 3)] * 8), None)
  model = student(
    teacher, None if labels is None else labels[:0], weight=weight, mesh=mesh
  )
  batch = batch_of(ids) if labels is None else batch_of(ids, labels)
  before, after, means = step_of_sgd(
    model,
    mesh,
    mesh_lib.place_batch(mesh, batch),
    accumulation,
    seed=1,
    frozen=(teacher.placed(mesh),),
  )
  return model, batch, before, after, means


@pytest.mark.parametrize('pairs', [False, True])
def test_a_student_learns_both_from_the_words_and_from_the_teacher(pairs):
  teacher = teacher_of('pretraining' if pairs else 'masked_lm')
  mesh = mesh_lib.make_mesh(devices=jax.devices()[:1])
  model, batch, before, after, means = taught_step(teacher, mesh, pairs=pairs)
  head = 'pretraining' if pairs else 'masked_lm'
  saved = saved_model(head, attention='standard')
  teach = applier(maker_of(head, saved.config, 0))
  learn = applier(model.make)

  def words(apply, params, rows):
    outputs = apply(
      params,
      rows['input_ids'],
      rows['token_type_ids'],
      rows['segment_ids'],
      masked_positions=rows['masked_positions'],
    )
    return outputs if pairs else (outputs, None)

  @jax.jit
  @jax.value_and_grad
  def hinton(params):
    rows = model.prepare(batch)
    ours, follows = words(learn, params, rows)
    theirs, _ = words(teach, saved.params, rows)
    entropy = optax.softmax_cross_entropy_with_integer_labels
    soft = jax.nn.softmax(theirs / 2)
    # Cross entropy less the teacher's entropy: their divergence.
    soft = 4 * (
      optax.softmax_cross_entropy(ours / 2, soft)
      - optax.softmax_cross_entropy(theirs / 2, soft)
    )
    both = 0.7 * entropy(ours, rows['masked_labels']) + 0.3 * soft
    loss = (both * rows['masked_weights']).sum() / rows['masked_weights'].sum()
    if pairs:
      loss += entropy(follows, batch['next_sentence_labels']).mean()
    return loss

  loss, gradients = hinton(before)
  assert_close(jax.tree.map(np.subtract, before, after), gradients)
  np.testing.assert_allclose(means['loss'], loss, rtol=1e-6)
  expected = 0.7 * means['masked_loss'] + 0.3 * means['distill_loss']
  expected += means.get('next_sentence_loss', 0.0)
  np.testing.assert_allclose(means['loss'], expected, rtol=1e-6)


def test_micro_batches_are_taught_as_the_whole_batch_is():
  mesh = mesh_lib.make_mesh(devices=jax.devices()[:1])
  whole, parts = (taught_step(teacher_of(), mesh, n) for n in (1, 4))
  assert_close(whole[3], parts[3])
  assert whole[4]['distill_loss'] == pytest.approx(parts[4]['distill_loss'])


@EIGHT
def test_devices_that_share_a_teacher_learn_what_one_learns():
  alone = taught_step(
    teacher_of(), mesh_lib.make_mesh(devices=jax.devices()[:1])
  )
  mesh = mesh_lib.make_mesh(fsdp=4)
  held = teacher_of().placed(mesh)
  kernel = held['encoder']['layers']['feed_forward']['up']['kernel']
  assert 4 * np.prod(kernel.sharding.shard_shape(kernel.shape)) == kernel.size
  together = taught_step(teacher_of(), mesh)
  assert_close(alone[3], together[3])


def test_who_knows_all_that_the_teacher_knows_has_nothing_to_learn():
  saved = saved_model(attention='shared')  # folded in the teacher
  teacher = Teacher(saved, tiny_config(), 3.0)
  model = student(teacher, weight=1.0)
  rows = jax.jit(model.prepare)(batch_of(packed_rows()))
  sums = jax.jit(model.loss_sums)(
    saved.params, rows, None, teacher.placed(mesh_lib.make_mesh())
  )
  loss, weight = jax.device_get(sums['loss'])
  assert weight > 5 and abs(loss / weight) < 1e-5
  assert sums['masked_loss'][0] / weight > 1


def test_a_run_that_is_taught_resumes_exactly(text, bert, tmp_path):
  run = {'distill_weight': 0.5, 'checkpoint_every': 2, 'log_every': 1}
  config = uptrain_config(text, bert, **run)
  whole, parts = tmp_path / 'whole', tmp_path / 'parts'
  pretrain(config, whole)
  shutil.copytree(whole, parts)
  shutil.rmtree(parts / 'checkpoints' / '4')
  (parts / 'results.json').unlink()
  # Another teacher than the one that it began with is noticed.
  other = tmp_path / 'other'
  shutil.copytree(bert, other)
  weights = safetensors.numpy.load_file(other / 'model.safetensors')
  weights['cls.predictions.bias'] += 1
  safetensors.numpy.save_file(weights, other / 'model.safetensors')
  moved = tmp_path / 'moved'
  bert.rename(moved)
  other.rename(bert)
  with pytest.raises(UserError, match='another teacher'):
    pretrain(config, parts)
  bert.rename(other)
  moved.rename(bert)
  pretrain(config, parts)
  ours, theirs = (open_saved(folder).params for folder in (whole, parts))
  assert_close(ours, theirs, atol=0)
  log = (whole / 'metrics.jsonl').read_text()
  lines = [json.loads(line) for line in log.splitlines()]
  taught = [x for x in lines if x['split'] == 'train']
  assert len(taught) == 4 and all(x['distill_loss'] > 0 for x in taught)


def logged(folder, step, split):
  lines = (folder / 'metrics.jsonl').read_text().splitlines()
  (found,) = [
    line
    for line in map(json.loads, lines)
    if (line['step'], line['split']) == (step, split)
  ]
  return found


def test_a_run_says_what_it_begins_with_beside_what_that_was(
  text, bert, tmp_path, capsys
):
  # Three matrices that no shared one equals.
  bert = shutil.copytree(bert, tmp_path / 'bert')
  weights = safetensors.numpy.load_file(bert / 'model.safetensors')
  rng = np.random.default_rng(0)
  for name, value in weights.items():
    if '.self.' in name:
      weights[name] = rng.normal(size=value.shape).astype(np.float32)
  safetensors.numpy.save_file(weights, bert / 'model.safetensors')
  config = uptrain_config(text, bert, distill_weight=0.25)
  config.model.update({'role_bias': True, 'residual_rank': 2})
  pretrain(config, tmp_path / 'run')
  config.job = 'eval'
  before = evaluate(config, tmp_path / 'eval')['metrics']['heldout']
  original = logged(tmp_path / 'run', 0, 'original')
  for name, value in before.items():
    assert original[name] == pytest.approx(value, rel=1e-5), name
  fitted = logged(tmp_path / 'run', 0, 'heldout')
  assert abs(fitted['loss'] - original['loss']) > 1e-4
  told = capsys.readouterr().out
  assert 'shared attention with a residual of rank 2 for each role' in told
  assert f'starts from {bert}' in told and f'taught by   {bert}: 25%' in told
  assert f'fitting     shared attention to {bert}' in told
  assert told.index('step 0 original') < told.index('step 4 heldout')
  # What is exported says the same of itself.
  saved = open_saved(tmp_path / 'run')
  card = model_card.write(saved, 'BertForMaskedLM', 1)
  assert 'rank 2: W_q = W_s·diag(d_q) + A_q·B_q' in card
  assert f'started from {bert}' in card and '25% of the loss was lear' in card


def test_a_plan_counts_the_teacher(text, pretrained, bert):
  (corpus,) = (text.parent / 'data').iterdir()
  needs = {}
  for weight in (0.0, 0.5):
    config = uptrain_config(text, bert, distill_weight=weight)
    config.data.update({'text': '', 'corpus': str(corpus)})
    mesh = mesh_lib.planned_mesh(1)
    planned = subject_of(config, mesh)
    budget = Budget(planned, planned.course.parts, mesh)
    needs[weight] = budget.needs['none']
    assert any('teacher' in line for line in budget.lines()) == (weight > 0)
  params = huggingface.read(bert).params
  real = sum(leaf.nbytes for leaf in jax.tree.leaves(params))
  assert needs[0.5].teacher == real and needs[0.0].teacher == 0
  assert needs[0.5].total >= needs[0.0].total + real


def test_who_cannot_teach_is_refused(commands, text, bert, glue, tmp_path):
  flags = [
    *(f'--config.model.{k}={v}' for k, v in SMALL.items()),
    f'--config.data.text={text}',
    f'--config.data.dir={tmp_path / "data"}',
    '--config.data.seq_len=16',
    f'--workdir={tmp_path / "run"}',
  ]
  config = '--config=configs/uptrain.py:distill=0.5'
  done = commands.run('main', config, *flags)
  assert done.code == 1 and 'continues a trained BERT' in done.err, done.err
  wordless = tmp_path / 'wordless'
  saved = huggingface.read(bert)
  saved = dataclasses.replace(
    saved,
    head='encoder',
    params=random_params(maker_of('encoder', saved.config, 0)),
  )
  wordless.mkdir()
  huggingface.write(saved, wordless)
  flags.append(f'--config.data.vocab={bert / "vocab.txt"}')
  done = commands.run('main', config, *flags, f'--config.init_from={wordless}')
  assert done.code == 1 and 'predicts no masked words' in done.err, done.err
