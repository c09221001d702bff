"""The documents: their commands work, and what they name is there."""

import csv
import importlib.util
import json
import os
import pathlib
import re
import shlex
import sys
import tomllib
from collections.abc import Iterator

import jax
import pytest
from absl import flags
from absl.testing import flagsaver

from shared_bert import config as config_lib
from shared_bert import (
  export,
  main,
  plan,
  predict,
  prepare,
  robustness_config,
  span_config,
  validation,
)
from shared_bert.study.settings import study_defaults
from shared_bert.training import mesh as mesh_lib
from shared_bert.training.workdir import flatten
from tests import squad_files
from tests.tiny_jobs import SMALL, sentences

ROOT = pathlib.Path(__file__).parents[1]
# In the order in which they are read: one's runs are the next one's start.
GUIDES = 'pretrain finetune evaluate robustness export resume gpu tpu'.split()
DOCUMENTS = [
  ROOT / 'README.md',
  *(ROOT / 'docs' / 'guides' / f'{name}.md' for name in GUIDES),
  *sorted((ROOT / 'docs').glob('*.md')),
]
PAGES = [*DOCUMENTS, *(ROOT / n for n in ('CONTRIBUTING.md', 'CHANGELOG.md'))]
DEFAULTS = (
  config_lib.pretrain_defaults,
  config_lib.finetune_defaults,
  robustness_config.robustness_defaults,
  span_config.squad_defaults,
)
SECTIONS = ('model', 'mesh', 'train', 'data', 'noise', 'outside')
CONFIGS = sorted((ROOT / 'configs').glob('*.py'))
TINY = [
  *(f'--config.model.{k}={v}' for k, v in SMALL.items() if k != 'max_positions')
]
# Appended, for one step of a tiny model; the last of two flags wins.
SHORT = [
  *TINY,
  '--config.tensorboard=False',
  '--config.train.batch_size=16',
  '--config.train.accumulation=1',
  '--config.train.warmup_steps=0',
]
MODULES = (plan, prepare, export, predict)
OTHERS = {f'python -m {module.__name__}': module for module in MODULES}
SHORT_TIME = '--config.train.hours=1e-9'
NO_RAMP = [f'--config.train.ramp_{k}=0' for k in ('batch_size', 'ratio')]
SHORT_TASK = ['--config.data.eval_batch_size=16', '--config.train.steps=1']

pytestmark = [
  # ml_collections reads configs so on Python 3.11.
  pytest.mark.filterwarnings('ignore:the load_module'),
  # TensorBoard's own copy of html5lib, when its flags are read.
  pytest.mark.filterwarnings("ignore:html5lib's sanitizer"),
]


def name_of(path):
  return path.relative_to(ROOT).as_posix()


def blocks(path) -> Iterator[tuple[str, str]]:
  """Language and content of every fenced block."""
  text = path.read_text(encoding='utf-8')
  for found in re.finditer(r'^```(\w*)\n(.*?)^```$', text, re.M | re.S):
    yield found[1], found[2]


def commands(path) -> Iterator[list[str]]:
  """Every command of a document, as words: of blocks and within lines."""
  for language, block in blocks(path):
    for line in block.replace('\\\n', ' ').splitlines():
      if language == 'bash' or is_command(line):
        if words := shlex.split(line, comments=True):
          yield words
  fences = re.compile(r'^```.*?^```$', re.M | re.S)
  prose = fences.sub('', path.read_text(encoding='utf-8'))
  for span in re.findall(r'`([^`\n]+)`', prose):
    if is_command(span) and len(span.split()) > 1 and '…' not in span:
      words = shlex.split(span)
      if words[0] != 'python' or len(words) > 3:
        yield words


def is_command(line):
  heads = 'python -m |make |tensorboard |launch/|benchmarks/|export '
  return bool(re.match(heads, line))


