"""Fine-tuning on qqp: `configs/glue.py` with this task.

  python -m shared_bert.main --config=configs/qqp.py \
    --config.init_from=runs/pretrain-base
"""

from shared_bert import config as config_lib


def get_config(arg=None):
  """As `configs/glue.py`; `arg` may name `size` and `attention`."""
  return config_lib.glue_config(arg, task='qqp')
