"""BERT with shared-weight self-attention, in JAX and Flax."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
  from shared_bert.inference import Predictor

__version__ = '0.1.0'


def load(path: str, task: str | None = None, **options: Any) -> 'Predictor':
  """Opens a trained model for use: `shared_bert.load(path)(texts)`.

  Args:
    path: a workdir or checkpoint of ours, a folder of Hugging Face's BERT, or
      a checkpoint of google-research/bert.
    task: as `shared_bert.inference.Predictor`; None for what it was trained on.
    **options: as there.

  Returns:
    A function of texts.

  Raises:
    UserError: it is no such model, or not one for the task.
  """
  # JAX is imported where it is used.
  from shared_bert.inference import Predictor
  from shared_bert.interop.opening import open_model

  return Predictor(open_model(path), task, **options)
