"""Folders of Hugging Face's BERT: written from our models, and read.

  config.json          sizes, classes, the name of their class
  model.safetensors    the parameters
  tokenizer.json ...   the vocabulary
  README.md            a model card

What is written is standard BERT: no code of ours is needed to use it.
"""

import dataclasses
import json
import pathlib
from typing import Any

import jax
import numpy as np
import safetensors
import safetensors.numpy

from shared_bert.data.tokenizer import Tokenizer
from shared_bert.errors import UserError
from shared_bert.interop import folding, model_card, names, pooling
from shared_bert.interop.saved import SIGNS, SavedModel, head_of, maker_of
from shared_bert.model import parameters
from shared_bert.model.config import BertConfig

_CONFIG, _WEIGHTS = 'config.json', 'model.safetensors'
_INDEX = 'model.safetensors.index.json'
# What a head is called there.
_CLASSES = {
  'pretraining': 'BertForPreTraining',
  'masked_lm': 'BertForMaskedLM',
  'classification': 'BertForSequenceClassification',
  'question_answering': 'BertForQuestionAnswering',
  'encoder': 'BertModel',
}
# Their name of a size, and ours: transformers, configuration_bert.py.
_SIZES = {
  'vocab_size': 'vocab_size',
  'hidden_size': 'hidden_size',
  'num_hidden_layers': 'num_layers',
  'num_attention_heads': 'num_heads',
  'intermediate_size': 'intermediate_size',
  'max_position_embeddings': 'max_positions',
  'type_vocab_size': 'type_vocab_size',
  'hidden_dropout_prob': 'hidden_dropout',
  'attention_probs_dropout_prob': 'attention_dropout',
  'initializer_range': 'initializer_range',
  'layer_norm_eps': 'layer_norm_epsilon',
}
# Rows of a word table that no token has: tables are padded to multiples, of
# 1,024 at most.
_MOST_PADDING = 1_024
# Of BERT-base, where an old config.json is silent.
_DEFAULTS = {
  'type_vocab_size': 2,
  'hidden_dropout_prob': 0.1,
  'attention_probs_dropout_prob': 0.1,
  'initializer_range': 0.02,
  'layer_norm_eps': 1e-12,
}


def write(saved: SavedModel, folder: pathlib.Path) -> None:
  """Writes a model as a folder of Hugging Face's BERT.

  Args:
    saved: with any attention; its projections are folded into three matrices.
    folder: an empty one.

  Raises:
    UserError: no BERT computes the same (`folding.as_standard`).
  """
  weights = names.to_huggingface(
    folding.as_standard(saved.params, saved.config)
  )
  if saved.head == 'encoder':
    weights = {k.removeprefix('bert.'): v for k, v in weights.items()}
  safetensors.numpy.save_file(
    weights, folder / _WEIGHTS, metadata={'format': 'pt'}
  )
  (folder / _CONFIG).write_text(json.dumps(_config_of(saved), indent=2) + '\n')
  tokenizer = saved.tokenizer
  (folder / 'tokenizer.json').write_text(
    tokenizer.to_huggingface(), encoding='utf-8'
  )
  for name, data in tokenizer.files().items():
    if name.endswith('.json'):
      told = json.loads(data) | _tokenizer_config(saved)
      data = (json.dumps(told, indent=2) + '\n').encode()
    (folder / name).write_bytes(data)
  exported = sum(value.size for value in weights.values())
  card = model_card.write(saved, _CLASSES[saved.head], exported)
  (folder / 'README.md').write_text(card, encoding='utf-8')


def _config_of(saved: SavedModel) -> dict[str, Any]:
  config = {
    'architectures': [_CLASSES[saved.head]],
    'model_type': 'bert',
    'hidden_act': 'gelu',
    'position_embedding_type': 'absolute',
    'pad_token_id': saved.tokenizer.pad_id,
    **{theirs: getattr(saved.config, ours) for theirs, ours in _SIZES.items()},
  }
  if saved.classifies:
    labels = dict(enumerate(saved.label_names or ['score']))
    config |= {
      'id2label': {str(i): label for i, label in labels.items()},
      'label2id': {label: i for i, label in labels.items()},
      'problem_type': 'single_label_classification'
      if saved.label_names
      else 'regression',
    }
  return config


def _tokenizer_config(saved: SavedModel) -> dict[str, Any]:
  special = ('pad', 'unk', 'cls', 'sep', 'mask')
  return {
    'model_max_length': saved.config.max_positions,
    **{f'{name}_token': f'[{name.upper()}]' for name in special},
  }


def is_folder(path: str | pathlib.Path) -> bool:
  """Whether a path is a folder of one of Hugging Face's models, of any kind."""
  try:
    told = json.loads((pathlib.Path(path) / _CONFIG).read_text('utf-8'))
  except (OSError, ValueError):
    return False
  # A workdir of ours has a config.json as well.
  return isinstance(told, dict) and 'model_type' in told


def read(path: str | pathlib.Path) -> SavedModel:
  """Reads a folder of Hugging Face's BERT.

  Args:
    path: with `config.json`, `model.safetensors` (or its parts and their
      index) and a vocabulary; and perhaps sentence-transformers' files.

  Returns:
    The model, with standard attention.

  Raises:
    UserError: it is another kind of model, something is missing or damaged.
  """
  path = pathlib.Path(path).absolute()
  told = read_json(path / _CONFIG)
  config = config_of(path / _CONFIG, told)
  weights = names.canonical(_read_weights(path))
  tokenizer = Tokenizer.load(path)
  saved = assemble(path, path / _WEIGHTS, config, weights, tokenizer, told)
  embeds = pooling.read(path, tokenizer.lowercase)
  if embeds is None:
    return saved
  rows = pooling.longest_row(path, saved.seq_len)
  return dataclasses.replace(saved, pooling=embeds, seq_len=rows)


