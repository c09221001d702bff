"""Evaluating a folder of Hugging Face's BERT: its numbers, or a refusal."""

import dataclasses
import json

import jax
import numpy as np
import pytest
import safetensors.numpy

from shared_bert import task_data
from shared_bert.errors import UserError
from shared_bert.evaluate import evaluate
from shared_bert.finetune import finetune
from shared_bert.interop import huggingface
from shared_bert.interop.saved import open_saved
from shared_bert.training import metrics as metrics_lib
from tests.bad_input import flags_of
from tests.test_evaluate import evaluation_of
from tests.test_interop import change, saved_model
from tests.tiny_jobs import finetune_config, pretrain_config, sentences
from tests.transformers_bert import save_bert


def exported(saved, folder):
  folder.mkdir(parents=True, exist_ok=True)
  huggingface.write(saved, folder)
  return folder


@pytest.fixture(scope='module')
def bert(pretrained, tmp_path_factory):
  """A pre-trained model of ours as others have it."""
  return exported(open_saved(pretrained), tmp_path_factory.mktemp('bert'))


@pytest.fixture(scope='module')
def classifier(glue, bert, tmp_path_factory):
  """A run on MNLI with standard attention: its config, workdir and folder."""
  workdir = tmp_path_factory.mktemp('mnli')
  config = finetune_config('mnli', glue, bert)
  config.model.attention = 'standard'
  config.train.learning_rate = 1e-2
  finetune(config, workdir)
  return config, workdir, exported(open_saved(workdir), workdir / 'exported')


def metrics_of(config, folder, workdir, **data):
  return evaluate(evaluation_of(config, folder, **data), workdir)['metrics']


def test_an_exported_classifier_has_the_metrics_of_its_checkpoint(
  classifier, tmp_path
):
  config, workdir, folder = classifier
  ours = metrics_of(config, workdir, tmp_path / 'ours')
  results = evaluate(evaluation_of(config, folder), tmp_path / 'theirs')
  assert results['metrics'] == ours
  assert sorted(ours) == ['dev_matched', 'dev_mismatched']
  assert results['attention'] == 'standard' and 'step' not in results
  assert results['checkpoint'] == str(folder)
  # The length of its rows is the command's, so that it is told.
  said = json.loads((tmp_path / 'theirs' / 'config.json').read_text())
  assert said['data']['seq_len'] == 16 and 'model' not in said


def test_an_exported_model_of_words_has_the_metrics_of_its_checkpoint(
  text, pretrained, bert, tmp_path
):
  config = pretrain_config(text)
  theirs = metrics_of(config, bert, tmp_path)
  ours = json.loads((pretrained / 'results.json').read_text())['metrics']
  assert theirs['heldout'].keys() == ours['heldout'].keys()
  for name, value in ours['heldout'].items():
    # Not the very same: three products by diagonals were folded away.
    np.testing.assert_allclose(theirs['heldout'][name], value, rtol=1e-5)


def test_rows_of_the_table_without_a_token_do_not_count(text, bert, tmp_path):
  config = pretrain_config(text)
  padded = exported(huggingface.read(bert), tmp_path / 'padded')
  weights = safetensors.numpy.load_file(padded / 'model.safetensors')
  for name in (
    'bert.embeddings.word_embeddings.weight',
    'cls.predictions.bias',
  ):
    # Likelier than any word, were they answers.
    more = np.full((4, *weights[name].shape[1:]), 9, np.float32)
    weights[name] = np.concatenate([weights[name], more])
  safetensors.numpy.save_file(weights, padded / 'model.safetensors')
  change(padded, vocab_size=len(weights['cls.predictions.bias']))
  assert metrics_of(config, padded, tmp_path / 'a') == metrics_of(
    config, bert, tmp_path / 'b'
  )


