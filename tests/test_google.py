"""Checkpoints of google-research/bert, read with their numbers."""

import json

import numpy as np
import pytest

from shared_bert.errors import UserError
from shared_bert.interop import google, huggingface
from shared_bert.interop.opening import open_model
from shared_bert.interop.saved import open_saved
from shared_bert.model.parameters import named_leaves
from shared_bert.tensorflow_cpu import import_tensorflow
from tests.test_interop import (
  HEADS,
  assert_same,
  outputs_of,
  saved_model,
  standard_of,
)
from tests.tiny_jobs import SMALL
from tests.tiny_model import assert_close, token_rows

# Of the repository's modeling.py and run_*.py.
NAMES = {
  'encoder/embeddings/word/embedding': 'bert/embeddings/word_embeddings',
  'encoder/embeddings/position/embedding': (
    'bert/embeddings/position_embeddings'
  ),
  'encoder/embeddings/token_type/embedding': (
    'bert/embeddings/token_type_embeddings'
  ),
  'encoder/embeddings/norm': 'bert/embeddings/LayerNorm',
  'encoder/layers/attention/projection/query': 'attention/self/query',
  'encoder/layers/attention/projection/key': 'attention/self/key',
  'encoder/layers/attention/projection/value': 'attention/self/value',
  'encoder/layers/attention/output': 'attention/output/dense',
  'encoder/layers/attention_norm': 'attention/output/LayerNorm',
  'encoder/layers/feed_forward/up': 'intermediate/dense',
  'encoder/layers/feed_forward/down': 'output/dense',
  'encoder/layers/feed_forward_norm': 'output/LayerNorm',
  'pooler/dense': 'bert/pooler/dense',
  'transform': 'cls/predictions/transform/dense',
  'norm': 'cls/predictions/transform/LayerNorm',
  'decoder_bias': 'cls/predictions/output_bias',
  'next_sentence/kernel': 'cls/seq_relationship/output_weights',
  'next_sentence/bias': 'cls/seq_relationship/output_bias',
  'classifier/kernel': 'output_weights',
  'classifier/bias': 'output_bias',
  'span/kernel': 'cls/squad/output_weights',
  'span/bias': 'cls/squad/output_bias',
}
KINDS = {'scale': 'gamma', 'kernel': 'kernel', 'bias': 'bias'}


def variables_of(saved):
  """Of a standard model, by the names there, Adam's among them."""
  found = {'global_step': np.int64(7)}
  for name, leaf in named_leaves(saved.params):
    module, _, kind = name.rpartition('/')
    if name in NAMES:
      theirs = NAMES[name]
    else:
      is_norm = module.endswith('norm')
      kind = 'beta' if is_norm and kind == 'bias' else KINDS[kind]
      theirs = f'{NAMES[module]}/{kind}'
    if theirs.endswith('output_weights'):
      leaf = leaf.T
    if name.startswith('encoder/layers/'):
      for number, one in enumerate(leaf):
        found[f'bert/encoder/layer_{number}/{theirs}'] = one
    else:
      found[theirs] = leaf
  for name in [name for name in found if name != 'global_step']:
    found |= {f'{name}/adam_{x}': np.zeros_like(found[name]) for x in 'mv'}
  return found


def write_variables(prefix, variables):
  """A checkpoint by names, as `tf.train.Saver` writes."""
  tf = import_tensorflow()
  tf.raw_ops.SaveV2(
    prefix=str(prefix),
    tensor_names=[*variables],
    shape_and_slices=[''] * len(variables),
    tensors=[tf.constant(value) for value in variables.values()],
  )


def write(saved, folder, **config):
  """The layout of the official archives."""
  write_variables(folder / 'bert_model.ckpt', variables_of(saved))
  sizes = {
    'attention_probs_dropout_prob': saved.config.attention_dropout,
    'hidden_act': 'gelu',
    'hidden_dropout_prob': saved.config.hidden_dropout,
    'hidden_size': saved.config.hidden_size,
    'initializer_range': saved.config.initializer_range,
    'intermediate_size': saved.config.intermediate_size,
    'max_position_embeddings': saved.config.max_positions,
    'num_attention_heads': saved.config.num_heads,
    'num_hidden_layers': saved.config.num_layers,
    'type_vocab_size': saved.config.type_vocab_size,
    'vocab_size': saved.config.vocab_size,
  }
  (folder / 'bert_config.json').write_text(json.dumps(sizes | config))
  (folder / 'vocab.txt').write_text('\n'.join(saved.tokenizer.vocab) + '\n')


@pytest.mark.parametrize('head', HEADS)
def test_a_checkpoint_computes_what_its_weights_do_in_hugging_faces_folder(
  head, tmp_path
):
  theirs, same = tmp_path / 'google', tmp_path / 'huggingface'
  theirs.mkdir()
  same.mkdir()
  saved = saved_model(head, attention='standard')
  write(saved, theirs)
  huggingface.write(saved, same)
  read, expected = open_model(theirs), open_model(same)
  assert read.head == head and read.path == theirs
  assert read.config == expected.config
  assert read.num_outputs == expected.num_outputs
  assert read.tokenizer.sha256 == expected.tokenizer.sha256
  if head == 'classification':
    assert read.label_names == ('LABEL_0', 'LABEL_1', 'LABEL_2')
  assert_close(read.params, expected.params, atol=0)
  rows = token_rows()
  assert_same(
    outputs_of(expected, *rows), outputs_of(read, *rows), rows[2], head
  )


