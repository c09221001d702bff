"""Any BERT in, any BERT tool out: the numbers stay, whoever computes them."""

import dataclasses
import json
import pathlib

import jax
import numpy as np
import pytest

from shared_bert.data.tokenizer import Tokenizer
from shared_bert.errors import UserError
from shared_bert.interop import folding, huggingface
from shared_bert.interop.fitting import fit_shared
from shared_bert.interop.saved import SavedModel, maker_of, open_saved
from shared_bert.model.config import ATTENTIONS
from shared_bert.model.parameters import applier, initialise
from tests.tiny_jobs import SMALL, WORDS
from tests.tiny_model import (
  assert_close,
  random_params,
  tiny_config,
  token_rows,
)

HEADS = (
  'masked_lm',
  'pretraining',
  'classification',
  'question_answering',
  'encoder',
)
VOCABULARY = [
  *('[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]'),
  *WORDS,
  *'bcdefghijklmnopq',
  *(f'##{c}' for c in 'abcdefghijklmno'),
]


def saved_model(head='masked_lm', labels=('no', 'maybe', 'yes'), **settings):
  """With random numbers in every parameter."""
  config = tiny_config(**({'attention': 'shared'} | settings))
  outputs = max(len(labels), 1) if head == 'classification' else 0
  params = random_params(maker_of(head, config, outputs))
  return SavedModel(
    path=pathlib.Path('model'),
    config=config,
    head=head,
    params=jax.tree.map(np.asarray, params),
    tokenizer=Tokenizer.from_vocab(VOCABULARY[: config.vocab_size]),
    label_names=labels if outputs else (),
    seq_len=12,
    facts={},
  )


def outputs_of(saved, ids, token_types, mask):
  """Ours, as a list of arrays."""
  outputs = jax.jit(applier(saved.make))(saved.params, ids, token_types, mask)
  return [np.asarray(x) for x in jax.tree.leaves(outputs)]


def theirs(folder, saved, ids, token_types, mask):
  """What transformers computes, from the folder alone."""
  torch = pytest.importorskip('torch')
  transformers = pytest.importorskip('transformers')
  name = json.loads((folder / 'config.json').read_text())['architectures'][0]
  model, told = getattr(transformers, name).from_pretrained(
    folder, output_loading_info=True
  )
  assert not any(told.values()), told
  rows = {
    'input_ids': ids,
    'token_type_ids': token_types,
    'attention_mask': mask,
  }
  with torch.inference_mode():
    found = model.eval()(
      **{k: torch.from_numpy(np.array(v)).long() for k, v in rows.items()}
    )
  return [x.numpy() for x in found.to_tuple()]


def assert_same(ours, others, mask, head):
  assert len(ours) == len(others)
  real = np.asarray(mask) > 0
  for a, b in zip(ours, others, strict=True):
    assert a.shape == b.shape
    if a.shape[:2] == real.shape:
      a, b = a[real], b[real]
    assert np.std(a) > 0.05
    np.testing.assert_allclose(a, b, rtol=0, atol=1e-5)


def standard_of(saved):
  return dataclasses.replace(
    saved,
    config=saved.config.with_attention('standard'),
    params=folding.as_standard(saved.params, saved.config),
  )


@pytest.mark.parametrize('attention', ATTENTIONS)
def test_a_folded_model_is_standard_and_computes_the_same(attention):
  saved = saved_model('encoder', attention=attention)
  rows = token_rows()
  standard = standard_of(saved)
  assert_same(
    outputs_of(saved, *rows), outputs_of(standard, *rows), rows[2], 'encoder'
  )


@pytest.mark.parametrize(
  ('attention', 'head'),
  [
    *((attention, 'masked_lm') for attention in ATTENTIONS),
    ('shared, role biases', 'masked_lm'),
    *(('shared', head) for head in HEADS[1:]),
  ],
)
def test_transformers_computes_our_numbers_from_what_is_exported(
  attention, head, tmp_path
):
  attention, _, biases = attention.partition(', ')
  saved = saved_model(head, attention=attention, role_bias=bool(biases))
  rows = token_rows()
  huggingface.write(saved, tmp_path)
  assert_same(
    outputs_of(saved, *rows), theirs(tmp_path, saved, *rows), rows[2], head
  )


