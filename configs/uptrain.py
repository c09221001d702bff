"""Up-training: a BERT that was trained otherwise learns shared attention.

  python -m shared_bert.main --config=configs/uptrain.py:size=base \
    --config.init_from=./bert-base-uncased --config.data.corpus=corpus \
    --workdir=runs/uptrain

`init_from` is a folder of Hugging Face's BERT or a run of this project, the
corpus is prepared with its vocabulary, `--vocab=./bert-base-uncased/vocab.txt`.
The model begins with the shared attention that comes nearest to it on rows of
the corpus, and goes on training on masked words. Step 0 shows the held-out loss
of both: `heldout` of that beginning, `original` of the model as it was.

After the colon may stand `size`, `attention`, `steps`, `distill` (the share of
the loss that is learnt from the predictions of the model as it was; 0: none)
and `rank` (of a matrix that each role adds to its shared one; 0: none). Where
the model was trained on this corpus before, set another `seed` than it had.

Measured on a model of 6 layers of 384, 300 steps of 16 rows of 64 tokens, 17 to
27 minutes on a CPU core, one seed (docs/results.md): held-out loss 4.97 of a
standard model trained on, 5.05 of rank=64, 5.87 of distill=0.7, 6.23 of shared
attention alone, still falling.
"""

from ml_collections.config_dict import placeholder

from shared_bert import config as config_lib


def get_config(arg=None):
  """The config; `arg` may name what the docstring above says."""
  args = config_lib.parse_arg(
    arg, size='base', attention='shared', steps=50_000, distill=0.0, rank=0
  )
  config = config_lib.pretrain_defaults()
  config.init_from = placeholder(str)  # to be named
  config.model.size = args.size
  config.model.attention = args.attention
  config.model.residual_rank = args.rank
  config.model.role_bias = args.rank > 0
  train = config.train
  # Ainslie et al. 2023 (arXiv 2305.13245), section 3.1: 5 % of the steps of
  # pre-training, with its other settings; those of BERT, as in pretrain.py.
  train.steps = args.steps
  train.batch_size = 256
  train.learning_rate = 1e-4
  train.warmup_ratio = 0.02
  train.distill_weight = args.distill
  # Ours: how a run is watched and kept.
  train.log_every = 100
  train.eval_every = 1_000
  train.checkpoint_every = 1_000
  return config
