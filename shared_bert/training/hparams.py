"""What TensorBoard's HParams tab compares runs by.

The tab reads two records of a run: its hyper-parameters when it starts, its
status when it ends. No run has a record of an experiment, which would list the
columns: TensorBoard takes the first that it finds for all runs, of other tasks
too. Without one, the columns are all scalars there are. The tab shows first the
settings that differ, and of the metrics the first five by name, so the names of
what is no result (`token_attention_entropy/…`, `train/…`) sort behind those of
the splits that are evaluated (`dev/…`, `heldout/…`, `test/…`).
"""

from typing import Any

from shared_bert.training.workdir import flatten

# What runs are told apart by; config.json has the rest.
COMPARED_KEYS = (
  'job',
  'seed',
  'data.task',
  'data.seq_len',
  'model.attention',
  'model.size',
  'model.diagonal_init',
  'model.role_bias',
  'model.residual_rank',
  'model.pairwise_init',
  'model.pre_norm',
  'model.hidden_dropout',
  'train.epochs',
  'train.steps',
  'train.batch_size',
  'train.optimizer',
  'train.learning_rate',
  'train.diagonal_learning_rate_scale',
  'train.schedule',
  'train.weight_decay',
)

# Of `Status` in tensorboard/plugins/hparams/api.proto.
_STATUS_SUCCESS = 1


def compared(config: dict) -> dict[str, int | float | str | bool]:
  """The settings that runs are compared by.

  Args:
    config: plain nested dict.

  Returns:
    Dotted key to value, without those that are None or not there.
  """
  flat = flatten(config)
  return {key: flat[key] for key in COMPARED_KEYS if flat.get(key) is not None}


def session_start(config: dict) -> Any:
  """The record of a run that starts; wants TensorBoard and TensorFlow.

  Args:
    config: plain nested dict.

  Returns:
    A TensorBoard `Summary` of one value.
  """
  from tensorboard.plugins.hparams import api

  # Without a name runs of equal settings are grouped into one row, averaged.
  # An empty one gives each folder a row of its own, under its path.
  return api.hparams_pb(compared(config), trial_id='')


def session_end() -> Any:
  """The record of a run that is done; wants TensorBoard and TensorFlow.

  TensorBoard keeps the first one it finds, so a run that may yet be resumed
  has none.

  Returns:
    A TensorFlow `Summary` of one value.
  """
  from tensorboard.plugins.hparams import summary

  return summary.session_end_pb(_STATUS_SUCCESS)