@pytest.mark.parametrize('head', HEADS)
def test_a_model_that_transformers_saved_is_read_with_its_numbers(
  head, tmp_path
):
  pytest.importorskip('torch')
  transformers = pytest.importorskip('transformers')
  first, second = tmp_path / 'first', tmp_path / 'second'
  first.mkdir()
  second.mkdir()
  saved = saved_model(head, attention='standard')
  huggingface.write(saved, first)
  name = json.loads((first / 'config.json').read_text())['architectures'][0]
  model = getattr(transformers, name).from_pretrained(first)
  model.save_pretrained(second)
  transformers.AutoTokenizer.from_pretrained(first).save_pretrained(second)
  read = huggingface.read(second)
  assert read.head == head and read.label_names == saved.label_names
  assert read.tokenizer.sha256 == saved.tokenizer.sha256
  assert_close(read.params, saved.params, atol=0)
  rows = token_rows()
  assert_same(
    outputs_of(read, *rows), theirs(second, read, *rows), rows[2], head
  )


def test_classes_and_scores_keep_their_names(tmp_path):
  for labels in (('no', 'yes'), ()):
    folder = tmp_path / str(len(labels))
    folder.mkdir()
    huggingface.write(saved_model('classification', labels), folder)
    config = json.loads((folder / 'config.json').read_text())
    assert [*config['id2label'].values()] == [*(labels or ['score'])]
    assert (config['problem_type'] == 'regression') == (not labels)
    assert huggingface.read(folder).label_names == labels


def test_their_tokenizer_makes_our_rows(tmp_path):
  transformers = pytest.importorskip('transformers')
  saved = saved_model()
  huggingface.write(saved, tmp_path)
  tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
  ours = saved.tokenizer
  texts = ['The cat sees a DOG.', 'big ol\xe9 bird', 'x', '']
  for text, ids in zip(texts, ours.encode_batch(texts), strict=True):
    expected = [ours.cls_id, *ids, ours.sep_id]
    assert tokenizer(text)['input_ids'] == expected
  pair = tokenizer('the cat', 'a dog')
  assert pair['token_type_ids'] == [0, 0, 0, 0, 1, 1, 1]
  mask = tokenizer('the [MASK] runs')['input_ids']
  assert mask[2] == ours.mask_id
  assert tokenizer.model_max_length == saved.config.max_positions


def test_a_pre_norm_model_is_refused(tmp_path):
  saved = saved_model(pre_norm=True)
  with pytest.raises(UserError, match='model.pre_norm=True'):
    huggingface.write(saved, tmp_path)


def test_a_checkpoint_is_exported_by_its_path_alone(
  commands, pretrained, tmp_path
):
  output = tmp_path / 'with space' / 'out'
  done = commands.run(
    'export', f'--checkpoint={pretrained}', f'--output={output}'
  )
  assert done.code == 0, done.err
  card = (output / 'README.md').read_text()
  assert 'trained with shared attention' in card and '| heldout/loss |' in card
  # 3·D·D + 3·D of each layer, instead of D·D + 4·D.
  assert '| query/key/value | 320 | 816 |' in card
  ours, back = open_saved(pretrained), huggingface.read(output)
  rows = token_rows((12, 7))
  assert_same(
    outputs_of(ours, *rows), outputs_of(back, *rows), rows[2], ours.head
  )
  again = commands.run(
    'export', f'--checkpoint={pretrained}', f'--output={output}'
  )
  assert again.code == 1 and 'is there already' in again.err
  assert sorted(p.name for p in output.parent.iterdir()) == ['out']


def change(folder, **values):
  path = folder / 'config.json'
  path.write_text(json.dumps(json.loads(path.read_text()) | values))


BAD = {
  'another family': (lambda f: change(f, model_type='roberta'), 'model_type='),
  'another activation': (lambda f: change(f, hidden_act='relu'), 'hidden_act='),
  'relative positions': (
    lambda f: change(f, position_embedding_type='relative_key'),
    'position_embedding_type=',
  ),
  'more layers': (lambda f: change(f, num_hidden_layers=3), 'lacks bert.enc'),
  'other sizes': (lambda f: change(f, intermediate_size=8), 'does not fit'),
  'no weights': (
    lambda f: (f / 'model.safetensors').unlink(),
    'only safetensors are read',
  ),
  'cut weights': (
    lambda f: (f / 'model.safetensors').write_bytes(
      (f / 'model.safetensors').read_bytes()[:-9]
    ),
    'is damaged',
  ),
  'no vocabulary': (
    lambda f: (
      [p.unlink() for p in f.glob('*') if 'token' in p.name]
      and (f / 'vocab.txt').unlink()
    ),
    'holds no vocabulary',
  ),
  'a larger vocabulary': (
    lambda f: (
      (f / 'tokenizer_config.json').write_text('{}'),
      (f / 'vocab.txt').write_text('\n'.join([*VOCABULARY, *'123456789'])),
    ),
    'the model knows 50',
  ),
}


