"""A model as ONNX, for ONNX Runtime and what else reads it.

  model.onnx           rows of any number and length; float32
  config.json ...      and the tokenizer, of a folder of Hugging Face's BERT

It is PyTorch's exporter, of that folder: optimum-onnx, Hugging Face's own, asks
for transformers below 4.58. Names of files, inputs and outputs are those that
it gives.
"""

import importlib.util
import logging
import pathlib
import warnings

from shared_bert.errors import UserError
from shared_bert.interop import huggingface
from shared_bert.interop.saved import SavedModel

_INPUTS = ('input_ids', 'attention_mask', 'token_type_ids')
_OUTPUTS = {
  'pretraining': ['prediction_logits', 'seq_relationship_logits'],
  'masked_lm': ['logits'],
  'classification': ['logits'],
  'question_answering': ['start_logits', 'end_logits'],
  'encoder': ['last_hidden_state', 'pooler_output'],
}
_PACKAGES = ('onnx', 'onnxscript', 'torch', 'transformers')


def write(saved: SavedModel, folder: pathlib.Path) -> None:
  """Writes the program, its configuration and its tokenizer.

  Inputs are int64 [B, S] each, `input_ids`, `attention_mask` and
  `token_type_ids`; outputs float32, as `_OUTPUTS` names them.

  Args:
    saved: with any attention; its projections are folded into three matrices.
    folder: an empty one.

  Raises:
    UserError: the extra `onnx` is not installed, or no BERT computes the same
      (`folding.as_standard`).
  """
  lacking = [x for x in _PACKAGES if not importlib.util.find_spec(x)]
  if lacking:
    raise UserError(
      f'--format=onnx needs {", ".join(lacking)}, not installed here: '
      "pip install 'shared_bert[onnx]'"
    )
  huggingface.write(saved, folder)
  # Imported late: both take seconds.
  import torch
  import transformers

  name = huggingface.read_json(folder / 'config.json')['architectures'][0]
  model = getattr(transformers, name).from_pretrained(folder).eval()
  # Two rows of two: a size of one would be taken for a constant.
  rows = {name: torch.ones((2, 2), dtype=torch.int64) for name in _INPUTS}
  axes = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
  with warnings.catch_warnings():
    # Of PyTorch about PyTorch; what comes out is tested.
    warnings.simplefilter('ignore')
    logging.getLogger('torch.onnx').setLevel(logging.ERROR)
    torch.onnx.export(
      model,
      kwargs=rows,
      f=folder / 'model.onnx',
      dynamo=True,
      dynamic_shapes=dict.fromkeys(_INPUTS, axes),
      input_names=_INPUTS,
      output_names=_OUTPUTS[saved.head],
      external_data=False,  # one file
      verbose=False,
    )
  # The weights are in the program, and the card tells of them.
  for name in ('model.safetensors', 'README.md'):
    (folder / name).unlink()
