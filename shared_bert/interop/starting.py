"""What a run starts from: a checkpoint of ours, or a BERT of others.

A checkpoint of the run's own attention is taken as it is. What has another is
brought to it by way of standard attention, which all of them are exactly.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from shared_bert.errors import UserError
from shared_bert.interop import folding
from shared_bert.interop.fitting import ROLES, fit_shared
from shared_bert.interop.moments import second_moments
from shared_bert.interop.opening import open_foreign
from shared_bert.interop.saved import SavedModel, maker_of, saved_in
from shared_bert.model.config import BertConfig
from shared_bert.model.parameters import abstract
from shared_bert.training import state_io
from shared_bert.training.checkpoint import open_checkpoint
from shared_bert.training.logging import say
from shared_bert.training.step_folders import Checkpoint

_SIZES = (
  'num_layers',
  'hidden_size',
  'num_heads',
  'intermediate_size',
  'max_positions',
)
# Rows that weight a fit: of 128 tokens, some for each direction of D = 768.
_SAMPLE = 256


@dataclasses.dataclass(frozen=True)
class Imported(Checkpoint):
  """A model brought to a run's attention, as jobs take a checkpoint.

  Attributes:
    saved: with standard attention and no more rows than its vocabulary.
    config: of the model that starts from it, standard or shared.
    sample: gives rows of text that weight a fit, as `second_moments` takes
      them; or None to weight all alike.
  """

  saved: SavedModel
  config: BertConfig
  sample: Callable[[], dict[str, np.ndarray]] | None = None

  def load(self, abstract_state: Any) -> Any:
    """There is no optimiser's state to resume: raises TypeError."""
    raise TypeError(f'{self.path} is not a checkpoint of a run')

  def load_params(self, abstract_params: Any | None = None) -> Any:
    """The parameters, NumPy arrays; `abstract_params` does not count.

    They are fitted only here: a plan or a run that is resumed does without.
    """
    del abstract_params
    if self.config.attention == 'standard':
      return self.saved.params
    say(
      f'fitting     shared attention to {self.saved.path}, which can take '
      'minutes …'
    )
    moments = None
    if self.sample is not None:
      moments = second_moments(
        self.saved.params, self.saved.config, self.sample()
      )
    fit = fit_shared(
      self.saved.params,
      role_bias=self.config.role_bias,
      residual_rank=self.config.residual_rank,
      second_moments=moments,
    )
    say(_told(self.saved, fit.errors))
    return fit.params


def open_start(path: str, model: Mapping[str, Any]) -> Checkpoint:
  """Opens what `init_from` names.

  Args:
    path: a workdir or checkpoint of ours, or a BERT of others (`open_foreign`).
    model: the config's `model` keys. What has another attention is taken into
      `standard` as what it computes, and fitted to `shared`, with the errors
      said.

  Returns:
    The checkpoint.

  Raises:
    UserError: there is none, it is damaged, or has other sizes or an attention
      that it cannot be brought to.
  """
  saved = open_foreign(path)
  if saved is None:
    checkpoint = open_checkpoint(path)
    if _has_attention(checkpoint.metadata['config']['model'], model):
      return checkpoint
    saved = saved_in(checkpoint)
  config = BertConfig.of_keys(model, saved.tokenizer.vocab_size, 'float32')
  _check_sizes(saved, config)
  if config.attention not in ('standard', 'shared'):
    raise UserError(
      f'init_from={saved.path} has {saved.config.attention} attention, which '
      'is taken over into model.attention=standard or fitted to shared, not to '
      f'{config.attention}.'
    )
  params = abstract(maker_of(saved.head, config, saved.num_outputs))
  return Imported(
    path=saved.path,
    step=0,
    metadata={},
    metrics={},
    versions={},
    leaves=state_io.leaf_types({'params': params}),
    saved=_as_standard(saved).cut_to_vocabulary(),
    config=config,
  )


def weighted_by(
  start: Checkpoint | None,
  num_rows: int,
  rows: Callable[[np.ndarray], Mapping[str, Any]],
) -> Checkpoint | None:
  """Weights a fit, if there is to be one, by what the model sees of a text.

  Args:
    start: of a run, or None.
    num_rows: of the text, at least 1.
    rows: numbers of rows, rising, to what `second_moments` takes.

  Returns:
    The start, with rows from all over the text.
  """
  if not isinstance(start, Imported) or start.config.attention == 'standard':
    return start

  def sample() -> dict[str, np.ndarray]:
    count = min(num_rows, _SAMPLE)
    chosen = np.linspace(0, num_rows - 1, count).astype(np.int64)
    return {name: np.asarray(value) for name, value in rows(chosen).items()}

  return dataclasses.replace(start, sample=sample)


def _has_attention(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> bool:
  """Whether `model` keys have one attention, so that names and shapes agree."""
  if theirs['attention'] != 'shared' or ours['attention'] != 'shared':
    return theirs['attention'] == ours['attention']
  return all(
    theirs.get(key, usual) == ours[key]
    for key, usual in (('role_bias', False), ('residual_rank', 0))
  )


def _as_standard(saved: SavedModel) -> SavedModel:
  return dataclasses.replace(
    saved,
    params=folding.as_standard(saved.params, saved.config),
    config=saved.config.with_attention('standard'),
  )


def _check_sizes(saved: SavedModel, config: BertConfig) -> None:
  theirs = {key: getattr(saved.config, key) for key in _SIZES}
  if any(getattr(config, key) != size for key, size in theirs.items()):
    flags = ' '.join(f'--config.model.{k}={v}' for k, v in theirs.items())
    raise UserError(
      f'init_from={saved.path} is a model of other sizes than this run: add '
      f'{flags}'
    )
  if saved.config.pre_norm:
    raise UserError(
      f'init_from={saved.path} was trained with model.pre_norm=True, and its '
      f'{saved.config.attention} attention is not brought to another: set '
      'model.attention and the other model keys as they were in that run.'
    )
  if config.pre_norm:
    raise UserError(
      f'init_from={saved.path} has its LayerNorms after each sub-layer: leave '
      'model.pre_norm=False.'
    )
  for key in ('type_vocab_size', 'layer_norm_epsilon'):
    theirs_is, ours = getattr(saved.config, key), getattr(config, key)
    if theirs_is != ours:
      raise UserError(
        f'init_from={saved.path} has {key}={theirs_is}, and only {ours} can be '
        'trained here: start from another model.'
      )


def _told(saved: SavedModel, errors: np.ndarray) -> str:
  lines = [
    f'fitted      shared attention to {saved.path}; of the squares is lost',
    f'{"":12}{"layer":>5}' + ''.join(f'{role:>9}' for role in ROLES),
  ]
  for number, row in enumerate(errors):
    shares = ''.join(f'{error:>9.1%}' for error in row)
    lines.append(f'{"":12}{number:>5}{shares}')
  return '\n'.join(lines)