@pytest.mark.parametrize('case', BAD)
def test_a_folder_that_is_no_bert_or_damaged_is_refused(case, tmp_path):
  harm, words = BAD[case]
  huggingface.write(saved_model(attention='standard'), tmp_path)
  assert huggingface.is_folder(tmp_path)
  harm(tmp_path)
  with pytest.raises(UserError, match=words) as caught:
    huggingface.read(tmp_path)
  assert str(tmp_path) in str(caught.value)


def with_params(saved, params, **settings):
  config = dataclasses.replace(saved.config, **settings)
  return dataclasses.replace(saved, config=config, params=params)


@pytest.mark.parametrize('role_bias', [False, True])
def test_what_was_shared_is_found_again_by_the_fit(role_bias):
  saved = saved_model('encoder', role_bias=role_bias)
  fit = fit_shared(standard_of(saved).params, role_bias=role_bias)
  assert fit.errors.shape == (2, 3) and (fit.errors < 1e-10).all()
  rows = token_rows()
  again = with_params(saved, fit.params)
  assert_same(
    outputs_of(saved, *rows), outputs_of(again, *rows), rows[2], 'encoder'
  )


def errors_of(params, fitted, moments):
  """By the definition: the share of the outputs' squares that is lost."""
  found = []
  for layer in range(2):
    for role in ('query', 'key', 'value'):

      def columns(params, role=role, layer=layer):
        one = params['encoder']['layers']['attention']['projection'][role]
        return np.vstack([one['kernel'][layer], one['bias'][layer]]).astype(
          float
        )

      whole, left = columns(params), columns(params) - columns(fitted)
      squares = [
        np.einsum('ED,EF,FD', x, moments[layer], x) for x in (left, whole)
      ]
      found.append(squares[0] / squares[1])
  return np.reshape(found, (2, 3))


@pytest.mark.parametrize('weighted', [False, True])
def test_the_fit_is_the_least_squares_and_says_how_far_it_is_off(weighted):
  saved = saved_model('encoder', attention='standard')
  rng = np.random.default_rng(0)
  inputs = rng.normal(size=(2, 100, 17)) * rng.uniform(0.1, 3, 17)
  moments = np.einsum('LNE,LNF->LEF', inputs, inputs) / 100
  if not weighted:
    moments = np.stack([np.eye(17)] * 2)
  fit = fit_shared(saved.params, second_moments=moments if weighted else None)
  shared = dataclasses.replace(saved.config, attention='shared')

  def errors(params):
    return errors_of(saved.params, folding.as_standard(params, shared), moments)

  np.testing.assert_allclose(errors(fit.params), fit.errors, atol=1e-5)
  assert ((fit.errors > 0.2) & (fit.errors < 1)).all()  # three random matrices
  # Whatever is moved, the sum of the squares over the roles grows. Weights of
  # the sum: the squares that errors are shares of.
  projection = lambda p: p['encoder']['layers']['attention']['projection']  # noqa: E731
  weights = np.stack(
    [
      np.einsum('LED,LEF,LFD->L', *([stacked] + [moments] + [stacked]))
      for role in ('query', 'key', 'value')
      for stacked in [
        np.concatenate(
          [
            projection(saved.params)[role]['kernel'],
            projection(saved.params)[role]['bias'][:, None],
          ],
          axis=1,
        ).astype(float)
      ]
    ],
    axis=1,
  )
  best = (errors(fit.params) * weights).sum()
  for name in ('d_q', 'd_k', 'd_v', 'shared'):
    moved = jax.tree.map(np.copy, fit.params)
    leaf = projection(moved)[name]
    leaf = leaf['kernel'] if name == 'shared' else leaf
    leaf += 0.01 * rng.normal(size=leaf.shape).astype(np.float32)
    assert (errors(moved) * weights).sum() > best


@pytest.fixture
def bert(pretrained, tmp_path):
  """A pre-trained model of ours as others have it."""
  folder = tmp_path / 'bert'
  folder.mkdir()
  huggingface.write(open_saved(pretrained), folder)
  return folder


