"""Sets of other domains, on which a task's model is scored and never trained.

A set is a row of `OUTSIDE`: which task's model reads it, the file, its columns
and labels; adding one is one entry. A row without a source has a file of the
user's. Where classes are fewer than the model's, several of the model's count
as one of the set's: `fold`.
"""

import dataclasses
import os
import pathlib
from collections.abc import Sequence

import numpy as np

from shared_bert import errors
from shared_bert.data import own_files, table_files
from shared_bert.data.glue_reader import Examples
from shared_bert.data.glue_tasks import TASKS, Task
from shared_bert.data.table_files import listed

# What NLI sets of two classes call them; the first is entailment.
_TWO_WAY = (
  ('entailment',),
  ('not_entailment', 'non-entailment', 'non_entailment', 'not entailment'),
)
# Of MNLI's entailment, neutral and contradiction, those that count as one.
_NLI_FOLD = ((0,), (1, 2))
_EACH_ALONE = ((0,), (1,))


@dataclasses.dataclass(frozen=True)
class OutsideSet:
  """One set.

  Attributes:
    name: to show, and in `outside.sets`.
    tasks: of GLUE, whose models read it.
    file: within the folder of such sets.
    text_columns: as of a `Task`.
    label_column: that of the labels.
    labels: for each of its classes, how the file may spell it.
    classes: for each of its classes the ids of those of the model that count
      as it.
    metrics: of `training/metrics.py`, the primary one first.
    names: of the columns of a file without a header.
    quoted_tabs: the file is CSV with tabs in place of commas.
    no_gold: labels of rows that annotators did not agree on: left out.
    source: where it comes from, and its licence as far as is known.
    is_inside: of the domain of the training set, to hold the others against.
  """

  name: str
  tasks: tuple[str, ...]
  file: str
  text_columns: tuple[str, ...]
  labels: tuple[tuple[str, ...], ...]
  classes: tuple[tuple[int, ...], ...]
  label_column: str = 'label'
  metrics: tuple[str, ...] = ('accuracy',)
  names: tuple[str, ...] = ()
  quoted_tabs: bool = False
  no_gold: tuple[str, ...] = ()
  source: str = ''
  is_inside: bool = False


def _cola_half(name: str, source: str) -> OutsideSet:
  cola = TASKS['cola']
  return OutsideSet(
    name=f'cola_{name}',
    tasks=('cola',),
    file=f'cola/{name}_dev.tsv',
    text_columns=cola.text_columns,
    labels=(('0',), ('1',)),
    classes=_EACH_ALONE,
    metrics=cola.metrics,
    names=cola.headerless['dev'],
    source=f'CoLA 1.1, {source}; no licence stated, research use',
    is_inside=name == 'in_domain',
  )


def _amazon(name: str, file: str) -> OutsideSet:
  return OutsideSet(
    name=f'amazon_{name}',
    tasks=('sst2',),
    file=f'sst2/blitzer_{file}_test-labeled.tsv',
    text_columns=('sentence',),
    labels=(('0',), ('1',)),
    classes=_EACH_ALONE,
    quoted_tabs=True,
    source='reviews of Blitzer et al. 2007 (multi-domain sentiment); no '
    'licence stated',
  )


_SETS = (
  OutsideSet(
    name='hans',
    tasks=('mnli',),
    file='mnli/hans_perturbed_eval.tsv',
    text_columns=('sentence1', 'sentence2'),
    label_column='gold_label',
    labels=_TWO_WAY,
    classes=_NLI_FOLD,
    source='of the templates of HANS (McCoy et al. 2019, arXiv 1902.01007), '
    'not its official rows; MIT',
  ),
  OutsideSet(
    name='snli',
    tasks=('mnli',),
    file='mnli/snli_dev.tsv',
    text_columns=('premise', 'hypothesis'),
    labels=(('0',), ('1',), ('2',)),
    classes=((0,), (1,), (2,)),
    no_gold=('-1', '-'),
    source='SNLI 1.0, dev (Bowman et al. 2015); CC BY-SA 4.0',
  ),
  OutsideSet(
    name='scitail',
    tasks=('mnli',),
    file='mnli/scitail_test.jsonl',
    text_columns=('premise', 'hypothesis'),
    labels=_TWO_WAY,
    classes=_NLI_FOLD,
    source='SciTail, test (Khot et al. 2018); Apache-2.0',
  ),
  _amazon('books', 'books'),
  _amazon('dvds', 'dvd'),
  _amazon('electronics', 'electronics'),
  _amazon('kitchen', 'kitchen'),
  OutsideSet(
    name='pawsx',
    tasks=('mrpc', 'qqp'),
    file='mrpc/pawsx_dev-en.tsv',
    text_columns=('sentence1', 'sentence2'),
    labels=(('0',), ('1',)),
    classes=_EACH_ALONE,
    names=('sentence1', 'sentence2', 'label'),
    source='PAWS-X, English dev (Yang et al. 2019); free with attribution',
  ),
  _cola_half('in_domain', 'the sources of its training set'),
  _cola_half('out_of_domain', 'sources that are not in its training set'),
)

