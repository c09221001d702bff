"""Vocabularies on disk: our files, and those of Hugging Face."""

import json
import pathlib
from typing import Any

from shared_bert.errors import UserError


def read_config(path: pathlib.Path) -> dict[str, Any]:
  """A tokenizer_config.json, or nothing where there is none.

  Raises:
    UserError: it is not JSON.
  """
  if not path.is_file():
    return {}
  config = _read_json(path)
  return config if isinstance(config, dict) else {}


def _read_json(path: pathlib.Path) -> Any:
  try:
    return json.loads(path.read_text(encoding='utf-8'))
  except (UnicodeDecodeError, json.JSONDecodeError) as error:
    raise UserError(
      f'{path} is not readable as JSON ({error}); restore the file.'
    ) from error


def read_vocab_txt(path: pathlib.Path) -> list[str]:
  """One token a line; the order is the ids.

  Raises:
    UserError: it is not UTF-8.
  """
  try:
    # Not splitlines(): it also cuts at separators that may be tokens.
    lines = path.read_text(encoding='utf-8').split('\n')
  except UnicodeDecodeError as error:
    raise UserError(
      f'The vocabulary {path} is not UTF-8 text ({error}); BERT vocabularies '
      'have one token a line in UTF-8.'
    ) from error
  return lines[:-1] if lines[-1] == '' else lines


def read_tokenizer_json(path: pathlib.Path) -> tuple[list[str], bool]:
  """Vocabulary and lowercase flag of a Hugging Face tokenizer.json.

  Raises:
    UserError: it is not JSON, or encodes by other rules than BERT's.
  """
  spec = _read_json(path)
  model = spec.get('model') if isinstance(spec, dict) else None
  model = model if isinstance(model, dict) else {}
  ids = model.get('vocab')
  # Old files leave the type out, and only WordPiece has a prefix.
  is_wordpiece = (
    model.get('type', 'WordPiece') == 'WordPiece'
    and model.get('continuing_subword_prefix') == '##'
  )
  normalizer = spec.get('normalizer') or {} if is_wordpiece else {}
  if not isinstance(ids, dict) or normalizer.get('type') != 'BertNormalizer':
    raise UserError(
      f'{path} is not a BERT tokenizer: only WordPiece with ## and the '
      "normaliser BertNormalizer is understood; use the model's vocab.txt."
    )
  lowercase = bool(normalizer.get('lowercase', True))
  as_bert = (
    normalizer.get('clean_text', True)
    and normalizer.get('handle_chinese_chars', True)
    and normalizer.get('strip_accents') in (None, lowercase)
  )
  if not as_bert:
    raise UserError(
      f'{path} changes the rules of BERT (clean_text, handle_chinese_chars or '
      'strip_accents); such text would be encoded wrongly here.'
    )
  ids = dict(ids)
  for token in spec.get('added_tokens') or ():
    ids[token['content']] = token['id']
  vocab = sorted(ids, key=ids.__getitem__)
  if [ids[token] for token in vocab] != list(range(len(vocab))):
    raise UserError(
      f'The ids in {path} do not run from 0 to {len(vocab) - 1} without gaps; '
      "use the model's vocab.txt."
    )
  return vocab, lowercase
