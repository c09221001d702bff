"""Using a model: the numbers of training, whatever the batch; errors told."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from flax import nnx

import shared_bert
from shared_bert.data.encoding import encode_examples
from shared_bert.errors import UserError
from shared_bert.finetune import finetune
from shared_bert.inference import Predictor
from shared_bert.interop import folding, huggingface
from shared_bert.interop.saved import open_saved
from shared_bert.model.attention import SelfAttention
from shared_bert.model.config import ATTENTIONS
from tests.test_interop import assert_same, outputs_of, saved_model
from tests.tiny_jobs import finetune_config, sentences
from tests.tiny_model import token_rows


def texts_of_all_lengths(count=50):
  rng = np.random.default_rng(0)
  return [
    ' '.join(sentences(1, seed, length=int(rng.integers(1, 10))))
    for seed in range(count)
  ]


@pytest.mark.parametrize('attention', ATTENTIONS)
def test_a_model_folded_for_inference_computes_the_same(attention):
  saved = saved_model('encoder', attention=attention)
  params, config = folding.for_inference(saved.params, saved.config)
  assert config.folded == (attention == 'shared')
  folded = dataclasses.replace(saved, params=params, config=config)
  rows = token_rows()
  assert_same(
    outputs_of(saved, *rows), outputs_of(folded, *rows), rows[2], 'encoder'
  )


def test_folded_attention_projects_once_and_has_one_array_for_keys_and_values():
  saved = saved_model('encoder')
  params, config = folding.for_inference(saved.params, saved.config)
  projection = params['encoder']['layers']['attention']['projection']
  assert sorted(projection) == ['d_qk', 'shared']

  attention = SelfAttention(config, rngs=nnx.Rngs(0))
  _, keys, values = attention.projection(np.ones((1, 3, 16), np.float32))
  assert keys is values


def test_the_answers_do_not_depend_on_the_company_or_the_order():
  predict = Predictor(saved_model('classification'), batch_size=8)
  texts = texts_of_all_lengths()
  together = predict(texts)
  for text, answer in list(zip(texts, together, strict=True))[::7]:
    alone = predict(text)
    assert alone['label'] == answer['label']
    np.testing.assert_allclose(
      alone['probability'], answer['probability'], atol=1e-6
    )
  back = predict(texts[::-1])[::-1]
  assert [a['label'] for a in back] == [a['label'] for a in together]


def test_many_texts_compile_a_handful_of_shapes():
  predict = Predictor(saved_model('encoder', max_positions=64), batch_size=4)
  predict(texts_of_all_lengths(200))
  predict('one')
  # Rows of 12 tokens at most, all of one length, and one text alone.
  assert predict._compute._cache_size() <= 2
  long = dataclasses.replace(
    saved_model('encoder', max_positions=64), seq_len=64
  )
  predict = Predictor(long, batch_size=4)
  predict([' '.join(['dog'] * n) for n in range(1, 90)])
  assert predict._compute._cache_size() <= 3  # 16, 32, 64
  assert predict.cut == 89 - 62


def test_classes_are_the_softmax_of_the_models_logits():
  saved = saved_model('classification')
  pairs = [('the cat runs', 'a dog'), ('big', 'old bird sings')]
  rows = encode_examples(saved.tokenizer, *zip(*pairs, strict=True), 12)
  (logits,) = outputs_of(
    saved, rows['input_ids'], rows['token_type_ids'], rows['segment_ids']
  )
  expected = np.asarray(jax.nn.softmax(logits))
  answers = Predictor(saved, top_k=3)(pairs)
  for row, answer in zip(expected, answers, strict=True):
    by_name = dict(zip(saved.label_names, row, strict=True))
    assert answer['label'] == max(by_name, key=by_name.get)
    for name, probability in answer['probabilities'].items():
      np.testing.assert_allclose(probability, by_name[name], atol=1e-5)


def test_a_regression_answers_with_its_score():
  saved = saved_model('classification', labels=())
  answer = Predictor(saved)('the cat')
  rows = encode_examples(saved.tokenizer, ['the cat'], None, 12)
  (scores,) = outputs_of(
    saved, rows['input_ids'], rows['token_type_ids'], rows['segment_ids']
  )
  np.testing.assert_allclose(answer['score'], scores[0, 0], atol=1e-5)


@pytest.mark.parametrize('head', ['masked_lm', 'pretraining'])
def test_words_for_masks_are_those_of_the_full_head(head):
  saved = saved_model(head)
  text = 'the [MASK] sees [MASK] old [MASK]'
  tokenizer = saved.tokenizer
  ids = [tokenizer.cls_id, *tokenizer.encode_masked(text), tokenizer.sep_id]
  row = np.array([ids], np.int32)
  logits = outputs_of(saved, row, np.zeros_like(row), np.ones_like(row))[0]
  expected = np.asarray(jax.nn.softmax(logits[0]))
  masks = Predictor(saved, top_k=4)(text)['masks']
  assert len(masks) == 3
  for words, place in zip(masks, (2, 4, 6), strict=True):
    best = np.argsort(-expected[place])[:4]
    assert [w['token'] for w in words] == [tokenizer.vocab[i] for i in best]
    np.testing.assert_allclose(
      [w['probability'] for w in words], expected[place][best], atol=1e-5
    )


@pytest.mark.parametrize('pooling', ['cls', 'mean'])
def test_embeddings_are_those_of_transformers(pooling, tmp_path):
  torch = pytest.importorskip('torch')
  transformers = pytest.importorskip('transformers')
  saved = saved_model('encoder')
  huggingface.write(saved, tmp_path)
  texts = texts_of_all_lengths(9)
  tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
  model = transformers.AutoModel.from_pretrained(tmp_path).eval()
  rows = tokenizer(texts, padding=True, return_tensors='pt')
  with torch.inference_mode():
    hidden = model(**rows).last_hidden_state
  mask = rows['attention_mask'][..., None]
  expected = (
    hidden[:, 0] if pooling == 'cls' else (hidden * mask).sum(1) / mask.sum(1)
  )
  # By way of the folder, as a user would.
  predict = shared_bert.load(str(tmp_path), 'embed', pooling=pooling)
  found = np.stack([a['embedding'] for a in predict(texts)])
  np.testing.assert_allclose(found, expected.numpy(), rtol=0, atol=1e-5)


def test_what_cannot_be_answered_is_a_sentence():
  saved = saved_model('classification')
  with pytest.raises(UserError, match='not trained for task=fill-mask'):
    Predictor(saved, 'fill-mask')
  with pytest.raises(UserError, match='top_k=0'):
    Predictor(saved, top_k=0)
  with pytest.raises(UserError, match='pooling=max should be one of cls, mean'):
    Predictor(saved, 'embed', pooling='max')


@pytest.fixture(scope='module')
def classifier(glue, pretrained, tmp_path_factory):
  """CoLA, fine-tuned a little, and its predictions of the test file."""
  workdir = tmp_path_factory.mktemp('cola')
  finetune(finetune_config('cola', glue, pretrained), workdir)
  return workdir


def test_the_command_answers_as_the_run_that_trained_the_model_predicted(
  commands, classifier, glue, tmp_path
):
  output = tmp_path / 'out' / 'answers.jsonl'
  done = commands.run(
    'predict',
    f'--checkpoint={classifier}',
    f'--file={glue / "CoLA" / "test.tsv"}',
    '--text_columns=sentence',
    f'--output={output}',
  )
  assert done.code == 0, done.err
  answers = [json.loads(line) for line in output.read_text().splitlines()]
  lines = (classifier / 'predictions' / 'CoLA.tsv').read_text().splitlines()
  names = open_saved(classifier).label_names
  expected = [names[int(line.split('\t')[1])] for line in lines[1:]]
  assert [a['label'] for a in answers] == expected
  lines = (glue / 'CoLA' / 'test.tsv').read_text().splitlines()
  assert [a['text'] for a in answers] == [x.split('\t')[1] for x in lines[1:]]
  # Hardly trained, and yet the text decides; float32 rounds some to one.
  assert len(answers) == 19 and len({a['probability'] for a in answers}) > 9
  again = commands.run(
    'predict', f'--checkpoint={classifier}', f'--output={output}', 'x'
  )
  assert again.code == 1 and 'is there already' in again.err


def test_the_command_answers_texts_behind_the_flags_in_lines(
  commands, classifier, pretrained
):
  done = commands.run(
    'predict', f'--checkpoint={classifier}', 'the cat runs', 'a\tb'
  )
  assert done.code == 1 and 'single one among pairs' in done.err
  done = commands.run('predict', f'--checkpoint={classifier}', 'a\tb\x1b[2J')
  label, probability, *texts = done.out.rstrip('\n').split('\t')
  assert label in open_saved(classifier).label_names
  assert 0.5 <= float(probability) <= 1
  assert texts == ['a', 'b\\x1b[2J']
  done = commands.run(
    'predict', f'--checkpoint={pretrained}', '--json', '--top_k=2', 'a [MASK]'
  )
  ((first, second),) = json.loads(done.out)['masks']
  assert first['probability'] >= second['probability'] > 0


@pytest.mark.parametrize(
  ('arguments', 'words'),
  [
    ([], '--checkpoint is not set'),
    (['--checkpoint=missing', 'x'], 'missing is not there'),
    (['--checkpoint={run}', '--file=none.txt'], 'there is no such file'),
    (['--checkpoint={run}', '--file=none.tsv'], 'there is no such file'),
    (['--checkpoint={run}', '--file=a.tsv', 'x'], 'given twice'),
    (['--checkpoint={run}'], 'standard input is empty'),
    (['--checkpoint={run}', 'a\tb\tc'], 'text 1 has 2 tabs'),
    (['--checkpoint={run}', '--task=sing', 'x'], '--task=sing should be'),
    (['--checkpoint={run}', '--top_k=0', 'x'], 'top_k=0 should be'),
  ],
)
def test_a_wrong_call_is_a_sentence(commands, classifier, arguments, words):
  done = commands.run(
    'predict', *(a.replace('{run}', str(classifier)) for a in arguments)
  )
  assert done.code == 1 and words in done.err, done.err
  assert len(done.err.splitlines()) == 1


def test_other_commands_still_take_no_words(commands):
  done = commands.run('plan', '--config=configs/pretrain.py', 'word')
  assert done.code == 1 and "'word' is not a flag" in done.err