OUTSIDE: dict[str, OutsideSet] = {row.name: row for row in _SETS}


def find(
  folder: str | os.PathLike[str], task: str, named: Sequence[str] = ()
) -> list[tuple[OutsideSet, pathlib.Path]]:
  """The sets of a folder that a task's model reads.

  Args:
    folder: with the `file` of each set, such as `mnli/snli_dev.tsv`.
    task: of GLUE.
    named: sets that must be there; none: all that are.

  Returns:
    The sets with their files, in the order of the table.

  Raises:
    UserError: no such folder or set, one that another task's model reads, or
      one without its file.
  """
  folder = pathlib.Path(folder)
  if not folder.is_dir():
    raise errors.UserError(
      f'outside.dir={folder} is not a folder that is there: name one that '
      f'holds files such as {_SETS[0].file}.'
    )
  fitting = {name: row for name, row in OUTSIDE.items() if task in row.tasks}
  for name in named:
    if name not in fitting:
      raise errors.UserError(
        f'outside.sets names {name!r}, which a model of {task} does not read: '
        f'it reads {", ".join(fitting) or "none that is known here"}.'
      )
  found = []
  for name, row in fitting.items():
    path = folder / row.file
    if path.exists() and (not named or name in named):
      found.append((row, path))
    elif name in named:
      raise errors.UserError(
        f'outside.sets names {name!r}, and there is no {path}: bring it there, '
        'or leave the set out.'
      )
  return found


def own_set(
  file: str,
  task: Task,
  text_columns: Sequence[str],
  label_column: str,
  label_names: Sequence[str] = (),
) -> OutsideSet:
  """A file of the user's as a set for the model of a task.

  Its labels are the classes of the task by name, or as GLUE's files write them;
  where `label_names` are given, they alone. A model of three-way inference
  reads two classes too, `entailment` and `not_entailment`. Scores are read as
  numbers.

  Args:
    file: a .csv, .tsv or .jsonl file.
    task: of the model.
    text_columns: as many as the task has.
    label_column: that of the labels.
    label_names: what the file calls the classes, in the order of the task's.

  Raises:
    UserError: columns or names that do not fit the task.
  """
  if len(text_columns) != len(task.text_columns):
    raise errors.UserError(
      f'outside.files={file}: data.text_columns={tuple(text_columns)!r} names '
      f'{len(text_columns)}, and a model of {task.name} reads '
      f'{len(task.text_columns)}: name as many.'
    )
  names = own_files.checked_names(label_names, False)
  if names and task.is_regression:
    raise errors.UserError(
      f'outside.files={file}: data.label_names names {len(names)} classes, and '
      f'a model of {task.name} gives scores: leave data.label_names empty.'
    )
  if names and len(names) != len(task.label_names):
    raise errors.UserError(
      f'outside.files={file}: data.label_names names {len(names)} '
      f'classes, and a model of {task.name} has {len(task.label_names)}: name '
      f'them in the order of {listed(task.label_names)}.'
    )
  # GLUE's own spellings beside them could be those of another class.
  spelled = (names,) if names else (task.label_names, task.labels_in_files)
  labels = tuple(
    tuple(dict.fromkeys(some)) for some in zip(*spelled, strict=True)
  )
  return OutsideSet(
    name=pathlib.Path(file).name.split('.')[0],
    tasks=(task.name,),
    file=file,
    text_columns=tuple(text_columns),
    label_column=label_column,
    labels=labels,
    classes=tuple((n,) for n in range(len(labels))),
    metrics=task.metrics,
  )