def docstring_commands(path) -> Iterator[list[str]]:
  text = path.read_text(encoding='utf-8').split('"""')[1]
  for line in text.replace('\\\n', ' ').splitlines():
    if line.strip().startswith('python -m '):
      yield shlex.split(line)


def as_job(words):
  """The flags of `shared_bert.main` that a command comes down to, or None."""
  if words[0].startswith('launch/'):
    assert os.access(ROOT / words[0], os.X_OK), words[0]
    if words[0] == 'launch/restart.sh':
      return as_job(words[1:])
    config, workdir, *rest = words[1:]
    return [f'--config={config}', f'--workdir={workdir}', *rest]
  if words[:3] == ['python', '-m', 'shared_bert.main']:
    return words[3:]
  return None


def parse(arguments, monkeypatch):
  """The config of a command, checked as `shared_bert.main` checks it."""
  argv = ['shared_bert.main', *arguments]
  monkeypatch.setattr(sys, 'argv', argv)  # where config_flags looks
  monkeypatch.chdir(ROOT)
  with flagsaver.flagsaver():
    rest = flags.FLAGS(argv)
    config = flags.FLAGS.config
  assert rest == argv[:1], f'not flags: {rest[1:]}'
  validation.validate(config)
  return config


def run(arguments, monkeypatch, place, command=main):
  argv = [command.__name__, *arguments]
  monkeypatch.setattr(sys, 'argv', argv)
  monkeypatch.chdir(place)
  with flagsaver.flagsaver():
    return command.run(argv)


def write_own_files(folder):
  texts = sentences(40, 0), sentences(40, 1)
  for name in ('train.csv', 'dev.csv', 'new.csv'):
    with (folder / name).open('w', newline='') as file:
      rows = csv.writer(file)
      rows.writerow(['question', 'answer', 'label'])
      rows.writerows(zip(*texts, ['yes', 'no'] * 20, strict=True))
  for name in ('train.jsonl', 'dev.jsonl', 'test.jsonl'):
    lines = [
      json.dumps({'review': text, 'score': len(text) % 5 / 4})
      for text in texts[0]
    ]
    (folder / name).write_text('\n'.join(lines))
  for split in ('train', 'dev'):
    for version in ('1.1', '2.0'):
      path = folder / f'{split}-v{version}.json'
      squad_files.write_random(path, 20, version)


@pytest.fixture
def place(tmp_path, text, all_of_glue):
  """A folder where what the documents name is there, and little of it."""
  for name in ('configs', 'launch'):
    (tmp_path / name).symlink_to(ROOT / name)
  (tmp_path / 'text').mkdir()
  (tmp_path / 'text' / 'documents.txt').symlink_to(text)
  (tmp_path / 'glue').symlink_to(all_of_glue)
  write_own_files(tmp_path)
  return tmp_path


@pytest.fixture
def one_device(monkeypatch):
  """Half the time to compile; the tests of the mesh have eight."""
  devices = jax.devices()[:1]
  monkeypatch.setattr(mesh_lib, 'find_devices', lambda: devices)


def shortened(arguments, config):
  """The same command as a run of one step.

  What is fetched from the internet is read from files; all tasks have a test.
  """
  if config.job == 'robustness':
    return [*arguments, '--config.data.eval_batch_size=16']
  lists = ('--config.seeds=', '--config.train.stage_')  # two would be joined
  words = [w for w in arguments if not w.startswith(lists)] + SHORT
  if config.job == 'pretrain' and not any('--profile' in w for w in words):
    words.append(SHORT_TIME if config.train.hours else SHORT_TASK[-1])
  if 'mask_ratio' in config.data:
    return words + NO_RAMP
  words += SHORT_TASK
  if config.data.source == 'tfds':
    words += ['--config.data.source=local', '--config.data.glue_dir=glue']
  if config.data.task == 'all':
    words += ['--config.data.task=cola']
  if config.seeds:
    words += [f'--config.seeds={config.seeds[0]}']
  return words


