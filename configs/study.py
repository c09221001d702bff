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
from shared_bert.study import settings


def get_config(arg=None):
  """The config; `arg` may name `size` and `hours`."""
  args = config_lib.parse_arg(arg, size='base', hours=0.0)
  return settings.study_at(args.size, args.hours)
