"""Any model that can be used, by its path."""

import pathlib

from shared_bert.interop import huggingface
from shared_bert.interop.saved import SavedModel, open_saved


def open_model(path: str | pathlib.Path) -> SavedModel:
  """Opens a checkpoint of ours or a folder of Hugging Face's BERT.

  Args:
    path: of either.

  Raises:
    UserError: it is neither, is damaged, or is of another family.
  """
  if huggingface.is_folder(path):
    return huggingface.read(path)
  return open_saved(path)
