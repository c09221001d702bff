"""The GLUE tasks as one table; adding a task is one entry of `TASKS`.

Every entry describes the files of the official archives, oddities included,
so that `shared_bert.data.glue` reads all of them with the same few lines.
"""

import dataclasses
import pathlib
from collections.abc import Mapping

from shared_bert import errors

_TRAIN_DEV_TEST = {
  'train': ('train.tsv',),
  'dev': ('dev.tsv',),
  'test': ('test.tsv',),
}


@dataclasses.dataclass(frozen=True)
class Derived:
  """Train and dev cut out of one file by a list of pair ids.

  Attributes:
    file: the file that holds train and dev together.
    dev_ids: a file without header, one tab-separated pair of ids a line; the
      rows with these ids are dev, all others train.
    id_columns: the columns of `file` that hold the two ids.
  """

  file: str
  dev_ids: str
  id_columns: tuple[str, str]


@dataclasses.dataclass(frozen=True)
class Task:
  """One task: its fields, labels, metrics, files and their oddities.

  Attributes:
    name: key of the task in `TASKS`.
    folders: folder names tried in order, the official one first.
    text_columns: one column for a sentence task, two for a pair task.
    label_column: the column of the labels; test splits are read without.
    metrics: names in `shared_bert.training.metrics`, the primary one first.
    label_names: what class ids 0, 1, … mean, in the order of TFDS and of
      Hugging Face; empty for regression.
    file_labels: the same classes as the files and the leaderboard write
      them; `label_names` when empty.
    label_range: lowest and highest score of a regression task, infinite where
      there is no bound; None for classes.
    splits: split name to the file names tried in order.
    prediction_files: test split to the name of the file of its predictions,
      that of the leaderboard.
    headerless: split to its columns, for files without a header.
    no_gold: a label that means "annotators did not agree"; such a row is
      skipped and counted.
    skips_ragged: labelled rows with a wrong number of columns are skipped and
      counted; elsewhere they are an error.
    derived: where train and dev come from when they have no file.
    trained_as: the task whose model predicts this one; '' means its own.
    is_in_tfds: whether TensorFlow Datasets has it too.
  """

  name: str
  folders: tuple[str, ...]
  text_columns: tuple[str, ...]
  metrics: tuple[str, ...]
  label_column: str = 'label'
  label_names: tuple[str, ...] = ()
  file_labels: tuple[str, ...] = ()
  label_range: tuple[float, float] | None = None
  splits: Mapping[str, tuple[str, ...]] = dataclasses.field(
    default_factory=lambda: dict(_TRAIN_DEV_TEST)
  )
  prediction_files: Mapping[str, str] = dataclasses.field(default_factory=dict)
  headerless: Mapping[str, tuple[str, ...]] = dataclasses.field(
    default_factory=dict
  )
  no_gold: str | None = None
  skips_ragged: bool = False
  derived: Derived | None = None
  trained_as: str = ''
  is_in_tfds: bool = True

  @property
  def folder(self) -> str:
    """Name of the task's folder in the official archives."""
    return self.folders[0]

  @property
  def is_regression(self) -> bool:
    """Whether labels are float32 scores, not int32 class ids."""
    return self.label_range is not None

  @property
  def is_pair(self) -> bool:
    """Whether an example has a second text."""
    return len(self.text_columns) == 2

  @property
  def num_outputs(self) -> int:
    """Width of the task's head: the number of classes, or 1."""
    return len(self.label_names) or 1

  @property
  def primary_metric(self) -> str:
    """The metric that picks the best run.

    As reported in table 1 of the BERT paper (arXiv 1810.04805): F1 for MRPC
    and QQP, Spearman for STS-B, Matthews for CoLA, accuracy for the others.
    """
    return self.metrics[0]

  @property
  def labels_in_files(self) -> tuple[str, ...]:
    """The classes by id as the files and the leaderboard write them."""
    return self.file_labels or self.label_names

  @property
  def dev_splits(self) -> tuple[str, ...]:
    """Labelled splits to evaluate; the first one picks the best run."""
    return tuple(split for split in self.splits if split.startswith('dev'))

  @property
  def test_splits(self) -> tuple[str, ...]:
    """Splits to predict for the leaderboard."""
    return tuple(split for split in self.splits if split.startswith('test'))

  @property
  def required_splits(self) -> tuple[str, ...]:
    """Splits without which the task cannot be trained and evaluated."""
    return () if self.trained_as else ('train', *self.dev_splits[:1])

  def check_split(self, split: str) -> None:
    """Raises UserError unless the task has this split."""
    if split not in self.splits:
      raise errors.UserError(
        f'Task {self.name} has no split {split!r}; it has '
        f'{", ".join(self.splits)}.'
      )

  def paths(self, glue_dir: pathlib.Path, split: str) -> list[pathlib.Path]:
    """Where the file of `split` may lie, the official place first."""
    return [
      glue_dir / folder / file
      for folder in self.folders
      for file in self.splits[split]
    ]


_BINARY = ('0', '1')
_ENTAILMENT = ('entailment', 'not_entailment')
_NLI = ('entailment', 'neutral', 'contradiction')
_COLA_COLUMNS = ('source', 'label', 'mark', 'sentence')