def test_commands_of_the_documents_work_in_their_order(
  place, one_device, monkeypatch, capsys
):
  done = {}  # the workdir of each run, by all else
  for path in DOCUMENTS:
    for words in commands(path):
      here = f'{name_of(path)}: {shlex.join(words)}'
      if command := OTHERS.get(shlex.join(words[:3])):
        # Without Beam, which is not everywhere and has tests of its own.
        here_only = [w for w in words if not re.match('--(runner|beam_)', w)]
        code = run(here_only[3:], monkeypatch, place, command)
        assert code == 0, f'{here}\n{capsys.readouterr().err}'
        continue
      arguments = as_job(words)
      if arguments is None:
        continue
      config = parse(arguments, monkeypatch)
      needs_gpu = words[0] == 'launch/local_gpu.sh'
      if needs_gpu or config.job == 'quickstart':  # which has its own test
        continue
      arguments = shortened(arguments, config)
      workdirs = [w for w in arguments if w.startswith('--workdir=')]
      assert len(workdirs) == 1, here
      workdir = place / workdirs[0].partition('=')[2]
      flags_left = [w for w in arguments if not w.startswith('--config')]
      key = (
        parse(arguments, monkeypatch).to_json(),
        *(w for w in flags_left if w not in workdirs),
      )
      if key in done and not workdir.exists():
        workdir.symlink_to(done[key])  # the same run under another name
        continue
      code = run(arguments, monkeypatch, place)
      assert code == 0, f'{here}\n{capsys.readouterr().err}'
      done[key] = workdir
    monkeypatch.chdir(place)
    for language, block in blocks(path):
      if language == 'python':
        exec(compile(block, name_of(path), 'exec'), {})
  # What the documents say is left behind.
  for name in ('results.json', 'metrics.jsonl', 'predictions/CoLA.tsv'):
    assert (place / 'runs' / 'cola' / name).is_file()
  assert (place / 'runs' / 'own-eval' / 'results.json').is_file()
  assert list((place / 'runs' / 'profile').glob('plugins/profile/*'))


def test_the_quickstart_goes_through(place, one_device, monkeypatch, capsys):
  parts = [
    flag.replace('--config.', f'--config.{part}.')
    for part in ('pretrain', 'finetune')
    for flag in TINY
  ]
  arguments = ['--config=configs/quickstart.py', '--dry_run', *parts]
  arguments.append("--config.attentions=('shared',)")
  code = run(arguments, monkeypatch, place)
  shown = capsys.readouterr()
  assert code == 0, shown.err
  assert 'dry run: one step of everything' in shown.out
  assert 'unseen compositions' not in shown.out


@pytest.mark.parametrize('path', DOCUMENTS, ids=name_of)
def test_commands_of_a_page_are_valid(path, monkeypatch):
  for words in commands(path):
    if (arguments := as_job(words)) is not None:
      parse(arguments, monkeypatch)


@pytest.mark.parametrize('path', CONFIGS, ids=lambda p: p.stem)
def test_commands_in_the_docstring_of_a_config_are_valid(path, monkeypatch):
  found = list(docstring_commands(path))
  assert any(f'configs/{path.name}' in word for w in found for word in w)
  for words in found:
    if words[2] == 'shared_bert.main':
      parse(words[3:], monkeypatch)


@pytest.mark.parametrize('path', PAGES, ids=name_of)
def test_other_commands_name_what_is_there(path):
  makefile = (ROOT / 'Makefile').read_text()
  pyproject = tomllib.loads((ROOT / 'pyproject.toml').read_text())
  for words in commands(path):
    head, *rest = words
    if as_job(words) is not None or words[:2] == ['python', '-m']:
      continue
    if head == 'make':
      for word in rest:
        name, equals, value = word.partition('=')
        pattern = rf'^{name} \?=' if equals else rf'^{name}:'
        assert re.search(pattern, makefile, re.M), word
        if name == 'EXTRAS':
          extras = pyproject['project']['optional-dependencies']
          assert set(value.split()) <= extras.keys(), word
    elif head == 'export':
      name = rest[0].partition('=')[0]
      assert hasattr(jax.config, name.lower()) or name in makefile, name
    elif head == 'tensorboard':
      check_tensorboard(words)
    elif head.startswith('benchmarks/'):
      assert os.access(ROOT / head, os.X_OK), head
    else:
      known = (['source', '.venv/bin/activate'], ['git', 'clone'])
      assert any(words[: len(k)] == k for k in known), words


