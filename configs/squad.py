"""Fine-tuning on SQuAD, version 1.1 or 2.0, from its own JSON files.

  python -m shared_bert.main --config=configs/squad.py \
    --config.data.train_file=train-v1.1.json \
    --config.data.dev_file=dev-v1.1.json \
    --config.init_from=runs/pretrain-base --workdir=runs/squad

The file says which version it is. The encoder needs positions for rows of 384
tokens, or set `--config.data.seq_len` to what it has. The files are not
fetched: TensorFlow Datasets' `squad` is not read. The official dev sets are
scored by the rules of the official scripts, in per cent.
"""

from shared_bert import config as config_lib
from shared_bert import span_config


def get_config(arg=None):
  """The config; `arg` may name `size` and `attention`."""
  args = config_lib.parse_arg(arg, size='base', attention='shared')
  config = span_config.squad_defaults()
  config.model.size = args.size
  config.model.attention = args.attention
  return config
