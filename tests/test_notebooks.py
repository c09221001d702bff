"""The notebooks: they run, show what they say, and come without outputs."""

import json
import pathlib
import re
import sys
import types

import jax
import matplotlib.pyplot as plt
import pytest

from shared_bert.study import report
from shared_bert.training import mesh as mesh_lib
from tests.test_documents import as_job, commands, parse
from tests.tiny_jobs import SMALL
from tests.tiny_study import study

ROOT = pathlib.Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / 'notebooks').glob('*.ipynb'))
SHORT = {
  'tensorboard': False,
  'train.steps': 2,
  'train.warmup_steps': 0,
  'train.batch_size': 16,
}
SHORT |= {f'model.{k}': v for k, v in SMALL.items() if k != 'max_positions'}

by_name = pytest.mark.parametrize('path', NOTEBOOKS, ids=lambda p: p.stem)


def cells_of(path):
  return json.loads(path.read_text(encoding='utf-8'))['cells']


def source_of(cell):
  return ''.join(cell['source'])


def execute(name, monkeypatch, **parameters):
  """Runs a notebook's cells, with other values in the cell of its parameters.

  Returns its names and what it displays.
  """
  path = ROOT / 'notebooks' / name
  # As Jupyter starts it; its first cell goes up from there.
  monkeypatch.chdir(path.parent)
  monkeypatch.syspath_prepend(str(ROOT))  # undoes what that cell adds
  monkeypatch.setenv('MPLBACKEND', 'agg')
  # Half the time to compile; the tests of the mesh have eight.
  devices = jax.devices()[:1]
  monkeypatch.setattr(mesh_lib, 'find_devices', lambda: devices)
  shown = []

  def display(thing):  # as Jupyter has it, a name in every notebook
    is_text = hasattr(thing, '_repr_markdown_')
    shown.append(thing._repr_markdown_() if is_text else thing._repr_png_())

  namespace = {'display': display}
  try:
    for cell in cells_of(path):
      if cell['cell_type'] == 'code':
        code = compile(source_of(cell), f'{name}, {cell["id"]}', 'exec')
        exec(code, namespace)
        if 'parameters' in cell['metadata'].get('tags', ()):
          assert parameters.keys() <= namespace.keys()
          namespace |= parameters
  finally:
    plt.close('all')
  return namespace, shown


def test_there_are_three():
  assert [path.name[:3] for path in NOTEBOOKS] == ['01_', '02_', '03_']


@by_name
def test_a_notebook_is_short_and_has_no_outputs(path):
  cells = cells_of(path)
  assert 15 <= len(cells) <= 25
  assert len({cell['id'] for cell in cells}) == len(cells)
  for cell in cells:
    if cell['cell_type'] == 'code':
      assert cell['outputs'] == []
      assert cell['execution_count'] is None
  tags = [tag for cell in cells for tag in cell['metadata'].get('tags', ())]
  assert tags == ['parameters']


@by_name
def test_a_notebook_opens_in_colab_and_says_so(path):
  first, second, *_ = cells_of(path)
  assert 'https://colab.research.google.com/github/' in source_of(first)
  assert '*In Colab*' in source_of(first)
  # One way for all.
  assert source_of(second) == source_of(cells_of(NOTEBOOKS[0])[1])
  assert 'google.colab' in source_of(second)


def test_colab_is_told_what_it_lacks(tmp_path, monkeypatch):
  setup = source_of(cells_of(NOTEBOOKS[0])[1])
  monkeypatch.setitem(sys.modules, 'google.colab', types.ModuleType('colab'))
  monkeypatch.chdir(tmp_path)
  with pytest.raises(ValueError, match='address of the repository'):
    exec(setup, {})


# ml_collections reads configs so on Python 3.11.
@pytest.mark.filterwarnings('ignore:the load_module')
@by_name
def test_links_and_commands_of_a_notebook_are_valid(
  path, tmp_path, monkeypatch
):
  texts = [source_of(c) for c in cells_of(path) if c['cell_type'] != 'code']
  page = tmp_path / 'page.md'
  page.write_text('\n\n'.join(texts) + '\n', encoding='utf-8')
  for link in re.findall(r'\]\(([^)\s]+)\)', page.read_text(encoding='utf-8')):
    if not link.startswith('https://'):
      assert (path.parent / link).exists(), link
  for named in re.findall(r'`(0\d_\w+\.ipynb)`', page.read_text('utf-8')):
    assert (path.parent / named).exists(), named
  for words in commands(page):
    if (arguments := as_job(words)) is not None:
      parse(arguments, monkeypatch)


def test_what_follows_from_sharing_holds_in_its_notebook(tmp_path, monkeypatch):
  namespace, _ = execute(
    '01_shared_attention.ipynb',
    monkeypatch,
    WORKDIR=str(tmp_path),
    SETTINGS=SHORT,
  )
  differences = namespace['differences']
  # What the notebook says of these is that they are no such thing.
  others = {'  and transposed, standard', 'logits, d_q·g alone'}
  assert {k for k, v in differences.items() if v > 1e-6} == others
  assert len(differences) == 10
  assert namespace['counts']['shared']['total'] == 95_335_680


def test_the_notebook_of_fine_tuning_shows_a_run(tmp_path, monkeypatch):
  namespace, shown = execute(
    '02_finetune.ipynb',
    monkeypatch,
    WORKDIR=str(tmp_path),
    SETTINGS=SHORT,
    PRETRAIN={},
    FINETUNE={'train.eval_every': 1, 'data.eval_batch_size': 64},
  )
  results, counts = namespace['results'], namespace['counts']
  # What `load` predicts is what the run has measured.
  accuracy = counts.trace() / counts.sum()
  assert accuracy == pytest.approx(results['metrics']['test']['accuracy'])
  assert namespace['apart'] < 1e-5
  assert [picture[:4] for picture in shown] == [b'\x89PNG']


def shown_text(shown):
  return [text for text in shown if isinstance(text, str)]


def test_made_up_results_are_called_so(tmp_path, monkeypatch):
  _, shown = execute(
    '03_results.ipynb',
    monkeypatch,
    REPORT=str(tmp_path / 'report.json'),
    PICTURES=str(tmp_path),
  )
  texts = shown_text(shown)
  assert len(texts) > 8
  assert all('Made-up numbers' in text for text in texts)
  assert len(shown) - len(texts) == 4  # pictures


def test_results_are_those_of_the_report(tmp_path, monkeypatch):
  findings = study(models=('standard', 'shared'), tasks=('mrpc',), seeds=(0,))
  report.write_report(findings, tmp_path)
  namespace, shown = execute(
    '03_results.ipynb',
    monkeypatch,
    REPORT=str(tmp_path / 'report.json'),
    PICTURES=str(tmp_path / 'again'),
  )
  assert namespace['same']
  written = (tmp_path / 'report.md').read_text(encoding='utf-8')
  texts = shown_text(shown)
  assert not any('Made-up' in text for text in texts)
  tables = [
    line for text in texts for line in text.splitlines() if line[:2] == '| '
  ]
  assert len(set(tables) & set(written.splitlines())) > 20