def load(
  row: OutsideSet, path: str | os.PathLike[str], key: str = 'outside.dir'
) -> tuple[OutsideSet, Examples]:
  """Reads a set.

  Args:
    row: of `OUTSIDE`, or of `own_set`.
    path: of its file.
    key: the config key that the path comes from, for the sentences.

  Returns:
    The set, which of a user's file may turn out to have two classes in place of
    three; and its examples, with labels int32 [N], or float32 [N] of scores.

  Raises:
    UserError: no such file, or one that does not hold what it should; the
      sentence names the file and the line.
  """
  keys = 'data.text_columns and data.label_column'
  if row.source:
    keys = 'the columns of OUTSIDE in shared_bert/data/outside.py'
  table = table_files.read_table(
    path,
    key,
    (*row.text_columns, row.label_column),
    column_keys=keys,
    names=row.names,
    quoted_tabs=row.quoted_tabs,
  )
  spelled = [label.strip() for label in table.columns[row.label_column]]
  kept = [n for n, label in enumerate(spelled) if label not in row.no_gold]
  if not kept:
    raise errors.UserError(
      f'{path}: no row has a label that annotators agreed on; fetch it again.'
    )
  given = {spelled[n] for n in kept}
  is_nli = row.labels == tuple((c,) for c in TASKS['mnli'].label_names)
  two_way = {name for names in _TWO_WAY for name in names}
  if is_nli and given <= two_way and not given <= {'entailment'}:
    row = dataclasses.replace(row, labels=_TWO_WAY, classes=_NLI_FOLD)
  ids = {name: n for n, names in enumerate(row.labels) for name in names}
  labels = []
  for n in kept:
    label = spelled[n]
    value = ids.get(label) if row.labels else _score(label)
    if value is None:
      wanted = f'one of {listed(list(ids))}' if ids else 'a finite number'
      raise errors.UserError(
        f'{path}, line {table.lines[n]}: the label {listed([label])} in column '
        f'{row.label_column!r} is not {wanted}. Mend the line'
        + ('.' if row.source else ', or say data.label_names.')
      )
    labels.append(value)
  texts = [
    [table.columns[column][n] for n in kept] for column in row.text_columns
  ]
  reasons = {
    'blank line': table.blank_lines,
    'no gold label': len(spelled) - len(kept),
  }
  return row, Examples(
    text_a=texts[0],
    text_b=texts[1] if texts[1:] else None,
    labels=np.asarray(labels, np.int32 if row.labels else np.float32),
    ids=kept,
    skip_reasons={why: count for why, count in reasons.items() if count},
  )


def _score(text: str) -> float | None:
  """A finite number that float32 holds, or None."""
  try:
    number = float(text)
  except ValueError:
    return None
  # Python takes 1_000 for a number, other readers of the file do not.
  fits = abs(number) <= float(np.finfo(np.float32).max) and '_' not in text
  return number if fits else None


def fold(row: OutsideSet, outputs: np.ndarray) -> np.ndarray:
  """Outputs of a model as outputs of a set's classes.

  Where a class of the set is several of the model's, its probability is the sum
  of theirs: of logits, the log of the sum of exponentials. So a three-way model
  says `entailment` where that is more probable than neutral and contradiction
  together, above 1/2: the better answer to the question that is asked, by the
  model's own probabilities. Papers on HANS often take the likeliest of three
  and fold that; that says entailment at 40, 35 and 25 % too, where the model
  itself holds it for the less likely answer. Numbers by that rule are somewhat
  other ones, with more rows called entailment.

  Args:
    row: the set, with C' classes; without any outputs stay as they are.
    outputs: float32 [N, C], logits of the model's classes.

  Returns:
    float32 [N, C'].
  """
  if not row.classes:
    return outputs
  folded = [
    np.logaddexp.reduce(outputs[:, list(ids)], axis=1) for ids in row.classes
  ]
  return np.stack(folded, axis=1)