def test_classes_in_another_order_and_case_are_put_in_that_of_the_task(
  classifier, tmp_path, capsys
):
  config, workdir, _ = classifier
  saved = open_saved(workdir)
  order = [2, 0, 1]
  permuted = dataclasses.replace(
    saved,
    params=saved.params
    | {
      'classifier': jax.tree.map(
        lambda x: x[..., order], saved.params['classifier']
      )
    },
    label_names=tuple(saved.label_names[i].upper() for i in order),
  )
  folder = exported(permuted, tmp_path / 'permuted')
  theirs = metrics_of(config, folder, tmp_path / 'a')
  assert theirs == metrics_of(config, workdir, tmp_path / 'b')
  assert (
    'classes     of the model are CONTRADICTION, ENTAILMENT, NEUTRAL: its '
    'outputs are put in the order of mnli, entailment, neutral, contradiction'
  ) in capsys.readouterr().out


@pytest.mark.parametrize(
  ('task', 'names'),
  [('mnli', ('neutral', 'ENTAILMENT', 'contradiction')), ('stsb', None)],
)
def test_a_model_that_transformers_saved_has_the_metrics_of_its_outputs(
  task, names, glue, pretrained, tmp_path
):
  torch = pytest.importorskip('torch')
  tokenizer = open_saved(pretrained).tokenizer
  model = save_bert(
    tmp_path / 'model',
    'BertForSequenceClassification',
    tokenizer,
    vocab_size=tokenizer.vocab_size + 3,
    num_attention_heads=2,
    max_position_embeddings=24,
    **({'id2label': dict(enumerate(names))} if names else {'num_labels': 1}),
  )
  config = finetune_config(task, glue, tmp_path / 'model')
  results = evaluate(
    evaluation_of(config, tmp_path / 'model'), tmp_path / 'run'
  )

  data = task_data.load_task(config.data, evaluating=True)
  data = data.encode(tokenizer, 16)
  for split, gold in data.labels.items():
    rows = {
      theirs: torch.from_numpy(np.asarray(data.arrays[split][ours])).long()
      for theirs, ours in (
        ('input_ids', 'input_ids'),
        ('token_type_ids', 'token_type_ids'),
        ('attention_mask', 'segment_ids'),
      )
    }
    with torch.inference_mode():
      outputs = model.eval()(**rows).logits.numpy()
    predictions = outputs[:, 0]
    if names:
      lower = [name.lower() for name in names]
      order = [lower.index(name) for name in data.task.label_names]
      outputs = outputs[:, order]
      predictions = outputs.argmax(-1)
    expected = metrics_lib.evaluate_metrics(
      data.metrics_of(split), predictions, gold
    ) | {'loss': metrics_lib.mean_loss(outputs, gold)}
    assert results['metrics'][split].keys() == expected.keys()
    for name, value in expected.items():
      np.testing.assert_allclose(
        results['metrics'][split][name], value, rtol=1e-4
      )


def test_rows_are_as_long_as_the_config_says_and_the_model_can_read(
  glue, tmp_path, capsys
):
  saved = saved_model('classification', ('unacceptable', 'acceptable'))
  folder = exported(saved, tmp_path / 'model')
  config = finetune_config('cola', glue, folder)
  metrics_of(config, folder, tmp_path / 'a', seq_len=6)
  told = capsys.readouterr().out
  assert 'up to 6 tokens' in told and 'instead of' not in told
  metrics_of(config, folder, tmp_path / 'b', seq_len=32)
  told = capsys.readouterr().out
  assert 'of 16 tokens instead of data.seq_len=32' in told
  assert 'up to 16 tokens' in told