_TASKS = (
  Task(
    name='cola',
    folders=('CoLA',),
    text_columns=('sentence',),
    # GLUE scores CoLA by the first; the second shows a run at the majority.
    metrics=('matthews', 'accuracy'),
    label_names=('unacceptable', 'acceptable'),
    file_labels=_BINARY,
    prediction_files={'test': 'CoLA.tsv'},
    headerless={'train': _COLA_COLUMNS, 'dev': _COLA_COLUMNS},
  ),
  Task(
    name='sst2',
    folders=('SST-2',),
    text_columns=('sentence',),
    metrics=('accuracy',),
    label_names=('negative', 'positive'),
    file_labels=_BINARY,
    prediction_files={'test': 'SST-2.tsv'},
  ),
  Task(
    name='mrpc',
    folders=('MRPC',),
    text_columns=('#1 String', '#2 String'),
    label_column='Quality',
    metrics=('f1', 'accuracy'),
    label_names=('not_equivalent', 'equivalent'),
    file_labels=_BINARY,
    splits=_TRAIN_DEV_TEST | {'test': ('test.tsv', 'msr_paraphrase_test.txt')},
    prediction_files={'test': 'MRPC.tsv'},
    # GLUE may not redistribute MRPC: the archives hold Microsoft's files and
    # the ids of dev, and a script of GLUE's writes train.tsv and dev.tsv.
    derived=Derived(
      file='msr_paraphrase_train.txt',
      dev_ids='dev_ids.tsv',
      id_columns=('#1 ID', '#2 ID'),
    ),
  ),
  Task(
    name='stsb',
    folders=('STS-B',),
    text_columns=('sentence1', 'sentence2'),
    label_column='score',
    metrics=('spearman', 'pearson'),
    label_range=(0.0, 5.0),
    prediction_files={'test': 'STS-B.tsv'},
  ),
  Task(
    name='qqp',
    folders=('QQP',),
    text_columns=('question1', 'question2'),
    label_column='is_duplicate',
    metrics=('f1', 'accuracy'),
    label_names=('not_duplicate', 'duplicate'),
    file_labels=_BINARY,
    prediction_files={'test': 'QQP.tsv'},
    # Eleven questions of Quora's release hold a line break, so each of their
    # records lies on two lines with too few columns. TFDS, Hugging Face and
    # the BERT recipes built on them leave these lines out; so do we.
    skips_ragged=True,
  ),
  Task(
    name='mnli',
    folders=('MNLI',),
    text_columns=('sentence1', 'sentence2'),
    label_column='gold_label',
    metrics=('accuracy',),
    label_names=_NLI,
    splits={
      'train': ('train.tsv',),
      'dev_matched': ('dev_matched.tsv',),
      'dev_mismatched': ('dev_mismatched.tsv',),
      'test_matched': ('test_matched.tsv',),
      'test_mismatched': ('test_mismatched.tsv',),
    },
    prediction_files={
      'test_matched': 'MNLI-m.tsv',
      'test_mismatched': 'MNLI-mm.tsv',
    },
    no_gold='-',
  ),
  Task(
    name='qnli',
    folders=('QNLI',),
    text_columns=('question', 'sentence'),
    metrics=('accuracy',),
    label_names=_ENTAILMENT,
    prediction_files={'test': 'QNLI.tsv'},
  ),
  Task(
    name='rte',
    folders=('RTE',),
    text_columns=('sentence1', 'sentence2'),
    metrics=('accuracy',),
    label_names=_ENTAILMENT,
    prediction_files={'test': 'RTE.tsv'},
  ),
  Task(
    name='wnli',
    folders=('WNLI',),
    text_columns=('sentence1', 'sentence2'),
    metrics=('accuracy',),
    label_names=('not_entailment', 'entailment'),
    file_labels=_BINARY,
    prediction_files={'test': 'WNLI.tsv'},
  ),
  Task(
    name='ax',
    folders=('AX', 'diagnostic'),
    text_columns=('sentence1', 'sentence2'),
    metrics=('matthews',),
    label_names=_NLI,
    splits={'test': ('diagnostic.tsv', 'AX.tsv')},
    prediction_files={'test': 'AX.tsv'},
    trained_as='mnli',
  ),
  # The same rows with their labels, as gluebenchmark.com offers them apart.
  Task(
    name='diagnostic',
    folders=('AX', 'diagnostic', '.'),
    text_columns=('Premise', 'Hypothesis'),
    label_column='Label',
    metrics=('matthews', 'accuracy'),
    label_names=_NLI,
    splits={'dev': ('diagnostic-full.tsv',)},
    trained_as='mnli',
    is_in_tfds=False,
  ),
)

TASKS: dict[str, Task] = {task.name: task for task in _TASKS}


def get_task(task: str | Task) -> Task:
  """The entry of the table.

  Args:
    task: name of a task, or a `Task` (returned as it is).

  Returns:
    The task.

  Raises:
    UserError: there is no task of this name.
  """
  if isinstance(task, Task):
    return task
  if task not in TASKS:
    raise errors.UserError(
      f'There is no GLUE task {task!r}; pick one of {", ".join(TASKS)}.'
    )
  return TASKS[task]
