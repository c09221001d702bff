"""BERT with shared-weight self-attention, in JAX and Flax."""

import os
from typing import TYPE_CHECKING, Any

from shared_bert.errors import UserError

if TYPE_CHECKING:
  from shared_bert.inference import Predictor

__version__ = '0.1.0'


def load(
  path: str | os.PathLike[str], task: str | None = None, **options: Any
) -> 'Predictor':
  """Opens a trained model for use: `shared_bert.load(path)(texts)`.

  Args:
    path: a workdir or checkpoint of ours, a folder of Hugging Face's BERT, or
      a checkpoint of google-research/bert. Nothing is downloaded.
    task: `fill-mask`, `classify`, `answer` or `embed`; None for what the model
      was trained for.
    **options: top_k (5): how many words for a mask, classes or answers.
      pooling (None): what an embedding is made of, `cls` or `mean`; None for
        what a folder of sentence-transformers says, and `cls` of all others.
      no_answer (False): whether a question may have no answer in its context.
      batch_size (32): rows computed at once.

  Returns:
    A function of texts, `shared_bert.inference.Predictor`: what texts and
    answers are is told at its `__call__`.

  Raises:
    UserError: it is no such model, or not one for the task; or there is no
      such option.
  """
  # JAX is imported where it is used.
  from shared_bert.inference import OPTIONS, Predictor
  from shared_bert.interop.opening import open_model

  if unknown := options.keys() - set(OPTIONS):
    raise UserError(
      f'shared_bert.load has no option {", ".join(sorted(unknown))}: there are '
      f'{", ".join(OPTIONS)}.'
    )
  return Predictor(open_model(os.path.expanduser(path)), task, **options)
