"""Fine-tuning on data of your own: CSV, TSV or JSON lines.

  python -m shared_bert.main --config=configs/own.py \
    --config.data.train_file=train.csv --config.data.dev_file=dev.csv \
    --config.data.text_columns="('question','answer')" \
    --config.data.label_column=label --config.init_from=runs/pretrain-base \
    --workdir=runs/own

One text column or two; labels are classes, or numbers with
`--config.data.regression=True`. Numbers are trained on as they are: bring them
near 1. A `data.test_file` without labels is predicted.
"""

from shared_bert import config as config_lib


def get_config(arg=None):
  """The config; `arg` may name `size` and `attention`."""
  args = config_lib.parse_arg(arg, size='base', attention='shared')
  config = config_lib.finetune_defaults()
  config.data.source = 'files'
  config.data.task = 'own'
  config.model.size = args.size
  config.model.attention = args.attention
  return config