def assemble(
  folder: pathlib.Path,
  file: pathlib.Path,
  config: BertConfig,
  weights: dict[str, np.ndarray],
  tokenizer: Tokenizer,
  told: dict[str, Any],
) -> SavedModel:
  """The model of what was read, wherever it was.

  Args:
    folder: that it was read from.
    file: that the weights were in, for errors.
    config: with standard attention.
    weights: by Hugging Face's names, as `names.canonical` gives them.
    tokenizer: of its texts.
    told: what may have `id2label` and `problem_type`, as their config.json.

  Raises:
    UserError: parameters are missing or of another shape than `config` has
      them, or the vocabulary is another one, by its size.
  """
  head = _head_of(weights)
  labels = told.get('id2label') or {}
  outputs = len(weights.get('classifier.bias', ()))
  is_score = told.get('problem_type') == 'regression' or outputs == 1
  label_names = tuple(
    str(labels.get(str(i), f'LABEL_{i}')) for i in range(outputs)
  )
  shapes = parameters.abstract(maker_of(head, config, outputs))
  wanted = dict(parameters.named_leaves(shapes))
  try:
    found = names.from_huggingface(weights, wanted, config.num_layers)
  except KeyError as error:
    raise UserError(
      f'{file} lacks {error.args[0]}, which {_CLASSES[head]} of '
      f'{config.num_layers} layers has: fetch the model again.'
    ) from error
  for name, value in found.items():
    if value.shape != wanted[name].shape:
      raise UserError(
        f'{file} does not fit the configuration beside it: {name} is '
        f'{value.shape} there and should be {wanted[name].shape}.'
      )
  if not 0 <= config.vocab_size - tokenizer.vocab_size < _MOST_PADDING:
    raise UserError(
      f'the vocabulary in {folder} has {tokenizer.vocab_size:,} tokens, and '
      f'the model knows {config.vocab_size:,}: bring back the one it was made '
      'with.'
    )
  return SavedModel(
    path=folder,
    config=config,
    head=head,
    params=jax.tree.unflatten(
      jax.tree.structure(shapes), [found[name] for name in wanted]
    ),
    tokenizer=tokenizer,
    label_names=() if is_score else label_names,
    seq_len=config.max_positions,
    facts={},
  )


def _head_of(weights: dict[str, np.ndarray]) -> str:
  head = head_of({x for x in SIGNS.values() if names.theirs_of(x) in weights})
  # Of a head for words and sentences that was saved without its pooler, words.
  if head == 'pretraining' and 'bert.pooler.dense.weight' not in weights:
    return 'masked_lm'
  return head


def config_of(where: pathlib.Path, told: dict[str, Any]) -> BertConfig:
  """The sizes of a BERT, with standard attention.

  Args:
    where: it is told, for errors.
    told: by the keys of their config.json.

  Raises:
    UserError: it is another kind of model, or a size is missing.
  """
  for key, known in (
    ('model_type', ('bert',)),
    ('hidden_act', ('gelu', None)),
    ('position_embedding_type', ('absolute', None)),
    ('is_decoder', (False, None)),
    ('add_cross_attention', (False, None)),
  ):
    if told.get(key) not in known:
      raise UserError(
        f'{where} says {key}={told[key]!r}, and only BERT with {key}='
        f'{known[0]!r} can be read: take another model.'
      )
  told = _DEFAULTS | told
  missing = [key for key in _SIZES if key not in told]
  if missing:
    raise UserError(f'{where} lacks {", ".join(missing)}: fetch it again.')
  sizes: dict[str, Any] = {ours: told[key] for key, ours in _SIZES.items()}
  return BertConfig(attention='standard', **sizes)


def read_json(path: pathlib.Path) -> dict[str, Any]:
  """Reads a file that holds one JSON object.

  Raises:
    UserError: it holds something else.
  """
  try:
    told = json.loads(path.read_text('utf-8'))
  except ValueError as error:
    raise UserError(f'{path} is not JSON ({error}): fetch it again.') from error
  if not isinstance(told, dict):
    raise UserError(f'{path} holds no JSON object: fetch it again.')
  return told


def _read_weights(path: pathlib.Path) -> dict[str, np.ndarray]:
  files = [path / _WEIGHTS]
  if not files[0].is_file() and (path / _INDEX).is_file():
    index = read_json(path / _INDEX)['weight_map']
    # Plain names: an index cannot lead out of its folder.
    files = [path / pathlib.Path(name).name for name in {*index.values()}]
  weights: dict[str, np.ndarray] = {}
  for file in sorted(files):
    if not file.is_file():
      raise UserError(
        f'there is no {file}: only safetensors are read, since other formats '
        'can hold code. Save the model again with transformers '
        '(model.save_pretrained), which writes them.'
      )
    try:
      weights |= safetensors.numpy.load_file(file)
    except safetensors.SafetensorError as error:
      raise UserError(
        f'{file} is damaged ({error}): fetch it again.'
      ) from error
  return weights
