"""Pre-training on masked words, by a published recipe.

  python -m shared_bert.prepare --input='text/*.txt' --output=corpus \
    --vocab_size=30522 --seq_len=128
  python -m shared_bert.main --config=configs/pretrain.py:size=base \
    --config.data.corpus=corpus --workdir=runs/pretrain-base

After the colon may stand `size`, `attention`, one of `steps`, `tokens` and
`hours` in place of the recipe's own budget, and `recipe`:

- `bert` (the default): Devlin et al. 2019. 1,000,000 steps of 256 rows. Their
  90 % of the steps at 128 tokens and 10 % at 512 are two corpora:
  `--config.data.corpus=corpus-128,corpus-512 --config.data.seq_len=512`.
- `cramming`: Geiping and Goldstein 2022 (arXiv 2212.14034), in the last version
  of their code: 24 hours, at a rate that follows the clock, with a batch that
  grows to 8,192 rows of 128 tokens. Their training, not their model: that has
  gated feed-forward layers, no biases and fixed positions, 16 layers deep.
- `symmetric2024`: Courtois et al. 2024 (arXiv 2406.06366). 200,000 steps of 256
  rows of 512 tokens; their three models are `attention=standard`, `symmetric`
  and `pairwise`.

What a recipe does not set is BERT's, in `shared_bert/config.py`: next-sentence
prediction is for corpora that have pairs.
"""

from shared_bert import config as config_lib
from shared_bert import recipes
from shared_bert.errors import UserError


def bert(config):
  """Devlin et al. 2019, appendix A.2; google-research/bert, optimization.py."""
  train = config.train
  train.steps = 1_000_000  # appendix A.2
  train.batch_size = 256  # appendix A.2
  train.learning_rate = recipes.PRETRAINING_RATES.get(config.model.size, 1e-4)
  train.schedule = 'linear'  # appendix A.2: "linear decay"
  train.warmup_steps = 10_000  # appendix A.2
  train.warmup_ratio = 0.01  # where steps are not counted: the same share
  train.beta1, train.beta2 = 0.9, 0.999  # appendix A.2
  train.weight_decay = 0.01  # appendix A.2
  train.epsilon = 1e-6  # optimization.py
  train.clip_norm = 1.0  # optimization.py
  config.model.hidden_dropout = 0.1  # appendix A.2: "on all layers"
  config.model.attention_dropout = 0.1  # modeling.py
  config.data.mask_ratio = 0.15  # section 3.1


def cramming(config):
  """github.com/JonasGeiping/cramming, cramming/config, commit 38d65b69."""
  train = config.train
  train.hours = 24.0  # the paper's title; of training, without compiling
  train.batch_size = 8_192  # train/bert-o4.yaml
  train.accumulation = 64  # micro-batches of 128 rows: impl/_default.yaml
  # train/bert-o4.yaml: grows in a line from one micro-batch to the whole at
  # 60 % of the time. Doubled, as each size is a compilation: ours.
  train.ramp_batch_size, train.ramp_ratio = 128, 0.6
  train.learning_rate = 1e-3  # train/bert-o4.yaml
  # budget-triangle2 (backend/optimizers/schedulers.py): from a quarter of the
  # rate up to all of it at 75 % of the time, then in a line to 0.
  train.schedule = 'linear'
  train.warmup_ratio, train.warmup_from = 0.75, 0.25
  train.beta1, train.beta2 = 0.9, 0.98  # train/optim/adam.yaml
  train.epsilon = 1e-12  # train/optim/adam.yaml
  train.weight_decay = 0.01  # train/bert-o4.yaml
  train.clip_norm = 0.5  # train/bert-o4.yaml
  config.model.pre_norm = True  # arch/crammed-bert.yaml
  # train/bert-o4.yaml, pretrain_in_train_mode: no dropout in pre-training.
  config.model.hidden_dropout = config.model.attention_dropout = 0.0
  config.data.mask_ratio = 0.25  # train/bert-o4.yaml
  config.data.seq_len = 128  # arch/crammed-bert.yaml


def symmetric2024(config):
  """github.com/mcrts/ACL2024-SymmetricAttentionBert, acl2024/bert_base.sh."""
  train = config.train
  train.steps = 200_000
  train.batch_size = 256  # 2 GPUs, 64 rows each, 2 micro-batches
  train.learning_rate = 1e-4  # of their base and their small model
  train.schedule = 'linear'  # the default of Hugging Face's Trainer
  train.warmup_steps = 10_000
  train.warmup_ratio = 0.05  # where steps are not counted: the same share
  train.beta1, train.beta2 = 0.9, 0.999
  train.epsilon = 1e-12
  train.weight_decay = 0.01
  train.clip_norm = 1.0  # the default of Hugging Face's Trainer
  config.model.hidden_dropout = config.model.attention_dropout = 0.1
  config.data.mask_ratio = 0.15  # the default of Hugging Face's run_mlm
  config.data.seq_len = 512


RECIPES = {f.__name__: f for f in (bert, cramming, symmetric2024)}


def get_config(arg=None):
  """The config; `arg` may name what the docstring above says."""
  args = config_lib.parse_arg(
    arg,
    recipe='bert',
    size='base',
    attention='shared',
    steps=0,
    tokens=0.0,
    hours=0.0,
  )
  if args.recipe not in RECIPES:
    raise UserError(
      f'recipe={args.recipe} is not known: use one of {", ".join(RECIPES)}.'
    )
  config = config_lib.pretrain_defaults()
  config.model.size = args.size
  config.model.attention = args.attention
  RECIPES[args.recipe](config)
  train = config.train
  budget = {k: args[k] for k in ('steps', 'tokens', 'hours') if args[k]}
  if budget:
    train.steps = train.hours = None
    train.update(budget)
  if train.steps is None:
    train.warmup_steps = None  # warmup_ratio counts
  # Ours: how a run is watched and kept.
  train.log_every = 100
  train.eval_every = 5_000
  train.checkpoint_every = 1_000
  return config
