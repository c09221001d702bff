"""What a run starts from: a checkpoint of ours, or a BERT of others."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from shared_bert.errors import UserError
from shared_bert.interop.fitting import ROLES, fit_shared
from shared_bert.interop.opening import open_foreign
from shared_bert.interop.saved import SavedModel, maker_of
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


@dataclasses.dataclass(frozen=True)
class Imported(Checkpoint):
  """A BERT of others, as jobs take a checkpoint to start from.

  Attributes:
    saved: with standard attention and no more rows than its vocabulary.
    config: of the model that starts from it, standard or shared.
  """

  saved: SavedModel
  config: BertConfig

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
    fit = fit_shared(
      self.saved.params,
      role_bias=self.config.role_bias,
      residual_rank=self.config.residual_rank,
    )
    say(_told(self.saved, fit.errors))
    return fit.params


def open_start(path: str, model: Mapping[str, Any]) -> Checkpoint:
  """Opens what `init_from` names.

  Args:
    path: a workdir or checkpoint of ours, or a BERT of others (`open_foreign`).
    model: the config's `model` keys. A BERT of others is taken as it is into
      `standard` attention, and fitted to `shared`, with the errors said.

  Returns:
    The checkpoint.

  Raises:
    UserError: there is none, it is damaged, or has other sizes or an attention
      that it cannot be brought to.
  """
  saved = open_foreign(path)
  if saved is None:
    return open_checkpoint(path)
  config = BertConfig.of_keys(model, saved.tokenizer.vocab_size, 'float32')
  _check_sizes(saved, config)
  if config.attention not in ('standard', 'shared'):
    raise UserError(
      f'init_from={saved.path} has standard attention, which is taken over '
      'into model.attention=standard or fitted to shared, not to '
      f'{config.attention}.'
    )
  params = abstract(maker_of(saved.head, config, saved.num_outputs))
  return Imported(
    path=saved.path,
    step=0,
    metadata={'tokenizer_sha256': saved.tokenizer.sha256},
    metrics={},
    versions={},
    leaves=state_io.leaf_types({'params': params}),
    saved=dataclasses.replace(saved, params=_cut_to_vocabulary(saved)),
    config=config,
  )


def _check_sizes(saved: SavedModel, config: BertConfig) -> None:
  theirs = {key: getattr(saved.config, key) for key in _SIZES}
  if any(getattr(config, key) != size for key, size in theirs.items()):
    flags = ' '.join(f'--config.model.{k}={v}' for k, v in theirs.items())
    raise UserError(
      f'init_from={saved.path} is a model of other sizes than this run: add '
      f'{flags}'
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


def _cut_to_vocabulary(saved: SavedModel) -> dict[str, Any]:
  """Without the rows that no token has: tables are often padded."""
  size = saved.tokenizer.vocab_size
  encoder = saved.params['encoder']
  word = {'embedding': encoder['embeddings']['word']['embedding'][:size]}
  params = saved.params | {
    'encoder': encoder | {'embeddings': encoder['embeddings'] | {'word': word}}
  }
  if 'decoder_bias' in params:
    params['decoder_bias'] = params['decoder_bias'][:size]
  return params


def _told(saved: SavedModel, errors: np.ndarray) -> str:
  lines = [
    f'fitted      shared attention to {saved.path}; of the squares is lost',
    f'{"":12}{"layer":>5}' + ''.join(f'{role:>9}' for role in ROLES),
  ]
  for number, row in enumerate(errors):
    shares = ''.join(f'{error:>9.1%}' for error in row)
    lines.append(f'{"":12}{number:>5}{shares}')
  return '\n'.join(lines)