def check_tensorboard(words):
  from tensorboard import program
  from tensorboard.plugins.core import core_plugin

  board = program.TensorBoard([core_plugin.CorePluginLoader()])
  board.configure(words)


@pytest.mark.parametrize('path', PAGES, ids=name_of)
def test_keys_that_a_page_names_are_there(path):
  known = {key for defaults in DEFAULTS for key in defaults().to_dict()}
  sections = [
    {
      f'{section}.{key}'
      for section in SECTIONS
      for key in defaults().get(section, ())
    }
    for defaults in DEFAULTS
  ]
  known = known.union(*sections, flatten(study_defaults().to_dict()))
  text = path.read_text(encoding='utf-8')
  named = set(re.findall(r'--config\.([\w.]*\w)=', text))
  named |= set(re.findall(rf'`((?:{"|".join(SECTIONS)})\.\w+)[`=]', text))
  placeholders = {'KEY', 'any.key'}
  assert named - known - placeholders == set()


def anchors(path):
  """The anchors that GitHub gives the headings of a page."""
  titles = re.findall(r'^#+ (.+)$', path.read_text('utf-8'), re.M)
  return {
    re.sub(r'[^\w\- ]', '', title.lower()).replace(' ', '-') for title in titles
  }


@pytest.mark.parametrize('path', PAGES, ids=name_of)
def test_links_lead_somewhere(path):
  for link in re.findall(r'\]\(([^)\s]+)\)', path.read_text('utf-8')):
    if link.startswith('https://'):
      continue
    file, _, anchor = link.partition('#')
    target = (path.parent / file).resolve() if file else path
    assert target.exists(), link
    assert not anchor or anchor in anchors(target), link


# Of messages, as people will search for them.
QUOTED = (
  'holds another run',
  'was trained with another',
  'no better than one answer for all',
  'cannot be shared equally by',
  'is only read with data.source=local',
  'TensorBoard: off, since',
  'does not fit this model',
)


def test_messages_that_are_explained_are_those_of_the_code():
  explained = (ROOT / 'docs' / 'faq.md').read_text(encoding='utf-8')
  explained = ' '.join(explained.split())
  code = [path.read_text() for path in (ROOT / 'shared_bert').rglob('*.py')]
  for message in QUOTED:
    assert message in explained, message
    assert any(message in text for text in code), message


def reference_module():
  spec = importlib.util.spec_from_file_location(
    'make_config_reference', ROOT / 'docs' / 'make_config_reference.py'
  )
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


def test_the_reference_of_keys_is_current():
  module = reference_module()
  # If not: `make docs`.
  assert module.PATH.read_text(encoding='utf-8') == module.reference()


def test_comments_are_found_behind_and_above_keys_only():
  source = (
    'def _model():\n'
    '  return ConfigDict({\n'
    "    'a': '#',  # behind # once\n"
    '    # above,\n'
    '    # in two lines\n'
    "    'b': (\n"
    '      1,  # not this one\n'
    '    ),\n'
    "    'c': 1,\n"
    '  })\n'
    'def finetune_defaults():\n'
    "  config = ConfigDict({'data': {'d': 1}})  # behind d\n"
    '  # above e\n'
    '  config.train.e = 0\n'
    'def other():\n'
    "  return {'f': 1}  # not a key\n"
  )
  assert reference_module().meanings(source) == {
    '_model': {'model.a': 'behind # once', 'model.b': 'above, in two lines'},
    'finetune_defaults': {'data.d': 'behind d', 'train.e': 'above e'},
  }