@pytest.mark.parametrize('attention', ['standard', 'shared'])
def test_a_bert_of_others_is_fine_tuned_from_its_very_numbers(
  commands, bert, glue, tmp_path, attention
):
  flags = [
    *(f'--config.model.{k}={v}' for k, v in SMALL.items()),
    '--config.data.source=local',
    f'--config.data.glue_dir={glue}',
    '--config.data.seq_len=16',
    '--config.data.eval_batch_size=16',
    '--config.train.batch_size=16',
    '--config.train.steps=1',
    '--config.train.warmup_steps=0',
    # So that after the step the encoder is what it started from.
    '--config.train.learning_rate=1e-12',
    '--config.train.weight_decay=0.0',
    '--config.tensorboard=False',
    f'--config.init_from={bert}',
  ]
  config = f'--config=configs/cola.py:attention={attention}'
  done = commands.run('main', config, f'--workdir={tmp_path / "run"}', *flags)
  assert done.code == 0, done.err
  assert ('fitted      shared attention to' in done.out) == (
    attention == 'shared'
  )
  rows = token_rows((12, 7))
  theirs = huggingface.read(bert)
  trained = open_saved(tmp_path / 'run')
  as_encoder = lambda saved: with_params(  # noqa: E731
    dataclasses.replace(saved, head='encoder'),
    {'encoder': saved.params['encoder'], 'pooler': trained.params['pooler']},
  )
  assert_same(
    outputs_of(as_encoder(theirs), *rows),
    outputs_of(as_encoder(trained), *rows),
    rows[2],
    'encoder',
  )


def test_a_bert_that_does_not_fit_the_run_says_which_flags_would(
  commands, bert, glue, tmp_path
):
  flags = [
    '--config.data.source=local',
    f'--config.data.glue_dir={glue}',
    '--config.data.seq_len=16',
    f'--config.init_from={bert}',
    f'--workdir={tmp_path / "run"}',
  ]
  done = commands.run('main', '--config=configs/cola.py:size=tiny', *flags)
  assert done.code == 1
  wanted = [f'--config.model.{k}={v}' for k, v in SMALL.items()]
  assert all(flag in done.err for flag in wanted), done.err
  done = commands.run(
    'main', '--config=configs/cola.py:attention=tied', *wanted, *flags
  )
  assert done.code == 1 and 'not to tied' in done.err


def test_a_residual_takes_the_fit_from_shared_to_standard():
  saved = saved_model('encoder', attention='standard')
  rng = np.random.default_rng(0)
  inputs = rng.normal(size=(2, 100, 17)) * rng.uniform(0.1, 3, 17)
  inputs[..., -1] = 1
  moments = np.einsum('LNE,LNF->LEF', inputs, inputs) / 100
  rows = token_rows()
  for weights in (None, moments):
    losses = []
    for rank in (0, 2, 8, 16):
      fit = fit_shared(
        saved.params,
        role_bias=True,
        residual_rank=rank,
        second_moments=weights,
      )
      losses.append(fit.errors.sum())
      fitted = with_params(
        saved,
        fit.params,
        attention='shared',
        role_bias=True,
        residual_rank=rank,
      )
      # It is a model of ours, and what is exported of it computes the same.
      ours = outputs_of(fitted, *rows)
      assert_same(
        ours, outputs_of(standard_of(fitted), *rows), rows[2], 'encoder'
      )
    assert (
      losses == sorted(losses, reverse=True) and losses[1] < losses[0] / 1.1
    )
    # Of full rank it is the standard model again.
    assert losses[-1] < 1e-9
    np.testing.assert_allclose(
      ours[0][0], outputs_of(saved, *rows)[0][0], rtol=0, atol=1e-4
    )


def test_a_fresh_residual_changes_nothing_and_learns():
  plain = saved_model('encoder', role_bias=True)
  config = dataclasses.replace(plain.config, residual_rank=3)
  make = maker_of('encoder', config, 0)
  fresh = initialise(make, jax.random.key(0))
  projection = fresh['encoder']['layers']['attention']['projection']
  for role in ('query', 'key', 'value'):
    assert not projection[f'{role}_residual']['up'].any()
    assert projection[f'{role}_residual']['down'].std() > 0

  def loss(params):
    hidden, _ = applier(make)(params, *token_rows())
    return (hidden**2 * np.arange(16)).sum()

  slopes = jax.grad(loss)(fresh)['encoder']['layers']['attention']['projection']
  for role in ('query', 'key', 'value'):
    assert slopes[f'{role}_residual']['up'].any()
