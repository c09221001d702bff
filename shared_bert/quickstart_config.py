"""The keys of the quickstart: those of two jobs, and what it compares."""

from ml_collections import ConfigDict

from shared_bert import config as config_lib


def quickstart_defaults() -> ConfigDict:
  """Pre-training and fine-tuning of several mechanisms, side by side."""
  pretrain = config_lib.pretrain_defaults()
  finetune = config_lib.finetune_defaults()
  for config in (pretrain, finetune):
    config.data.source = 'toy'
    config.model.size = 'tiny'
  finetune.data.task = 'toy'
  return ConfigDict(
    {
      'job': 'quickstart',
      'attentions': ('shared', 'standard'),
      'pretrain': pretrain,
      'finetune': finetune,
    }
  )
