"""The whole way in minutes, on embedded data: `make quickstart`.

  python -m shared_bert.main --config=configs/quickstart.py

Pre-trains and fine-tunes a tiny BERT on a small English grammar, once with
shared and once with standard attention, and prints both.
"""

from shared_bert import config as config_lib


def get_config(arg=None):
  """The config; it takes no argument after the colon."""
  config_lib.parse_arg(arg)
  config = config_lib.quickstart_defaults()
  pretrain, finetune = config.pretrain, config.finetune

  pretrain.data.seq_len = 32
  pretrain.train.steps = 300
  pretrain.train.batch_size = 64
  pretrain.train.learning_rate = 2e-3

  finetune.data.seq_len = 16
  finetune.data.length_buckets = (16,)
  finetune.train.epochs = 1.0
  finetune.train.batch_size = 64
  finetune.train.learning_rate = 1e-3

  for part in (pretrain, finetune):
    part.train.checkpoint_every = 0
    part.model.max_positions = 64
    # A short run underfits; dropout would only slow it.
    part.model.hidden_dropout = 0.0
    part.model.attention_dropout = 0.0
  return config
