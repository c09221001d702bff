"""The data of a task as a model meets it: its splits, encoded.

What fine-tuning and evaluating share: where the examples come from
(`data.source`), which tokenizer reads them, and what a person is told of them.
"""

import dataclasses
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from shared_bert.data import glue, own_files, toy
from shared_bert.data.encoding import encode_examples
from shared_bert.data.glue import TASKS, Examples, Task
from shared_bert.data.tokenizer import Tokenizer
from shared_bert.data.wordpiece import train_wordpiece
from shared_bert.errors import UserError
from shared_bert.span_data import SpanData
from shared_bert.training import step_folders
from shared_bert.training.logging import say
from shared_bert.training.step_folders import Checkpoint

Arrays = dict[str, np.ndarray]


@dataclasses.dataclass
class TaskData:
  """The splits of a task, as texts and as padded rows.

  Attributes:
    task: the task.
    splits: examples by split; `train`, those to evaluate and to predict.
    arrays: by split what `encode_examples` gives, int32 [N, S] each, with
      `labels` [N] where there are any.
    borrowed: splits of another task that this one's model predicts, such as
      MNLI's `ax`, with that task and its own name of the split.
    scores_train: whether `train` is one of the splits to evaluate.
  """

  task: Task
  splits: dict[str, Examples]
  arrays: dict[str, Arrays]
  borrowed: dict[str, tuple[Task, str]] = dataclasses.field(
    default_factory=dict
  )
  scores_train: bool = False

  @property
  def labels(self) -> dict[str, np.ndarray]:
    """The labels of every split to evaluate, int32 or float32 [N]."""
    return {
      split: examples.labels
      for split, examples in self.splits.items()
      if examples.labels is not None and (split != 'train' or self.scores_train)
    }

  @property
  def unlabelled(self) -> list[str]:
    """The splits that can only be predicted."""
    return [s for s, examples in self.splits.items() if examples.labels is None]

  def metrics_of(self, split: str) -> tuple[str, ...]:
    """Names of the metrics of a split, the primary one first."""
    return self.borrowed.get(split, (self.task, split))[0].metrics

  def head(self, rows: int) -> 'TaskData':
    """The same with at most `rows` rows in each split but `train`."""

    def cut(split: str, examples: Examples) -> Examples:
      if split == 'train':
        return examples
      second, labels = examples.text_b, examples.labels
      return Examples(
        examples.text_a[:rows],
        None if second is None else second[:rows],
        None if labels is None else labels[:rows],
        examples.ids[:rows],
      )

    return dataclasses.replace(
      self,
      splits={s: cut(s, examples) for s, examples in self.splits.items()},
      arrays={
        split: arrays
        if split == 'train'
        else {name: array[:rows] for name, array in arrays.items()}
        for split, arrays in self.arrays.items()
      },
    )

  @property
  def name(self) -> str:
    """Of the task."""
    return self.task.name

  @property
  def label_names(self) -> tuple[str, ...]:
    """Of its classes; none for scores."""
    return self.task.label_names

  @property
  def pooled_outputs(self) -> int:
    """C, outputs of the head on [CLS]."""
    return self.task.num_outputs

  @property
  def targets(self) -> dict[str, Any]:
    """What the loss reads besides the rows: dtype by name, of shape [B]."""
    return {'labels': np.float32 if self.task.is_regression else np.int32}

  @property
  def scored(self) -> tuple[str, ...]:
    """The splits to evaluate."""
    return tuple(self.labels)

  @property
  def best_metric(self) -> str:
    """What chooses the best checkpoint."""
    return f'{self.scored[0]}/{self.task.primary_metric}'

  @property
  def training_texts(self) -> list[str]:
    """Those that a vocabulary may be made of."""
    train = self.splits['train']
    return [*train.text_a, *(train.text_b or ())]

  def training_rows(self, tokenizer: Tokenizer | None, seq_len: int) -> int:
    """How many rows an epoch has: one an example, whatever the tokenizer."""
    del tokenizer, seq_len
    return len(self.splits['train'])

  def fingerprint(self) -> str:
    """As `glue.fingerprint`, of all splits."""
    return glue.fingerprint(self.splits)

  def encode(self, tokenizer: Tokenizer, seq_len: int) -> 'TaskData':
    """The same with its splits as rows of ids.

    Args:
      tokenizer: gives the ids.
      seq_len: S; longer texts are cut, pairs longest first.

    Raises:
      UserError: if `seq_len` has no room.
    """
    arrays = {}
    for split, examples in self.splits.items():
      arrays[split] = encode_examples(
        tokenizer, examples.text_a, examples.text_b, seq_len
      )
      if examples.labels is not None:
        arrays[split]['labels'] = examples.labels
    return dataclasses.replace(self, arrays=arrays)

  def describe(self, tokenizer: Tokenizer, seq_len: int) -> list[str]:
    """What the data is, in lines of a plan.

    Args:
      tokenizer: that encoded it.
      seq_len: S.
    """
    sizes = ', '.join(f'{split} {len(e):,}' for split, e in self.splits.items())
    first = 'train' if 'train' in self.arrays else next(iter(self.arrays))
    lengths = self.arrays[first]['lengths']
    full = float((lengths == seq_len).mean())
    return [
      f'task        {self.task.name}: {sizes}; {", ".join(self.task.metrics)}',
      f'rows        up to {seq_len} tokens, {lengths.mean():.1f} on '
      f'average, {full:.1%} of them full; {tokenizer.vocab_size:,} word pieces',
    ]


