"""Refuses settings of training that cannot work: budget, stages, schedule."""

import copy
import math
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ml_collections import ConfigDict

from shared_bert import config as config_lib
from shared_bert import recipes
from shared_bert.errors import UserError
from shared_bert.training.phases import Part
from shared_bert.training.schedules import check_optimizer, schedule_of_config

if TYPE_CHECKING:
  from shared_bert.data.corpus import Corpus

# How long a run is: one of them.
_BUDGETS = ('steps', 'epochs', 'tokens', 'hours')


def budgets(config: ConfigDict) -> dict[str, float]:
  """How long a run is, by key of `train`: those that are set."""
  found = {key: config.train.get(key) for key in _BUDGETS}
  return {
    f'train.{key}': value for key, value in found.items() if value is not None
  }


def validate_train(config: ConfigDict) -> None:
  """Refuses a budget, optimiser or schedule that cannot be.

  Args:
    config: of a run, whose stages are validated.

  Raises:
    UserError: naming the key and the mend.
  """
  train = config.train
  _check_budget(config)
  for part in config_lib.parts_of(config):
    if part.batch_size % part.accumulation:
      raise UserError(
        f'train.batch_size={part.batch_size} cannot be cut into '
        f'train.accumulation={part.accumulation} equal parts'
        + (f', in stage {part.stage}.' if part.stage else '.')
      )
  try:
    re.compile(train.no_decay)
  except re.error as error:
    raise UserError(
      f'train.no_decay={train.no_decay!r} is not a regular expression: {error}.'
    ) from error
  check_optimizer(train.optimizer)
  # Where the steps are not known yet, the warm-up's share is not either.
  by_clock = train.get('hours') is not None
  warmup = train.warmup_ratio
  if train.steps is not None or by_clock:
    warmup = config_lib.warmup_of(config, train.steps)
  elif train.warmup_steps:
    warmup = 1e-9
  probe = copy.deepcopy(train)
  probe.learning_rate = 1.0  # fine-tuning may leave it open
  schedule_of_config(probe, warmup)
  if by_clock and train.warmup_steps:
    raise UserError(
      f'train.warmup_steps={train.warmup_steps} counts steps, and with '
      'train.hours nobody knows how many there will be: set '
      'train.warmup_ratio in its place.'
    )


def _check_budget(config: ConfigDict) -> None:
  given = budgets(config)
  if len(given) > 1:
    first, second, *_ = (
      f'{key}={value:{"," if isinstance(value, int) else "g"}}'
      for key, value in given.items()
    )
    raise UserError(
      f'{first} and {second} both say how long to train: leave one of them '
      'open, as None in the config. configs/pretrain.py takes a budget in its '
      'place after the colon, such as :tokens=1e9.'
    )


def validate_stages(config: ConfigDict) -> None:
  """Refuses stages and a ramp of the batch that do not fit together.

  Args:
    config: of a pre-training run.

  Raises:
    UserError: naming the key and the mend.
  """
  train, corpora = config.train, config_lib.corpora_of(config)
  if not all(corpora) and config.data.corpus:
    raise UserError(
      f'data.corpus={config.data.corpus} names a folder without a name: write '
      'one comma between two.'
    )
  for key in ('stage_shares', 'stage_batch_sizes', 'stage_accumulations'):
    values = tuple(train[key])
    if values and len(values) != len(corpora):
      raise UserError(
        f'train.{key}={values} has {len(values)} values, and data.corpus names '
        f'{len(corpora)}: give one for each corpus.'
      )
    if any(value <= 0 for value in values):
      raise UserError(f'train.{key}={values} must all be above 0.')
  shares = tuple(train.stage_shares)
  if len(corpora) > 2 and not shares:
    raise UserError(
      f'data.corpus names {len(corpora)} corpora: set train.stage_shares, the '
      'share of the steps on each.'
    )
  if shares and not math.isclose(sum(shares), 1, abs_tol=1e-6):
    raise UserError(
      f'train.stage_shares={shares} must add up to 1, not {sum(shares):g}.'
    )
  if len(corpora) > 1 and train.epochs is not None:
    raise UserError(
      f'train.epochs={train.epochs:g} does not say of which of '
      f'{len(corpora)} corpora: set train.steps, train.tokens or train.hours.'
    )
  _check_ramp(train, shares[0] if shares else (1.0, 0.9)[len(corpora) > 1])


def _check_ramp(train: ConfigDict, first_share: float) -> None:
  start, ratio = train.ramp_batch_size, train.ramp_ratio
  full = (*train.stage_batch_sizes, train.batch_size)[0]
  if bool(start) != bool(ratio):
    raise UserError(
      f'train.ramp_batch_size={start} and train.ramp_ratio={ratio:g} go '
      'together: set both, or leave both 0.'
    )
  if start and start >= full:
    raise UserError(
      f'train.ramp_batch_size={start} must be below the batch that it grows '
      f'to, {full}.'
    )
  if start and ratio > first_share:
    raise UserError(
      f'train.ramp_ratio={ratio:g} ends after the first stage, which has '
      f'{first_share:g} of the run: lower it.'
    )


