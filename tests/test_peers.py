"""The comparison with Hugging Face's BERT: fair, or refused."""

import importlib
import json
import pathlib

import numpy as np
import pytest

from shared_bert.data.tokenizer import SPECIAL_TOKENS
from tests import glue_files
from tests.tiny_jobs import WORDS

_FOLDER = pathlib.Path(__file__).parents[1] / 'benchmarks'
_REDUCED = '--size=tiny --vocab_size=60 --seq_len=8 --rounds=2'.split()


@pytest.fixture
def contest(monkeypatch):
  monkeypatch.syspath_prepend(str(_FOLDER))
  return importlib.import_module('contest')


@pytest.fixture
def compare(contest, tmp_path, monkeypatch):
  """Runs the comparison, reduced, to the file that it wrote."""
  torch = pytest.importorskip('torch')
  pytest.importorskip('transformers')
  peers = importlib.import_module('peers')
  # Of this process, which is for other tests as well.
  monkeypatch.setattr(peers, 'pin', lambda cores: None)
  threads, output = torch.get_num_threads(), tmp_path / 'peers.json'

  def run(*flags, tolerance=peers.TOLERANCE):
    monkeypatch.setattr(peers, 'TOLERANCE', tolerance)
    flags = [str(output), *_REDUCED, '--turn_seconds=1e-3', *flags]
    monkeypatch.setattr('sys.argv', ['peers.py', *flags])
    peers.main()
    return output

  run.output = output
  yield run
  torch.set_num_threads(threads)


@pytest.mark.slow
def test_peers_are_timed_on_equal_work(compare, capsys):
  output = compare()
  told = json.loads(output.read_text())
  forward, train = told['cases']['forward 8 x 8'], told['cases']['train 4 x 8']
  assert [row['of'] for row in forward['parity']] == [
    'standard and Hugging Face',
    'shared and shared, folded',
    'shared and its export',
  ]
  assert [row['of'] for row in train['parity']] == [
    'standard and Hugging Face',
    'standard and Hugging Face, gathered head',
    'shared and its export',
  ]
  for case in told['cases'].values():
    assert all(row['difference'] < 1e-4 for row in case['parity'])
    assert all(len(rounds) == 2 for rounds in case['rounds'].values())
  compared = {(row['first'], row['second']) for row in forward['ratios']}
  assert compared == {
    ('Hugging Face', 'standard'),
    ('Hugging Face', 'shared'),
    ('Hugging Face', 'shared, folded'),
    ('standard', 'shared'),
    ('standard', 'shared, folded'),
    ('shared', 'shared, folded'),
  }
  compared = {(row['first'], row['second']) for row in train['ratios']}
  assert ('Hugging Face, gathered head', 'shared') in compared
  page = output.with_suffix('.md').read_text()
  assert '## train 4 x 8' in page
  assert page in capsys.readouterr().out


@pytest.fixture
def pairs(tmp_path):
  """Flags that name pairs of many lengths, and words to read them by."""
  rng = np.random.default_rng(0)
  lengths = rng.integers(1, 7, (40, 2))
  rows = [
    {
      'sentence1': ' '.join(rng.choice(WORDS, first)),
      'sentence2': ' '.join(rng.choice(WORDS, second)),
      'gold_label': 'entailment neutral contradiction'.split()[number % 3],
    }
    for number, (first, second) in enumerate(lengths)
  ]
  columns = (*glue_files.MNLI_COLUMNS, 'gold_label')
  table = glue_files.table(columns, *rows)
  glue_files.write(tmp_path / 'MNLI', 'train.tsv', table)
  vocab = tmp_path / 'vocab.txt'
  vocab.write_text('\n'.join(dict.fromkeys([*SPECIAL_TOKENS, *WORDS])))
  return [f'--glue_dir={tmp_path}', f'--vocab={vocab}']


@pytest.mark.slow
def test_fine_tuning_is_timed_on_the_same_examples(compare, pairs):
  flags = [*pairs, '--cases=finetune', '--batch_size=8', '--seq_len=32']
  output = compare(*flags)
  (case,) = json.loads(output.read_text())['cases'].values()
  assert [row['of'] for row in case['parity']] == [
    'standard, packed and standard, padded',
    'standard, packed and Hugging Face',
    'shared, packed and shared, padded',
    'shared, packed and its export',
  ]
  assert all(row['difference'] < 1e-4 for row in case['parity'])
  padding = case['padding']
  assert padding['packed'] < padding['Hugging Face'] < padding['padded']
  page = output.with_suffix('.md').read_text()
  assert '| milliseconds a step | wall | CPU | examples a second |' in page
  assert '| shared, packed | Hugging Face |' in page


def test_fine_tuning_without_pairs_says_what_it_needs(compare, tmp_path):
  with pytest.raises(SystemExit, match='by --glue_dir=.* by --vocab='):
    compare('--cases=finetune')
  with pytest.raises(SystemExit, match='MNLI/train.tsv'):
    compare('--cases=finetune', f'--glue_dir={tmp_path}', '--vocab=none')


def test_what_computes_something_else_is_not_timed(compare):
  with pytest.raises(SystemExit, match='do not compute the same'):
    compare('--cases=forward', tolerance=0.0)
  assert not compare.output.exists()


def test_a_machine_that_slows_down_changes_no_ratio(contest):
  seconds = {
    'peer': [(2.0, 1.0), (20.0, 1.5), (4.0, 1.0)],
    'shared': [(1.0, 0.5), (10.0, 0.5), (2.0, 0.5)],
  }
  found = contest.summarise(seconds, loads=[1.0] * 3, cpus=2)
  (ratio,) = found['ratios']
  assert (ratio['first'], ratio['second']) == ('peer', 'shared')
  assert ratio['wall'] == {'median': 2.0, 'least': 2.0, 'most': 2.0}
  assert ratio['cpu'] == {'median': 2.0, 'least': 2.0, 'most': 3.0}


def test_rounds_on_a_busy_machine_count_only_if_all_are(contest):
  seconds = {'peer': [(2.0, 2.0), (9.0, 9.0)], 'shared': [(1.0, 1.0)] * 2}
  found = contest.summarise(seconds, loads=[2.0, 5.0], cpus=2)
  assert found['quiet'] == [0]
  assert found['ratios'][0]['wall']['most'] == 2.0
  found = contest.summarise(seconds, loads=[5.0, 5.0], cpus=2)
  assert found['quiet'] == []
  assert found['ratios'][0]['wall']['most'] == 9.0


def test_an_unknown_case_is_named(contest):
  with pytest.raises(SystemExit, match='--cases=forwards is not known'):
    contest.cases_of(['forwards'], 128, 32)
