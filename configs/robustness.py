"""How a fine-tuned model holds under noise and in other domains.

  python -m shared_bert.main --config=configs/robustness.py \
    --config.init_from=runs/cola --workdir=runs/cola-robustness

The task, its data and the length of rows are those of the run. A BERT of
others does not say them: set `--config.data.source=local`,
`--config.data.glue_dir=glue`, `--config.data.task=cola`, or of a model that
answers questions `--config.data.source=files` and a file of SQuAD in
`--config.data.dev_file`, whose questions get the noise. Sets of other domains
lie in `--config.outside.dir`; docs/guides/robustness.md says which there are.
"""

from shared_bert import config as config_lib
from shared_bert import robustness_config


def get_config(arg=None):
  """The config; it takes no argument after the colon."""
  config_lib.parse_arg(arg)
  return robustness_config.robustness_defaults()
