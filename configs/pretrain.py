"""Pre-training on masked words.

  python -m shared_bert.prepare --input='text/*.txt' --output=corpus \
    --vocab_size=30522 --seq_len=128
  python -m shared_bert.main --config=configs/pretrain.py:size=base \
    --config.data.corpus=corpus --workdir=runs/pretrain-base

Peak learning rate, warm-up, batch and steps are BERT's (Devlin et al. 2019,
appendix A.2); the small sizes take a higher rate.
"""

from shared_bert import config as config_lib

# Peak learning rates. base and large: Devlin et al. 2019, appendix A.2. The
# others: chosen by us for short runs, not tuned.
LEARNING_RATES = {
  'tiny': 1e-3,
  'mini': 1e-3,
  'small': 5e-4,
  'medium': 3e-4,
  'base': 1e-4,
  'large': 1e-4,
}


def get_config(arg=None):
  """The config; `arg` may name `size` and `attention`."""
  args = config_lib.parse_arg(arg, size='base', attention='shared')
  config = config_lib.pretrain_defaults()
  config.model.size = args.size
  config.model.attention = args.attention
  config.train.steps = 1_000_000
  config.train.batch_size = 256
  config.train.warmup_steps = 10_000
  config.train.learning_rate = LEARNING_RATES.get(args.size, 1e-4)
  config.train.log_every = 100
  config.train.eval_every = 5_000
  config.train.checkpoint_every = 1_000
  return config
