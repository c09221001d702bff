"""Writes `docs/config.md`, the reference of every config key.

  make docs

A key's default is the one that a run gets; its meaning is the comment behind
it in `shared_bert/config.py`, `span_config.py` or `robustness_config.py`, or
the comment lines above it.
"""

import ast
import inspect
import io
import pathlib
import runpy
import tokenize
from collections.abc import Iterable, Iterator

from shared_bert import config as config_lib
from shared_bert import recipes, robustness_config, span_config
from shared_bert.data.glue_tasks import TASKS
from shared_bert.model.config import SIZES
from shared_bert.study import settings as study_settings
from shared_bert.training.workdir import FREE_KEYS, flatten

PATH = pathlib.Path(__file__).with_name('config.md')
_CONFIGS = PATH.parents[1] / 'configs'

# The functions of both that set keys, and what those start with.
_FUNCTIONS = {
  '_model': 'model.',
  '_mesh': 'mesh.',
  '_train': 'train.',
  'pretrain_defaults': '',
  'finetune_defaults': '',
  'squad_defaults': '',
  'robustness_defaults': '',
  'study_defaults': '',
}
_JOBS = {'pre-training': 'pretrain', 'fine-tuning': 'finetune'}

_INTRODUCTION = """\
# Config keys

Made by `make docs` from the comments in `shared_bert/config.py` and
`shared_bert/span_config.py` and `shared_bert/robustness_config.py`: change
those, not this page.

A config is a file in `configs/`. Any key is set by `--config.KEY=VALUE`; an
unknown key or a value of another type is an error before anything is read.
Lists are written with commas, `--config.seeds=0,1,2`, lists of words as tuples,
`--config.data.splits="('train','dev')"`.

*Open* means that nothing is set: the text beside it, or the last section, says
what then holds. † marks keys that may change when a run is resumed; all others
must stay as they were ([resume](guides/resume.md)).

`configs/quickstart.py` holds two configs, whose keys start with `pretrain.` and
`finetune.`, and `attentions`, the mechanisms to compare.
"""

_ROBUSTNESS = """\
`configs/robustness.py` has these and, of the keys above, `init_from`, `mesh`
and those of `data` that say on what a task's model is evaluated
([guide](guides/robustness.md)).
"""

_STUDY = """\
Those of `configs/study.py` ([guide](guides/study.md)); besides it has the keys
of pre-training as `pretrain.…`, of fine-tuning as `finetune.…`, of SQuAD as
`squad1.…` and `squad2.…`, and those of the section above as `robustness.…`.
"""

_RECIPES = """\
Fine-tuning configs leave these keys open, so that one config serves all tasks
and sizes. `shared_bert/recipes.py` fills them in and names the sources; a flag
wins, and `train.steps` takes the place of `train.epochs`.
"""


def meanings(source: str) -> dict[str, dict[str, str]]:
  """What the comments of `config.py` say of its keys.

  Args:
    source: of that file.

  Returns:
    Function to dotted key to text, for keys that have a comment, in their
    order.
  """
  behind, alone = {}, {}  # comments by line
  for token in tokenize.generate_tokens(io.StringIO(source).readline):
    if token.type == tokenize.COMMENT:
      own_line = not token.line[: token.start[1]].strip()
      place = alone if own_line else behind
      place[token.start[0]] = token.string.removeprefix('#').strip()

  def note(first: int, last: int) -> str:
    if last in behind:
      return behind[last]
    above = []
    while (first := first - 1) in alone:
      above.insert(0, alone[first])
    return ' '.join(above)

  found: dict[str, dict[str, str]] = {}
  for function in ast.parse(source).body:
    if isinstance(function, ast.FunctionDef) and function.name in _FUNCTIONS:
      texts = {
        key: note(first, last)
        for key, first, last in _keys(function, _FUNCTIONS[function.name])
      }
      found[function.name] = {key: text for key, text in texts.items() if text}
  return found


def _keys(
  function: ast.FunctionDef, prefix: str
) -> Iterator[tuple[str, int, int]]:
  """Dotted key, first and last line of all that a function sets."""
  sections = {}  # the dicts in dicts
  for node in ast.walk(function):
    if isinstance(node, ast.Dict):
      start = sections.get(id(node), prefix)
      for key, value in zip(node.keys, node.values, strict=True):
        if not (isinstance(key, ast.Constant) and value.end_lineno):
          continue
        if isinstance(value, ast.Dict):
          sections[id(value)] = f'{start}{key.value}.'
        else:
          yield f'{start}{key.value}', key.lineno, value.end_lineno
    elif isinstance(node, ast.Assign):
      name, *path = ast.unparse(node.targets[0]).split('.')
      if name == 'config' and path:
        yield '.'.join(path), node.lineno, node.end_lineno or node.lineno


def _code(value: object) -> str:
  """A value in a cell of a table."""
  if value is None:
    return 'open'
  value = tuple(value) if isinstance(value, list) else value
  return f'`{value!r}`'.replace('|', r'\|')


def _table(header: Iterable[str], rows: Iterable[list[str]]) -> list[str]:
  header = list(header)
  lines = [header, ['---'] * len(header), *rows]
  return [f'| {" | ".join(line)} |' for line in lines] + ['']


