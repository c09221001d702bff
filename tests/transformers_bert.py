"""BERTs that transformers saves itself, with random numbers."""

import pathlib
from typing import Any

import pytest

from shared_bert.data.tokenizer import Tokenizer


def save_bert(
  folder: pathlib.Path, class_name: str, tokenizer: Tokenizer, **settings: Any
) -> Any:
  """Saves a tiny model and its vocabulary; skips the test without PyTorch.

  Args:
    folder: to write into.
    class_name: of transformers.
    tokenizer: of its texts.
    **settings: of transformers' `BertConfig`; they win.

  Returns:
    The model.
  """
  torch = pytest.importorskip('torch')
  transformers = pytest.importorskip('transformers')
  torch.manual_seed(0)
  sizes = {
    'vocab_size': tokenizer.vocab_size,
    'hidden_size': 16,
    'num_hidden_layers': 2,
    'num_attention_heads': 4,
    'intermediate_size': 32,
    'initializer_range': 0.5,
  }
  config = transformers.BertConfig(**(sizes | settings))
  model = getattr(transformers, class_name)(config)
  model.save_pretrained(folder)
  tokenizer.save(folder)
  (folder / 'tokenizer.json').write_text(
    tokenizer.to_huggingface(), encoding='utf-8'
  )
  return model