# Head and classes of a folder, of what job the config is, and what is said.
REFUSED = {
  'nameless classes': (
    'classification',
    ('LABEL_0', 'LABEL_1'),
    'cola',
    (
      'calls its classes LABEL_0, LABEL_1',
      'as id2label into',
      'the configuration in',
    ),
    'cola has unacceptable, acceptable.',
  ),
  'other classes': (
    'classification',
    ('no', 'yes'),
    'cola',
    ('cola has the labels unacceptable, acceptable', 'trained on no, yes'),
  ),
  'more classes': (
    'classification',
    ('LABEL_0', 'LABEL_1', 'LABEL_2'),
    'cola',
    ('trained on LABEL_0, LABEL_1, LABEL_2: evaluate it on data',),
  ),
  'scores instead of classes': (
    'classification',
    (),
    'cola',
    ('was trained on scores',),
  ),
  'classes instead of scores': (
    'classification',
    ('no', 'yes'),
    'stsb',
    ('stsb has the labels of a regression', 'trained on no, yes'),
  ),
  'an encoder': (
    'encoder',
    (),
    'cola',
    ('is an encoder without a head', 'evaluates a classifier', 'without job='),
  ),
  'answers to questions': (
    'question_answering',
    (),
    'cola',
    ('is a model that answers questions', 'train it first'),
  ),
  'words instead of classes': (
    'masked_lm',
    (),
    'cola',
    ('is a model of masked words', 'such as configs/pretrain.py'),
  ),
  'classes instead of words': (
    'classification',
    ('no', 'yes'),
    'words',
    ('is a classifier', 'a model of masked words', 'such as configs/cola.py'),
  ),
  'an encoder instead of words': (
    'encoder',
    (),
    'words',
    ('is an encoder without a head', 'train it first'),
  ),
  'another vocabulary': (
    'masked_lm',
    (),
    'words',
    ('another vocabulary than the text', '--vocab='),
  ),
}


@pytest.mark.parametrize('case', REFUSED)
def test_what_a_folder_cannot_answer_is_refused(case, glue, text, tmp_path):
  head, labels, task, *told = REFUSED[case]
  folder = exported(saved_model(head, labels), tmp_path / 'model')
  if task == 'words':
    config = pretrain_config(text)
  else:
    config = finetune_config(task, glue, folder)
  with pytest.raises(UserError) as caught:
    evaluate(evaluation_of(config, folder), tmp_path / 'run')
  words = [w for one in told for w in ([one] if isinstance(one, str) else one)]
  for word in (str(folder), *words):
    assert word in str(caught.value)


def test_text_of_longer_rows_than_there_are_positions_is_refused(
  text, bert, tmp_path
):
  saved = huggingface.read(bert)
  embeddings = saved.params['encoder']['embeddings']
  embeddings['position']['embedding'] = embeddings['position']['embedding'][:8]
  config = dataclasses.replace(saved.config, max_positions=8)
  short = exported(
    dataclasses.replace(saved, config=config), tmp_path / 'short'
  )
  with pytest.raises(UserError, match='positions for 8 tokens.* have 16'):
    evaluate(evaluation_of(pretrain_config(text), short), tmp_path / 'run')


def test_nameless_classes_of_own_data_are_named_by_the_config(glue, tmp_path):
  folder = exported(
    saved_model('classification', ('LABEL_0', 'LABEL_1')), tmp_path / 'model'
  )
  file = tmp_path / 'new.csv'
  file.write_text(
    'sentence,label\n'
    + ''.join(
      f'{text},LABEL_{n % 2}\n' for n, text in enumerate(sentences(24, 0))
    )
  )
  config = finetune_config('cola', glue, folder)
  own = {'source': 'files', 'glue_dir': '', 'test_file': str(file)}
  with pytest.raises(UserError, match='Or name them in data.label_names'):
    metrics_of(config, folder, tmp_path / 'a', **own)
  own['label_names'] = ('LABEL_0', 'LABEL_1')
  assert metrics_of(config, folder, tmp_path / 'b', **own)['test']['loss'] > 0


def test_the_command_evaluates_a_folder(commands, classifier, tmp_path):
  config, _, folder = classifier
  config = evaluation_of(config, folder)
  done = commands.run(
    'main', *flags_of('mnli', config), f'--workdir={tmp_path / "run"}'
  )
  assert done.code == 0, done.err
  assert f'evaluating  {folder}' in done.out
  assert 'dev_matched accuracy' in done.out
