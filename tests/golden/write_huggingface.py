"""Writes huggingface.npz: a random Hugging Face BERT and what it computes.

`python -m tests.golden.write_huggingface`, with the extra `parity` installed,
from the root of the repository; the same bytes come out each time on one
machine. Last written with torch 2.13.0 and transformers 5.23.0.
"""

import pathlib
from typing import Any

import numpy as np

GOLDEN = pathlib.Path(__file__).parent / 'huggingface.npz'

# As `transformers.BertConfig` names them.
SIZES = {
  'vocab_size': 60,
  'hidden_size': 32,
  'num_hidden_layers': 2,
  'num_attention_heads': 4,
  'intermediate_size': 64,
  'max_position_embeddings': 16,
  'type_vocab_size': 2,
}


def random_bert(sizes: dict[str, int], seed: int = 0) -> Any:
  """Makes Hugging Face's BERT with random numbers in every parameter.

  Args:
    sizes: as `SIZES`.
    seed: of the numbers, which come from NumPy and not from PyTorch.

  Returns:
    A `BertForPreTraining` (encoder, pooler, both heads) in float64, evaluating.
  """
  import torch
  import transformers

  config = transformers.BertConfig(**sizes, attn_implementation='eager')
  model = transformers.BertForPreTraining(config).double().eval()
  rng = np.random.default_rng(seed)
  for name, parameter in sorted(model.named_parameters()):  # tied ones once
    value = rng.normal(size=tuple(parameter.shape))
    if name.endswith('LayerNorm.weight'):
      value = 1 + 0.2 * value
    elif value.ndim == 2:
      value *= value.shape[-1] ** -0.5
    else:
      value *= 0.3
    # Exact in float32, so that the fixture loses nothing.
    value = value.astype(np.float32)
    parameter.data.copy_(torch.from_numpy(value))
  return model


def random_rows(
  lengths: tuple[int, ...], sequence: int, vocab_size: int, seed: int = 0
) -> dict[str, np.ndarray]:
  """Padded sentence pairs.

  Args:
    lengths: of the rows, at most `sequence`.
    sequence: S.
    vocab_size: V.
    seed: of the tokens.

  Returns:
    `input_ids`, `token_type_ids`, `attention_mask`: int32 [B, S].
  """
  rng = np.random.default_rng(seed)
  ends = np.array(lengths)[:, None]
  index = np.arange(sequence)[None, :]
  real = index < ends
  rows = {
    'input_ids': rng.integers(1, vocab_size, real.shape) * real,
    'token_type_ids': (index >= ends // 2) & real,
    'attention_mask': real,
  }
  return {name: row.astype(np.int32) for name, row in rows.items()}


def run(model: Any, rows: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
  """Runs the model.

  Args:
    model: what `random_bert` gave.
    rows: what `random_rows` gave.

  Returns:
    float32 `hidden` [B, S, D], `pooled` [B, D], `logits` [B, S, V] and
    `next_sentence` [B, 2].
  """
  import torch

  inputs = {name: torch.from_numpy(row).long() for name, row in rows.items()}
  with torch.inference_mode():
    output = model.bert(**inputs)
    logits, next_sentence = model.cls(
      output.last_hidden_state, output.pooler_output
    )
  tensors = {
    'hidden': output.last_hidden_state,
    'pooled': output.pooler_output,
    'logits': logits,
    'next_sentence': next_sentence,
  }
  return {name: x.numpy().astype(np.float32) for name, x in tensors.items()}


def weights(model: Any) -> dict[str, np.ndarray]:
  """The model's parameters, float32."""
  return {
    name: parameter.detach().numpy().astype(np.float32)
    for name, parameter in model.named_parameters()
  }


def write() -> None:
  model = random_bert(SIZES)
  rows = random_rows((16, 9, 5, 2), 16, SIZES['vocab_size'])
  np.savez_compressed(
    GOLDEN,
    **{f'weights/{name}': value for name, value in weights(model).items()},
    **{f'inputs/{name}': value for name, value in rows.items()},
    **{f'outputs/{name}': value for name, value in run(model, rows).items()},
  )


if __name__ == '__main__':
  write()