def _by_size(values: dict[str, object]) -> str:
  """One value if all sizes have it, else each with its sizes."""
  groups: dict[str, list[str]] = {}
  for size, value in values.items():
    groups.setdefault(_code(value), []).append(size)
  if len(groups) == 1:
    return next(iter(groups))
  return '; '.join(f'{value} {", ".join(of)}' for value, of in groups.items())


def reference() -> str:
  """The whole of `docs/config.md`.

  Raises:
    ValueError: if a key has no comment that says what it means.
  """
  said = meanings(inspect.getsource(config_lib))
  said |= meanings(inspect.getsource(span_config))
  texts, defaults = {}, {}
  for job, name in _JOBS.items():
    function = f'{name}_defaults'
    sections = ('_model', '_mesh', '_train', function)
    texts[job] = {k: v for name in sections for k, v in said[name].items()}
    defaults[job] = flatten(getattr(config_lib, function)().to_dict())
    _check_texts('config.py', defaults[job], texts[job])
  third = 'robustness'
  source = inspect.getsource(robustness_config)
  texts[third] = meanings(source)['robustness_defaults']
  defaults[third] = flatten(robustness_config.robustness_defaults().to_dict())
  added = [k for k in defaults[third] if k.startswith(('noise.', 'outside.'))]
  _check_texts('robustness_config.py', added, texts[third])

  squad = 'SQuAD'
  texts[squad] = said['squad_defaults']
  defaults[squad] = flatten(span_config.squad_defaults().to_dict())
  keys_of_data = {key for key in defaults[squad] if key.startswith('data.')}
  if silent := sorted(keys_of_data - texts[squad].keys()):
    raise ValueError(f'shared_bert/span_config.py: no comment at {silent}')

  study = 'study'
  source = inspect.getsource(study_settings)
  texts[study] = meanings(source)['study_defaults']
  defaults[study] = {
    key: value
    for key, value in flatten(study_settings.study_defaults().to_dict()).items()
    if '.' not in key
  }
  _check_texts('study/settings.py', defaults[study], texts[study])

  def section(parent: str, *jobs: str) -> list[str]:
    """A table of the keys right below parent, with the defaults by job."""
    rows = {}
    for job in jobs:
      for key, text in texts[job].items():
        if key.rpartition('.')[0] == parent:
          mark = ' †' if key in FREE_KEYS else ''
          values = [
            _code(keys[key]) if key in keys else ''
            for keys in map(defaults.get, jobs)
          ]
          rows[key] = [f'`{key}`{mark}', *values, text]
    columns = jobs if len(jobs) > 1 else ['default']
    return _table(['key', *columns, 'meaning'], rows.values())

  first, second = _JOBS
  get_config = runpy.run_path(str(_CONFIGS / 'pretrain.py'))['get_config']
  set_there = {s: flatten(get_config(f'size={s}').to_dict()) for s in SIZES}
  changes = {
    key: _by_size({size: set_there[size][key] for size in SIZES})
    for key, default in defaults[first].items()
    if key != 'model.size'
    and any(keys[key] != default for keys in set_there.values())
  }
  return '\n'.join(
    [
      _INTRODUCTION,
      '## Common',
      '',
      *section('', first, second),
      '## Model',
      '',
      *section('model', first),
      *_table(
        ['`model.size`', 'layers', 'width', 'heads', 'feed-forward'],
        [[f'`{size}`', *(f'{n:,}' for n in SIZES[size])] for size in SIZES],
      ),
      '## Devices',
      '',
      *section('mesh', first),
      '## Training',
      '',
      *section('train', first, second),
      'What `configs/pretrain.py` sets:',
      '',
      *_table(['key', 'value'], [[f'`{k}`', v] for k, v in changes.items()]),
      '## Data of pre-training',
      '',
      *section('data', first),
      '## Data of fine-tuning',
      '',
      'A word before a colon names the `data.source` that reads the key.',
      '',
      *section('data', second),
      '## Data of SQuAD',
      '',
      'Those of `configs/squad.py`, whose other keys are those of fine-tuning.',
      '',
      *section('data', squad),
      '## Robustness',
      '',
      _ROBUSTNESS,
      *section('noise', third),
      *section('outside', third),
      *section('data', third),
      '## A study',
      '',
      _STUDY,
      *section('', study),
      '## What fills open settings',
      '',
      _RECIPES,
      *_recipes(),
    ]
  )


def _check_texts(file: str, keys: Iterable[str], texts: Iterable[str]) -> None:
  if silent := sorted(set(keys) - set(texts)):
    raise ValueError(f'shared_bert/{file}: no comment at {silent}')


def _recipes() -> list[str]:
  """What `recipes.py` fills in by size, with the tasks that differ."""
  train = config_lib.finetune_defaults().train
  names = [name for name in recipes.settings('', 'base') if train[name] is None]
  rows = []
  for size in SIZES:
    cells = [f'`{size}`']
    for name in names:
      usual = recipes.settings('', size)[name]
      others = {
        task: recipes.settings(task, size)[name] for task in (*TASKS, 'squad')
      }
      differing = [f'{v:g} {t}' for t, v in others.items() if v != usual]
      cells.append('; '.join([f'{usual:g}', *differing]))
    rows.append(cells)
  return _table(['`model.size`', *(f'`train.{n}`' for n in names)], rows)


if __name__ == '__main__':
  PATH.write_text(reference(), encoding='utf-8')
  print(f'wrote {PATH}')