def trainable_task(name: str) -> Task:
  """A task of GLUE that has rows to train on.

  Raises:
    UserError: if there is none of that name, or it has none.
  """
  task = glue.get_task(name)
  if task.trained_as:
    raise UserError(
      f'data.task={task.name} has no training data: the model of '
      f'{task.trained_as} predicts it, in the runs of '
      f'data.task={task.trained_as}.'
    )
  return task


def load_task(
  data: ConfigDict,
  *,
  evaluating: bool = False,
  only_dev: bool = False,
  label_names: Sequence[str] | None = None,
) -> TaskData:
  """The task that the `data` keys of a config name, not yet encoded.

  Args:
    data: as in `config.finetune_defaults`.
    evaluating: only the splits of `data.splits`, or all but `train` if it
      names none; otherwise all.
    only_dev: of these, the dev sets alone where `data.splits` names none.
    label_names: of a model to evaluate, none for scores: own data has these
      where the config does not say.

  Returns:
    The task with every split that is there; says which optional ones are not.

  Raises:
    UserError: for files that are missing or hold what they should not.
  """
  named = tuple(data.splits) if evaluating else ()

  def is_wanted(split: str) -> bool:
    if named:
      return split in named
    if only_dev:
      return split.startswith('dev')
    return split != 'train' or not evaluating

  if data.source == 'toy':
    splits = toy.toy_task(seed=0)
    return _chosen(TaskData(toy.TOY_TASK, splits, {}), named, is_wanted)
  if data.source == 'files':
    task, splits = own_files.load(
      data.train_file if is_wanted('train') else '',
      data.dev_file,
      data.test_file if is_wanted('test') else '',
      text_columns=tuple(data.text_columns),
      label_column=data.label_column,
      label_names=tuple(data.label_names or label_names or ()),
      regression=data.regression or label_names == [],
    )
    for remark in own_files.remarks(task, splits):
      say(remark)
    return _chosen(TaskData(task, splits, {}), named, is_wanted)

  task = trainable_task(data.task)
  wanted = {split: (task, split) for split in task.splits}
  borrowed = {}
  for other in TASKS.values():
    there = data.source == 'local' or other.is_in_tfds
    if other.trained_as == task.name and there:
      for split in other.splits:
        borrowed[other.name] = wanted[other.name] = (other, split)
  splits = {}
  for name, (owner, split) in wanted.items():
    if not is_wanted(name):
      continue
    if data.source == 'tfds':
      from shared_bert.data import glue_tfds

      examples = glue_tfds.load_split(owner, data.dir, split)
    else:
      examples = glue.load_split(owner, data.glue_dir, split)
    if examples is None:
      if data.source == 'local':
        path = owner.paths(pathlib.Path(data.glue_dir), split)[0]
        say(f'{task.name} {name}: skipped, there is no {path}')
      continue
    if examples.skipped:
      reasons = ', '.join(
        f'{count} {reason}' for reason, count in examples.skip_reasons.items()
      )
      say(f'{task.name} {name}: {examples.skipped} lines left out: {reasons}')
    splits[name] = examples
  return _chosen(TaskData(task, splits, {}, borrowed), named, is_wanted)


def _chosen(
  loaded: TaskData,
  named: tuple[str, ...],
  is_wanted: Callable[[str], bool],
) -> TaskData:
  """The wanted splits; those named must be there."""
  absent = [split for split in named if split not in loaded.splits]
  if absent:
    raise UserError(
      f'data.splits names {", ".join(absent)}, which {loaded.task.name} does '
      f'not have here; there are {", ".join(loaded.splits) or "none"}.'
    )
  kept = {s: e for s, e in loaded.splits.items() if is_wanted(s)}
  return dataclasses.replace(loaded, splits=kept, scores_train=bool(named))


def given_tokenizer(
  data: ConfigDict, start: Checkpoint | None
) -> Tokenizer | None:
  """That of the checkpoint started from, of the toy, or of `data.vocab`.

  Args:
    data: of a fine-tuning config.
    start: checkpoint that the run starts from, or None.

  Returns:
    None where one has to be made of the task.

  Raises:
    UserError: if there is no such vocabulary.
  """
  if start:
    return Tokenizer.load(start.path)
  if data.source == 'toy':
    return toy.toy_tokenizer()
  return Tokenizer.load(data.vocab) if data.vocab else None


def open_tokenizer(
  data: ConfigDict,
  loaded: TaskData | SpanData,
  workdir: pathlib.Path,
  start: Checkpoint | None,
) -> Tokenizer:
  """That of the checkpoint started from, or given, or trained on the task.

  A vocabulary that was trained lies in the workdir from then on: the trainer
  gives another one each time, and a run that goes on needs its own.

  Args:
    data: as in `config.finetune_defaults`.
    loaded: the task, whose training texts a vocabulary may be made of.
    workdir: of the run.
    start: checkpoint that the run starts from, or None.

  Raises:
    UserError: if there is no such vocabulary.
  """
  if given := given_tokenizer(data, start):
    return given
  folder = workdir / 'vocabulary'
  if not folder.is_dir() and (
    begun := step_folders.open_newest(workdir / 'checkpoints')
  ):
    return Tokenizer.load(begun.path)
  if not folder.is_dir():
    say(
      'init_from is not set: the model starts from fresh parameters, with a '
      'vocabulary made of the training texts. A pre-trained checkpoint '
      '(--config.init_from=…) does much better.'
    )
    partial = workdir / 'vocabulary.partial'
    train_wordpiece(loaded.training_texts, data.vocab_size).save(partial)
    partial.rename(folder)
  return Tokenizer.load(folder)
