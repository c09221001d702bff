"""Fine-tuning on one GLUE task, from a folder of the official files.

  python -m shared_bert.main --config=configs/glue.py:task=mrpc \
    --config.data.glue_dir=glue --config.init_from=runs/pretrain-base \
    --workdir=runs/mrpc

The model's keys must be those of the pre-training run. Batch, epochs and
learning rate are from BERT's grid (Devlin et al. 2019, section 4.1 and
appendix A.3).
"""

from shared_bert import config as config_lib


def get_config(arg=None):
  """The config; `arg` may name `task`, `size` and `attention`."""
  return config_lib.glue_config('mnli', arg)
