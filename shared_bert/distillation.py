"""Learning from the predictions of a model that is itself not trained.

Hinton et al. 2015 (arXiv 1503.02531), section 2; on masked words as DistilBERT
(Sanh et al. 2019, arXiv 1910.01108).
"""

import dataclasses
import functools
import hashlib
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AbstractMesh, Mesh
from ml_collections import ConfigDict

from shared_bert.data.tokenizer import Tokenizer
from shared_bert.errors import UserError
from shared_bert.model import parameters
from shared_bert.model.config import BertConfig
from shared_bert.training import mesh as mesh_lib

if TYPE_CHECKING:
  from shared_bert.interop.saved import SavedModel


class Teacher:
  """A model of masked words whose distributions are targets."""

  def __init__(
    self, saved: 'SavedModel', model: BertConfig, temperature: float
  ):
    """Computes nothing yet.

    Args:
      saved: with a head for words.
      model: of the student, whose vocabulary and compute dtype it shares.
      temperature: that softens both distributions.

    Raises:
      UserError: it predicts no words.
    """
    if not saved.predicts_words:
      raise UserError(
        f'init_from={saved.path} predicts no masked words (its head: '
        f'{saved.head}), so that there is nothing to learn from it: set '
        'train.distill_weight=0, or start from a model with that head.'
      )
    folded = saved.folded()
    config = dataclasses.replace(folded.config, dtype=model.dtype)
    self._make = dataclasses.replace(folded, config=config).make
    self._apply = parameters.applier(self._make)
    self._params, self._temperature = folded.params, temperature
    self._vocab_size = model.vocab_size

  @functools.cached_property
  def fingerprint(self) -> str:
    """Hex sha256 of its parameters."""
    digest = hashlib.sha256()
    for name, leaf in parameters.named_leaves(self._params):
      digest.update(name.encode() + np.ascontiguousarray(leaf).tobytes())
    return digest.hexdigest()

  def placed(self, mesh: Mesh) -> Any:
    """Its parameters, float32, on the devices of a mesh."""
    return mesh_lib.place(mesh, self._params)

  def shapes(self, mesh: Mesh | AbstractMesh | None = None) -> Any:
    """Its parameters as shapes and dtypes, of a mesh with their sharding."""
    shapes = parameters.abstract(self._make)
    return shapes if mesh is None else mesh_lib.placed(mesh, shapes)

  def divergence(
    self, params: Any, batch: dict[str, jax.Array], logits: jax.Array
  ) -> tuple[jax.Array, jax.Array]:
    """T²·KL(teacher ‖ student) of the words at the masked positions.

    T² keeps the gradient's size whatever the temperature T (Hinton et al.,
    section 2).

    Args:
      params: as `placed` gives them.
      batch: with `input_ids`, `token_type_ids` and `segment_ids` int32 [B, S],
        `masked_positions` int32 [B, P] and `masked_weights` float32 [B, P].
      logits: of the student, float32 [B, P, V].

    Returns:
      Its sum, weighted, and the sum of the weights.
    """
    outputs = self._apply(
      params,
      batch['input_ids'],
      batch['token_type_ids'],
      batch['segment_ids'],
      masked_positions=batch['masked_positions'],
    )
    theirs = outputs[0] if isinstance(outputs, tuple) else outputs
    # Rows of a padded vocabulary are no words.
    theirs = theirs[..., : self._vocab_size] / self._temperature
    theirs = jax.nn.log_softmax(theirs)
    ours = jax.nn.log_softmax(logits / self._temperature)
    divergence = jnp.einsum('BPV,BPV->BP', jnp.exp(theirs), theirs - ours)
    weights = batch['masked_weights']
    scale = self._temperature**2
    return scale * (divergence * weights).sum(), weights.sum()


def open_teacher(
  config: ConfigDict, model: BertConfig, tokenizer: Tokenizer, longest: int
) -> Teacher | None:
  """The model that a run starts from, as it was, if it is to learn from it.

  Args:
    config: of a pre-training run, validated.
    model: of the student.
    tokenizer: of the corpora.
    longest: S of the longest rows.

  Raises:
    UserError: it cannot be a teacher of this run.
  """
  if not config.train.distill_weight:
    return None
  # Imported late: Orbax takes seconds, and a plan may do without.
  from shared_bert.interop.opening import open_model

  saved = open_model(config.init_from)
  if saved.tokenizer.sha256 != tokenizer.sha256:
    raise UserError(
      f'init_from={saved.path} has another vocabulary than the text, so that '
      'its predictions are of other words: prepare the text with that one.'
    )
  if saved.config.max_positions < longest:
    raise UserError(
      f'init_from={saved.path} reads {saved.config.max_positions} tokens, and '
      f'rows of the text have {longest}: prepare shorter ones, or set '
      'train.distill_weight=0.'
    )
  return Teacher(saved, model, config.train.distill_temperature)
