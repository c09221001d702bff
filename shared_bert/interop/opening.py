"""Any model that can be used, by its path."""

import pathlib

from shared_bert.interop import google, huggingface
from shared_bert.interop.saved import SavedModel, open_saved


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
    UserError: it is damaged, or is of another family.
  """
  if huggingface.is_folder(path):
    return huggingface.read(path)
  return google.read(path) if google.is_checkpoint(path) else None


def is_foreign(path: str | pathlib.Path) -> bool:
  """Whether `open_foreign` opens what a path names."""
  return huggingface.is_folder(path) or google.is_checkpoint(path)