def check_finetuning(config: ConfigDict) -> None:
  """Refuses a vocabulary, seeds or lengths that cannot be, of any task.

  Args:
    config: of a fine-tuning run.

  Raises:
    UserError: naming the key and the mend.
  """
  data = config.data
  if data.vocab and (config.init_from or data.source == 'toy'):
    raise UserError(
      f'data.vocab={data.vocab} is only read where a model starts from '
      'nothing: a checkpoint has its vocabulary, and so has the toy. Leave it '
      'out.'
    )
  if len(set(config.seeds)) != len(config.seeds):
    raise UserError(f'seeds={tuple(config.seeds)} names a seed twice.')
  if any(not 0 <= seed < 2**32 for seed in config.seeds):
    raise UserError(
      f'seeds={tuple(config.seeds)} must be from 0 to 4294967295.'
    )
  if list(data.length_buckets) != sorted(set(data.length_buckets)) or (
    data.length_buckets and data.length_buckets[0] < 1
  ):
    raise UserError(
      f'data.length_buckets={tuple(data.length_buckets)} must rise from short '
      'to long, from 1 on.'
    )
  if config.seeds_together:
    _check_together(config)


def _check_together(config: ConfigDict) -> None:
  """Refuses what seeds that train in one step cannot do.

  Raises:
    UserError: naming the key and the mend.
  """
  data, train = config.data, config.train
  if len(config.seeds) < 2:
    raise UserError(
      'seeds_together trains several seeds in one step: name them, such as '
      'seeds=0,1,2, or leave it out.'
    )
  fresh = not (config.init_from or data.vocab or data.source == 'toy')
  for is_set, key, why in (
    (train.early_stopping, 'train.early_stopping', 'each would stop elsewhere'),
    (
      train.on_nonfinite == 'rewind',
      'train.on_nonfinite=rewind',
      'each would skip other batches',
    ),
    (
      config.get('from_mnli', False),
      'from_mnli',
      'each would start at another model',
    ),
    (config.mesh.fsdp != '1', 'mesh.fsdp', 'their parameters are not spread'),
    (
      config.model.attention_backend not in ('auto', 'xla'),
      f'model.attention_backend={config.model.attention_backend}',
      'its kernel has rows of one model',
    ),
    (
      fresh,
      'a vocabulary made of the training texts',
      'each would make another one; set init_from or data.vocab',
    ),
  ):
    if is_set:
      raise UserError(
        f'seeds_together does not go with {key}: {why}. Leave one of the two '
        'out.'
      )


def check_shares(config: ConfigDict, num_devices: int) -> None:
  """Refuses batches that the devices cannot share equally.

  Args:
    config: of a run, validated.
    num_devices: of all processes.

  Raises:
    UserError: naming the key, with the nearest sizes that work.
  """
  # Imported late: the mesh wants Flax.
  from shared_bert.training.mesh import check_batch_size

  for part in config_lib.parts_of(config):
    check_batch_size(
      _batch_key(config.train, part),
      part.batch_size,
      num_devices,
      part.accumulation,
    )
  if 'eval_batch_size' in config.data:
    check_batch_size(
      'data.eval_batch_size', config.data.eval_batch_size, num_devices
    )


def check_backend(
  config: ConfigDict, platform: str, corpora: 'Sequence[Corpus]' = ()
) -> None:
  """Refuses an attention backend that devices or rows do not allow.

  Args:
    config: of a run, validated.
    platform: of the devices: `cpu`, `gpu` or `tpu`.
    corpora: of a pre-training run, once they are open.

  Raises:
    UserError: naming the key and the mend.
  """
  # Imported late: the backends want Flax.
  from shared_bert.model import backends

  data = config.data
  if 'mask_ratio' not in data:  # fine-tuning
    packed = recipes.packs(data)
  elif data.source == 'toy':  # one document a row
    packed = False
  else:
    packed = bool(data.text) or not all(c.has_pairs for c in corpora)
  model = config_lib.model_config(config, 1000, platform)  # any vocabulary
  backends.check(model, platform, packed)


def _batch_key(train: ConfigDict, part: Part) -> str:
  """The key that a part's rows a step come from, for messages."""
  # Fine-tuning has no stages.
  if part.batch_size in (train.get('stage_batch_sizes') or ()):
    return 'train.stage_batch_sizes'
  same = part.batch_size == train.batch_size
  return 'train.batch_size' if same else 'train.ramp_batch_size'
