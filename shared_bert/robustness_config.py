"""The keys of `job='robustness'`, their defaults and what they cannot be.

`config.py` and `validation.py` have those of the other jobs; without JAX, too.
"""

import itertools
import os

from ml_collections import ConfigDict

from shared_bert import span_config
from shared_bert.config import finetune_defaults
from shared_bert.data.noise import TEXT_KINDS, TOKENS
from shared_bert.data.outside import OUTSIDE
from shared_bert.errors import UserError

# On looked-up embeddings; the others are in `data/noise.py`.
EMBEDDING = 'embedding'
KINDS = (*TEXT_KINDS, TOKENS, EMBEDDING)

# What says where a task's examples come from. A run says it of itself, so it
# counts together with `data.source` alone.
WHERE = (
  'dir',
  'glue_dir',
  'train_file',
  'dev_file',
  'test_file',
)
# Of own files; those of the run hold where the source is open.
HOW = ('text_columns', 'label_column', 'label_names', 'regression')


def robustness_defaults() -> ConfigDict:
  """How a fine-tuned model holds under noise and in other domains.

  Of fine-tuning's keys there are those that say on what a task's model is
  evaluated.
  """
  config = finetune_defaults()
  config.job = 'robustness'
  for key in (
    'seed',
    'seeds',
    'seeds_together',
    'from_mnli',
    'tensorboard',
    'model',
    'train',
  ):
    del config[key]
  for key in ('vocab', 'vocab_size', 'predict_test'):
    del config.data[key]
  config.data.source = ''  # empty: the data that init_from was trained on
  config.data.task = ''  # empty: the task that init_from was trained on
  config.update(
    {
      'noise': {
        # Of characters, word_drop, word_shuffle, token_replacement, embedding.
        'kinds': KINDS,
        # Shares of what is hit, rising from 0; of embedding the noise's
        # standard deviation as a share of that of the embeddings.
        'levels': (0.0, 0.05, 0.1, 0.2, 0.3, 0.4),
        'seed': 0,  # of the noise and of the resamples
        'resamples': 1000,  # of the examples, for intervals of 95 %
      },
      'outside': {
        'dir': '',  # of sets of other domains, such as mnli/snli_dev.tsv
        'sets': (),  # which of them; empty: all of the task that are there
        # Own labelled files besides, .csv, .tsv or .jsonl (.gz), with the
        # columns of data.text_columns and data.label_column.
        'files': (),
      },
    }
  )
  return config


def as_evaluation(config: ConfigDict) -> ConfigDict:
  """The config of an evaluation on the same data, to be validated as one.

  Args:
    config: of `robustness_defaults`, with changes.

  Raises:
    UserError: for what an evaluation does not have, naming the key and the
      mend.
  """
  if config.job != 'robustness':
    raise UserError(
      f'job={config.job!r} does not go with these keys, which are those of '
      'robustness: leave it, or use another config.'
    )
  if not config.init_from:
    raise UserError(
      'job=robustness needs init_from: the workdir, checkpoint or folder of '
      "Hugging Face's BERT to measure."
    )
  noise, outside, data = config.noise, config.outside, config.data
  levels = tuple(noise.levels)
  rises = all(a < b for a, b in itertools.pairwise(levels))
  if len(levels) < 2 or levels[0] != 0 or not rises or levels[-1] > 1:
    raise UserError(
      f'noise.levels={levels} must rise from 0.0, without noise, to at most '
      '1.0, in two levels or more.'
    )
  for kind in noise.kinds:
    if kind not in KINDS:
      raise UserError(
        f'noise.kinds names {kind!r}, which is not known: use some of '
        f'{", ".join(KINDS)}.'
      )
  for key, values in (
    ('noise.kinds', noise.kinds),
    ('outside.files', outside.files),
  ):
    if len(set(values)) < len(values):
      raise UserError(f'{key}={tuple(values)} names one twice.')
  for name in outside.sets:
    if name not in OUTSIDE:
      raise UserError(
        f'outside.sets names {name!r}, which is not known: there are '
        f'{", ".join(OUTSIDE)}; files of your own go into outside.files.'
      )
  if outside.sets and not outside.dir:
    raise UserError(
      f'outside.sets={tuple(outside.sets)} are looked for in outside.dir, and '
      'that is not set: name the folder that holds them.'
    )
  evaluation = finetune_defaults()
  usual_task = evaluation.data.task
  evaluation.job, evaluation.init_from = 'eval', config.init_from
  evaluation.mesh.update(config.mesh.to_dict())
  evaluation.data.update(data.to_dict())
  if not data.source:
    defaults = finetune_defaults().data
    for key in WHERE:
      if data[key] != defaults[key]:
        raise UserError(
          f'data.{key}={data[key]} is set, and data.source is not, which '
          'leaves the data to init_from: set data.source to tfds, local or '
          'files.'
        )
    evaluation.data.source = 'toy'
  evaluation.data.task = data.task or usual_task
  return evaluation


