"""Fine-tuning settings by task and by size, each with its source.

A setting that a config leaves at None is filled in from here, so that one
config can run all nine tasks, and a flag still wins.
"""

from ml_collections import ConfigDict

# BERT-size models: the README of Hugging Face's run_glue.py
# (transformers/examples/pytorch/text-classification), whose rate, batch and
# epochs lie in the grid of Devlin et al. 2019, appendix A.3: 2e-5, 3. (Their
# batch, 32, is the default of `config.py`.)
_FULL_SIZE = {'learning_rate': 2e-5, 'epochs': 3.0}
_EPOCHS = {'mrpc': 5.0, 'wnli': 5.0}

# Smaller ones: the README of google-research/bert, "24 smaller BERT models"
# (Turc et al. 2019, arXiv 1908.08962): 4 epochs, and a rate from 3e-4, 1e-4,
# 5e-5 and 3e-5 picked for each task. The choice by size below is ours.
_SMALL_SIZES = {
  'tiny': 3e-4,
  'mini': 3e-4,
  'small': 1e-4,
  'medium': 1e-4,
}


def settings(task: str, size: str) -> dict[str, float]:
  """`learning_rate` and `epochs` of a task at a size.

  Args:
    task: a GLUE task; others have the settings that most tasks have.
    size: `model.size`.
  """
  if size in _SMALL_SIZES:
    return _FULL_SIZE | {'learning_rate': _SMALL_SIZES[size], 'epochs': 4.0}
  return _FULL_SIZE | {'epochs': _EPOCHS.get(task, _FULL_SIZE['epochs'])}


def fill_in(config: ConfigDict) -> ConfigDict:
  """Sets what `train` leaves open, in place.

  Args:
    config: of a fine-tuning run. `train.epochs` stays open where `train.steps`
      is set.

  Returns:
    The same config.
  """
  train = config.train
  for key, value in settings(config.data.task, config.model.size).items():
    if train[key] is None and not (key == 'epochs' and train.steps is not None):
      train[key] = value
  return config