def test_transformers_4_converts_a_checkpoint_to_our_numbers(tmp_path):
  torch = pytest.importorskip('torch')
  transformers = pytest.importorskip('transformers')
  if int(transformers.__version__.split('.')[0]) > 4:
    pytest.skip('transformers 5 no longer reads checkpoints of TensorFlow')
  write(saved_model('pretraining', attention='standard'), tmp_path)
  from transformers.models.bert import modeling_bert

  config = transformers.BertConfig.from_json_file(tmp_path / 'bert_config.json')
  model = transformers.BertForPreTraining(config)
  modeling_bert.load_tf_weights_in_bert(
    model, config, str(tmp_path / 'bert_model.ckpt')
  )
  rows = token_rows()
  columns = [torch.from_numpy(np.array(row)).long() for row in rows]
  with torch.inference_mode():
    found = model.eval()(columns[0], columns[2], columns[1]).to_tuple()
  read = google.read(tmp_path)
  assert_same(
    outputs_of(read, *rows), [x.numpy() for x in found], rows[2], read.head
  )


@pytest.mark.parametrize('cased', [False, True])
def test_a_vocabulary_with_capital_letters_is_cased(cased, tmp_path):
  saved = saved_model(attention='standard')
  write(saved, tmp_path)
  if cased:
    words = [*saved.tokenizer.vocab[:-1], 'London']
    (tmp_path / 'vocab.txt').write_text('\n'.join(words))
  assert google.read(tmp_path).tokenizer.lowercase != cased


def test_one_of_several_checkpoints_is_named_without_its_ending(tmp_path):
  first, last = (saved_model(h, attention='standard') for h in HEADS[:2])
  write(last, tmp_path)
  (tmp_path / 'bert_model.ckpt.index').rename(tmp_path / 'other.index')
  write(first, tmp_path)
  with pytest.raises(UserError, match='bert_model.ckpt.index, other.index'):
    open_model(tmp_path)
  assert open_model(tmp_path / 'bert_model.ckpt').head == 'masked_lm'


def cut(file, keep):
  file.write_bytes(file.read_bytes()[:keep])


def flip(file):
  data = bytearray(file.read_bytes())
  data[9] ^= 1  # of a parameter: an optimiser's are not read
  file.write_bytes(data)


DATA, INDEX = 'bert_model.ckpt.data-00000-of-00001', 'bert_model.ckpt.index'
BAD = {
  'no index': (lambda f: (f / INDEX).unlink(), 'and has none'),
  'no data': (lambda f: (f / DATA).unlink(), 'damaged or missing'),
  'cut index': (lambda f: cut(f / INDEX, -9), 'damaged or missing'),
  'empty index': (lambda f: cut(f / INDEX, 0), 'damaged or missing'),
  'cut data': (lambda f: cut(f / DATA, 999), 'damaged or missing'),
  'a flipped bit': (lambda f: flip(f / DATA), 'damaged or missing'),
  'no configuration': (
    lambda f: (f / 'bert_config.json').unlink(),
    'no bert_config.json',
  ),
  'a cut configuration': (
    lambda f: cut(f / 'bert_config.json', 20),
    'is not JSON',
  ),
  'no sizes': (
    lambda f: (f / 'bert_config.json').write_text('{}'),
    'lacks vocab_size',
  ),
  'no vocabulary': (
    lambda f: (f / 'vocab.txt').unlink(),
    'holds no vocabulary',
  ),
  'another model': (
    lambda f: write_variables(
      f / 'bert_model.ckpt', {'electra/embeddings/word_embeddings': np.ones(3)}
    ),
    'is not a checkpoint of google-research/bert',
  ),
  'more layers': (
    lambda f: write(saved_model(attention='standard'), f, num_hidden_layers=3),
    'lacks bert.encoder.layer.2',
  ),
  'other sizes': (
    lambda f: write(saved_model(attention='standard'), f, intermediate_size=8),
    'does not fit the configuration',
  ),
  'another activation': (
    lambda f: write(saved_model(attention='standard'), f, hidden_act='relu'),
    'hidden_act=',
  ),
}


@pytest.mark.parametrize('case', BAD)
def test_a_checkpoint_that_is_no_bert_or_damaged_is_refused(case, tmp_path):
  harm, words = BAD[case]
  write(saved_model(attention='standard'), tmp_path)
  harm(tmp_path)
  with pytest.raises(UserError, match=words) as caught:
    open_model(tmp_path)
  assert str(tmp_path) in str(caught.value)


def test_the_commands_take_a_checkpoint(commands, pretrained, glue, tmp_path):
  folder, output = tmp_path / 'uncased', tmp_path / 'out'
  folder.mkdir()
  ours = open_saved(pretrained)
  write(standard_of(ours), folder)
  done = commands.run('export', f'--checkpoint={folder}', f'--output={output}')
  assert done.code == 0, done.err
  rows = token_rows((12, 7))
  assert_same(
    outputs_of(ours, *rows),
    outputs_of(huggingface.read(output), *rows),
    rows[2],
    ours.head,
  )
  done = commands.run(
    'main',
    '--config=configs/cola.py:attention=shared',
    f'--workdir={tmp_path / "run"}',
    *(f'--config.model.{k}={v}' for k, v in SMALL.items()),
    '--config.data.source=local',
    f'--config.data.glue_dir={glue}',
    '--config.data.seq_len=16',
    '--config.data.eval_batch_size=16',
    '--config.train.batch_size=16',
    '--config.train.steps=1',
    '--config.train.warmup_steps=0',
    '--config.tensorboard=False',
    f'--config.init_from={folder / "bert_model.ckpt"}',
  )
  assert done.code == 0, done.err
  assert f'fitted      shared attention to {folder}' in done.out
