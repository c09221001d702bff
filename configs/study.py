"""The study: attention mechanisms compared, from pre-training to robustness.

  python -m shared_bert.study --config=configs/study.py:size=tiny \
    --config.pretrain.data.corpus=corpus --config.finetune.data.source=local \
    --config.finetune.data.glue_dir=glue --config.tasks="('cola','mnli')" \
    --workdir=runs/study --config.workers=2

After the colon may stand `size`, and `hours` of a pre-training in place of
BERT's steps. The corpus is what `shared_bert.prepare` wrote, the tasks are
those of `config.tasks`: docs/guides/study.md has all of it. `--plan` prints
cells and hours and ends.
"""

from shared_bert import config as config_lib
from shared_bert import recipes
from shared_bert.study import settings


def get_config(arg=None):
  """The config; `arg` may name `size` and `hours`."""
  args = config_lib.parse_arg(arg, size='base', hours=0.0)
  config = settings.study_defaults()
  for name in ('pretrain', 'finetune', 'squad1', 'squad2'):
    part = config[name]
    part.model.size = args.size
  train = config.pretrain.train
  # Devlin et al. 2019, appendix A.2; configs/pretrain.py has the sources.
  train.steps, train.batch_size, train.warmup_steps = 1_000_000, 256, 10_000
  train.learning_rate = recipes.PRETRAINING_RATES.get(args.size, 1e-4)
  if args.hours:
    train.steps, train.hours = None, args.hours
    train.warmup_steps, train.warmup_ratio = None, 0.01
  return config
