"""Checkpoints of google-research/bert, where BERT came from: read, not written.

  bert_config.json                     sizes
  vocab.txt                            the vocabulary
  bert_model.ckpt.index, .data-...     the parameters, in TensorFlow's bundles

Names are those of its modeling.py, run_pretraining.py, run_classifier.py and
run_squad.py. They are brought to Hugging Face's, as `load_tf_weights_in_bert`
of transformers 4 does, and read on from there.
"""

import pathlib
import re
import string
from typing import Any

import numpy as np

from shared_bert.data.tokenizer import Tokenizer
from shared_bert.errors import UserError
from shared_bert.interop import huggingface
from shared_bert.interop.saved import SavedModel
from shared_bert.tensorflow_cpu import import_tensorflow

_CONFIG = 'bert_config.json'
_INDEX = '.index'
# Where the weights of a head are: [C, D], as Hugging Face has them.
_HEADS = {
  'output_': 'classifier.',
  'cls/squad/output_': 'qa_outputs.',
  'cls/seq_relationship/output_': 'cls.seq_relationship.',
  'cls/predictions/output_': 'cls.predictions.',
}
# The last part of a parameter's name, and theirs. An optimiser's have others:
# adam_m, adam_v.
_KINDS = {
  'kernel': 'weight',
  'bias': 'bias',
  'gamma': 'weight',
  'beta': 'bias',
  'word_embeddings': 'word_embeddings.weight',
  'position_embeddings': 'position_embeddings.weight',
  'token_type_embeddings': 'token_type_embeddings.weight',
}


def is_checkpoint(path: str | pathlib.Path) -> bool:
  """Whether a path is a folder of such a model, or the prefix of its files."""
  path = pathlib.Path(path)
  if path.is_dir():
    return (path / _CONFIG).is_file() or any(path.glob(f'*{_INDEX}'))
  return path.with_name(path.name + _INDEX).is_file()


def read(path: str | pathlib.Path) -> SavedModel:
  """Reads a checkpoint of google-research/bert.

  A vocabulary does not say whether texts are lower-cased: one without a capital
  letter says it.

  Args:
    path: a folder with `bert_config.json`, `vocab.txt` and one checkpoint, or
      what the names of a checkpoint's files begin with, such as
      `folder/bert_model.ckpt`, with the other two beside it.

  Returns:
    The model, with standard attention. Classes are named LABEL_0 and so on;
    a classifier with one output is a regression.

  Raises:
    UserError: it is another kind of model, something is missing or damaged.
  """
  path = pathlib.Path(path).absolute()
  folder = path if path.is_dir() else path.parent
  prefix = _prefix(path) if path.is_dir() else path
  if not (folder / _CONFIG).is_file():
    raise UserError(
      f'{folder} has a checkpoint of TensorFlow and no {_CONFIG}: only those '
      'of google-research/bert can be read; copy theirs beside it.'
    )
  told = huggingface.read_json(folder / _CONFIG)
  told.setdefault('model_type', 'bert')
  config = huggingface.config_of(folder / _CONFIG, told)
  tokenizer = Tokenizer.load(folder)
  if not (folder / 'tokenizer_config.json').is_file():
    capitals = set(string.ascii_uppercase)
    words = [t for t in tokenizer.vocab if not t.startswith('[')]
    cased = any(capitals & set(word) for word in words)
    tokenizer = Tokenizer.from_vocab(tokenizer.vocab, lowercase=not cased)
  return huggingface.assemble(
    folder, prefix, config, _read_weights(prefix), tokenizer, told
  )


def _prefix(folder: pathlib.Path) -> pathlib.Path:
  """What the names of the one checkpoint in a folder begin with."""
  found = sorted(folder.glob(f'*{_INDEX}'))
  if len(found) != 1:
    names = ', '.join(file.name for file in found) or 'none'
    raise UserError(
      f'{folder} should have the {_INDEX} file of one checkpoint, such as '
      f'bert_model.ckpt{_INDEX}, and has {names}: fetch it again, or name the '
      'one that is meant without its ending, such as '
      f'{folder / "bert_model.ckpt"}.'
    )
  return found[0].with_name(found[0].name.removesuffix(_INDEX))


def _read_weights(prefix: pathlib.Path) -> dict[str, np.ndarray]:
  tf = import_tensorflow()
  weights = {}
  try:
    reader = tf.train.load_checkpoint(str(prefix))
    for name in sorted(reader.get_variable_to_shape_map()):
      if theirs := _theirs_of(name):
        value = reader.get_tensor(name)
        weights[theirs] = value.T if name.endswith('/kernel') else value
  except (tf.errors.OpError, IndexError) as error:
    raise UserError(
      f'{prefix} cannot be read, its {_INDEX} or .data file is damaged or '
      f'missing ({_first_line(error)}): fetch it again.'
    ) from error
  if 'bert.embeddings.word_embeddings.weight' not in weights:
    raise UserError(
      f'{prefix} is not a checkpoint of google-research/bert: it has no '
      'bert/embeddings/word_embeddings. Take another model.'
    )
  return weights


def _theirs_of(name: str) -> str | None:
  """Hugging Face's name of a parameter; None of what is none."""
  for head, theirs in _HEADS.items():
    if name in (f'{head}weights', f'{head}bias'):
      return theirs + ('bias' if name.endswith('bias') else 'weight')
  module, _, kind = name.rpartition('/')
  if kind not in _KINDS or not module.startswith(('bert/', 'cls/')):
    return None
  module = re.sub(r'/layer_(\d+)/', r'/layer.\1/', module).replace('/', '.')
  return f'{module}.{_KINDS[kind]}'


def _first_line(error: Any) -> str:
  return str(getattr(error, 'message', error)).strip().split('\n')[0]