def with_questions_of(config: ConfigDict, run: dict | None) -> ConfigDict:
  """A config whose data is that of a model of questions, said in full.

  Args:
    config: of `robustness_defaults`, validated; changed in place, its `data`
      to the keys of `span_config.squad_defaults`.
    run: the config of the run that made the model; None of a model of others.

  Returns:
    The same config.

  Raises:
    UserError: where nobody says which file of SQuAD there is, or it is gone,
      and for what no model of questions reads.
  """
  given, usual = config.data, robustness_defaults().data
  data = span_config.squad_defaults().data
  if run is not None:
    data.update({key: run['data'][key] for key in data if key in run['data']})
  for key in ('seq_len', 'length_buckets', 'eval_batch_size'):
    if given[key] != usual[key]:
      data[key] = given[key]
  if given.source:
    data.dev_file, data.dev_questions = given.dev_file, 0
  mend = 'set data.source=files and data.dev_file, such as dev-v1.1.json.'
  if given.source not in ('', 'files') or not data.dev_file:
    raise UserError(
      f'init_from={config.init_from} answers questions, which are in files of '
      f'SQuAD: {mend}'
    )
  if not given.source and not os.path.exists(data.dev_file):
    raise UserError(
      f'data.dev_file={data.dev_file}, on which init_from={config.init_from} '
      f'was evaluated, is not there: {mend}'
    )
  outside = config.outside
  for key, value in (
    ('data.splits', given.splits),
    ('data.test_file', given.test_file),
    ('outside.dir', outside.dir),
    ('outside.sets', outside.sets),
    ('outside.files', outside.files),
  ):
    if value:
      raise UserError(
        f'{key}={value} is of texts with labels, and init_from='
        f'{config.init_from} answers questions: leave it out. Another file of '
        'SQuAD is measured by itself, as data.dev_file.'
      )
  with config.unlocked():
    del config['data']
    config.update({'data': data})
  return config


def with_data_of(config: ConfigDict, run: dict | None) -> ConfigDict:
  """A config whose data is said in full, by the run of its model.

  Args:
    config: of `robustness_defaults`, validated; changed in place.
    run: the config of the run that made the model; None of a model of others.

  Returns:
    The same config.

  Raises:
    UserError: where nobody says what data there is.
  """
  data, theirs = config.data, (run or {}).get('data', {})
  if not data.source:
    if run is None:
      raise UserError(
        f'init_from={config.init_from} does not say what it was trained on: '
        'set data.source and data.task, or data.source=files and data.dev_file.'
      )
    defaults = finetune_defaults().data
    for key in ('source', *WHERE, *HOW):
      # What the user has said of the columns counts, for own files besides.
      if key in theirs and (key not in HOW or data[key] == defaults[key]):
        data[key] = theirs[key]
  if not data.task:
    data.task = theirs.get('task', '')
  if data.source in ('tfds', 'local') and not data.task:
    raise UserError(
      f'init_from={config.init_from} does not say which task it was trained '
      'on: set data.task.'
    )
  if data.source == 'files' and not data.dev_file and not data.splits:
    data.splits = ('test',)
  return config
