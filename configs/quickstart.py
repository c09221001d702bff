"""The whole way in minutes, on embedded data: `make quickstart`.

  python -m shared_bert.main --config=configs/quickstart.py

Pre-trains and fine-tunes a tiny BERT on a small English grammar, once with
shared and once with standard attention, and prints both.

Unseen compositions, three seeds (docs/results.md): 96.3 ± 0.9 % with shared,
97.5 ± 0.8 % with standard attention; majority class 33.3 %. Time, compilation
included, on an idle 2-core x86-64 machine: 145 s, 228 CPU seconds.
"""

from shared_bert import config as config_lib
from shared_bert import quickstart_config


def get_config(arg=None):
  """The config; it takes no argument after the colon."""
  config_lib.parse_arg(arg)
  config = quickstart_config.quickstart_defaults()
  pretrain, finetune = config.pretrain, config.finetune

  pretrain.data.seq_len = 32
  pretrain.train.steps = 300
  pretrain.train.batch_size = 64
  pretrain.train.learning_rate = 2e-3

  finetune.data.seq_len = 12
  finetune.data.length_buckets = (12,)
  finetune.train.steps = 1_000
  # Small batches: each slot of the sentence is found in a jump of its own,
  # which takes updates rather than examples.
  finetune.train.batch_size = 32
  finetune.train.learning_rate = 3e-4
  finetune.train.eval_every = 1_000

  for part in (pretrain, finetune):
    part.train.checkpoint_every = 0
    part.model.max_positions = 64
    # Three slots to compare, and self-scores that do not outweigh the others:
    # docs/results.md, "The embedded language".
    part.model.num_heads = 4
    part.model.diagonal_init = 'signs'
    # At width 128 what 0.02 is at base's 768: 0.02 * sqrt(768 / 128).
    part.model.initializer_range = 0.05
    # A short run underfits; dropout would only slow it.
    part.model.hidden_dropout = 0.0
    part.model.attention_dropout = 0.0
  return config
