"""Refuses files that a config names and that are not there, without JAX."""

import os
import pathlib

from ml_collections import ConfigDict

from shared_bert import config as config_lib
from shared_bert import span_config
from shared_bert.data import corpus, glue, sources, squad, table_files
from shared_bert.data.glue_tasks import TASKS
from shared_bert.data.tokenizer import Tokenizer
from shared_bert.errors import UserError
from shared_bert.training import workdir


def check_files(config: ConfigDict) -> None:
  """Looks for what a run is about to read, before anything slow.

  Only that it is there and of the right kind: what is wrong in it, its reader
  says. The files of GLUE that an evaluation reads depend on its model.

  Args:
    config: of a job, validated.

  Raises:
    UserError: naming the key or the path, and the mend.
  """
  if config.job == 'quickstart':
    return
  data = config.data
  # The files of TensorFlow are named by what their names begin with.
  if config.init_from and not os.path.exists(f'{config.init_from}.index'):
    workdir.checkpoint_folder(config.init_from)
  if data.get('vocab'):
    Tokenizer.load(data.vocab)
  if 'mask_ratio' in data:
    _check_text(config)
  elif span_config.asks_for_spans(data):
    for key in ('train_file', 'dev_file'):
      if key != 'train_file' or config.job != 'eval':
        squad.check(data[key], f'data.{key}')
  elif data.source == 'files':
    for key in ('train_file', 'dev_file', 'test_file'):
      if data[key] and (key != 'train_file' or config.job == 'finetune'):
        table_files.check(data[key], f'data.{key}')
  elif data.source == 'local' and config.job == 'finetune':
    check_glue(config_lib.tasks_of(config), data.glue_dir)
  if 'outside' in config:
    for file in config.outside.files:
      table_files.check(file, 'outside.files')


def _check_text(config: ConfigDict) -> None:
  data = config.data
  if data.corpus:
    for folder in config_lib.corpora_of(config):
      corpus.read_manifest(pathlib.Path(folder))
  files = [
    pattern
    for pattern in sources.patterns_of(data.text)
    if not pattern.startswith(sources.TFDS)
  ]
  if files:
    sources.find_sources(files, 'data.text')


def check_glue(tasks: list[str], glue_dir: str) -> None:
  """Names every task whose files are not there, not only the first.

  Args:
    tasks: names of `TASKS`.
    glue_dir: in the layout of the official archives.

  Raises:
    UserError: if one is not.
  """
  missing = {}
  for task in tasks:
    try:
      glue.check_files(task, glue_dir)
    except UserError as error:
      missing[task] = error
  there = [task for task in tasks if task not in missing]
  if len(missing) == 1 or (missing and not there):
    raise next(iter(missing.values()))
  if missing:
    folders = ', '.join(f'{task} ({TASKS[task].folder})' for task in missing)
    raise UserError(
      f'{glue_dir} has no files of {folders}: bring them, or train the tasks '
      f'that are there with --config.data.task={",".join(there)}.'
    )
