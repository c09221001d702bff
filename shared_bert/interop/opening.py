"""Any model that can be used, by its path."""

import pathlib

from shared_bert.errors import UserError
from shared_bert.interop import google, huggingface
from shared_bert.interop.saved import SavedModel, open_saved

# What `export` writes for programs of others, and who loads it.
_PROGRAMS = {
  'program.stablehlo': 'jax.export.deserialize',
  'model.onnx': 'onnxruntime.InferenceSession',
}


def open_model(path: str | pathlib.Path) -> SavedModel:
  """Opens a checkpoint of ours or a BERT of others.

  Args:
    path: of either.

  Raises:
    UserError: it is neither, is damaged, or is of another family.
  """
  return open_foreign(path) or open_saved(path)


def open_foreign(path: str | pathlib.Path) -> SavedModel | None:
  """Opens a BERT of others.

  Args:
    path: a folder of Hugging Face's, or as `google.read`.

  Returns:
    The model; None if the path is of neither.

  Raises:
    UserError: it is damaged, is of another family, or is an exported program.
  """
  _check_program(pathlib.Path(path))
  if huggingface.is_folder(path):
    return huggingface.read(path)
  return google.read(path) if google.is_checkpoint(path) else None


def is_foreign(path: str | pathlib.Path) -> bool:
  """Whether `open_foreign` opens what a path names."""
  return huggingface.is_folder(path) or google.is_checkpoint(path)


def _check_program(path: pathlib.Path) -> None:
  """An error for what `export` wrote as a program, the folder or its file."""
  if any(path.glob('model*.safetensors*')):
    return
  for name, loader in _PROGRAMS.items():
    if path.name == name or (path / name).is_file():
      raise UserError(
        f'{path} is a program ({name}), which {loader} loads and nothing here: '
        'name the checkpoint that it was exported from.'
      )
