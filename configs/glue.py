"""Fine-tuning on GLUE: one task, or all nine.

  python -m shared_bert.main --config=configs/glue.py:task=mrpc \
    --config.init_from=runs/pretrain-base --workdir=runs/mrpc
  python -m shared_bert.main --config=configs/glue.py:task=all \
    --config.init_from=runs/pretrain-base --config.seeds=0,1,2 \
    --workdir=runs/glue

Without internet, add `--config.data.source=local --config.data.glue_dir=glue`,
a folder in the layout of the official archives. The model's keys must be those
of the pre-training run. Epochs and learning rate are filled in by task and
size: `shared_bert/recipes.py`.
"""

from shared_bert import config as config_lib


def get_config(arg=None):
  """The config; `arg` may name `task`, `size` and `attention`."""
  return config_lib.glue_config(arg)
