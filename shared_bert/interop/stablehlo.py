"""A model as StableHLO: one program for CPU, CUDA and TPU, without our code.

  program.stablehlo    for rows of any number and length, of jax.export
  params.safetensors   its first argument, by our names
  tokenizer.json       the vocabulary, for Hugging Face's tokenizers
  program.json         inputs, outputs, labels

Shared attention is folded first (`SavedModel.folded`).
"""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy
from jax import export

from shared_bert.interop.saved import SavedModel
from shared_bert.model.parameters import applier, named_leaves

PLATFORMS = ('cpu', 'cuda', 'tpu')
_OUTPUTS = {
  'pretraining': ['word_logits [B, S, V]', 'next_sentence_logits [B, 2]'],
  'masked_lm': ['word_logits [B, S, V]'],
  'classification': ['logits [B, C]'],
  'question_answering': ['start_logits [B, S]', 'end_logits [B, S]'],
  'encoder': ['hidden [B, S, D]', 'pooled [B, D]'],
}


def write(saved: SavedModel, folder: pathlib.Path) -> None:
  """Writes the program, its parameters and what its outputs mean.

  The program is a function of the parameters, a dict of arrays by name, and of
  `input_ids`, `token_type_ids` and `attention_mask`, int32 [B, S] each.

  Args:
    saved: with any attention; it computes in float32.
    folder: an empty one.
  """
  saved = saved.folded()
  apply = applier(saved.make)
  structure = jax.tree.structure(saved.params)
  by_name = {
    name: np.ascontiguousarray(leaf)
    for name, leaf in named_leaves(saved.params)
  }
  order = list(by_name)

  def program(params, input_ids, token_type_ids, attention_mask):
    tree = jax.tree.unflatten(structure, [params[name] for name in order])
    return apply(tree, input_ids, token_type_ids, attention_mask)

  rows, length = export.symbolic_shape(
    'B, S', constraints=[f'S <= {saved.config.max_positions}']
  )
  ids = jax.ShapeDtypeStruct((rows, length), jnp.int32)
  shapes = {
    name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)
    for name, leaf in by_name.items()
  }
  exported = export.export(jax.jit(program), platforms=PLATFORMS)(
    shapes, ids, ids, ids
  )
  (folder / 'program.stablehlo').write_bytes(exported.serialize())
  safetensors.numpy.save_file(by_name, folder / 'params.safetensors')
  told = {
    'inputs': ['input_ids', 'token_type_ids', 'attention_mask'],
    'outputs': _OUTPUTS[saved.head],
    'labels': list(saved.label_names),
    'max_length': saved.config.max_positions,
    'platforms': list(PLATFORMS),
  }
  (folder / 'program.json').write_text(json.dumps(told, indent=2) + '\n')
  tokenizer = saved.tokenizer
  (folder / 'tokenizer.json').write_text(
    tokenizer.to_huggingface(), encoding='utf-8'
  )
