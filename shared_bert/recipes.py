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
# Of small sets some seeds fail in 3 epochs, and hardly any do in 20 with
# Adam's bias correction and a warm-up of a tenth, which are the defaults:
# Mosbach et al. 2021 (arXiv 2006.04884), section 6; Zhang et al. 2021 (arXiv
# 2006.05987).
_SMALL_SETS = dict.fromkeys(('cola', 'mrpc', 'stsb', 'rte'), {'epochs': 20.0})
_BY_TASK = _SMALL_SETS | {
  'wnli': {'epochs': 5.0},
  # The README of google-research/bert, the command for SQuAD 1.1.
  'squad': {'learning_rate': 3e-5, 'epochs': 2.0},
}

# Smaller ones: the README of google-research/bert, "24 smaller BERT models"
# (Turc et al. 2019, arXiv 1908.08962): 4 epochs, and a rate from 3e-4, 1e-4,
# 5e-5 and 3e-5 picked for each task. The choice by size below is ours.
_SMALL_SIZES = {
  'tiny': 3e-4,
  'mini': 3e-4,
  'small': 1e-4,
  'medium': 1e-4,
}


# Peak learning rates of pre-training. base and large: Devlin et al. 2019,
# appendix A.2. The others: chosen by us for short runs, not tuned.
PRETRAINING_RATES = {
  'tiny': 1e-3,
  'mini': 1e-3,
  'small': 5e-4,
  'medium': 3e-4,
  'base': 1e-4,
  'large': 1e-4,
}


def settings(task: str, size: str) -> dict[str, float]:
  """`learning_rate` and `epochs` of a task at a size.

  Args:
    task: a GLUE task or `squad`; others have the settings that most tasks have.
    size: `model.size`.
  """
  if size in _SMALL_SIZES:
    small = {'learning_rate': _SMALL_SIZES[size], 'epochs': 4.0}
    return small | _SMALL_SETS.get(task, {})
  return _FULL_SIZE | _BY_TASK.get(task, {})


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


def packs(data: ConfigDict) -> bool:
  """Whether examples of a batch share rows, by the `data` of fine-tuning."""
  return data.get('packing', False) is not False
