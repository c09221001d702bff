"""Files as the official GLUE archives have them, oddities included."""

import contextlib
import os
import pathlib
import subprocess
import sys
from unittest import mock

import numpy as np

MNLI_COLUMNS = (
  'index promptID pairID genre sentence1_binary_parse sentence2_binary_parse '
  'sentence1_parse sentence2_parse sentence1 sentence2'
).split()
STSB_COLUMNS = (
  'index genre filename year old_index source1 source2 sentence1 sentence2'
).split()
QQP_COLUMNS = 'id qid1 qid2 question1 question2 is_duplicate'.split()
MRPC_COLUMNS = ['Quality', '#1 ID', '#2 ID', '#1 String', '#2 String']

# What readers of CSV, of lines or of bytes get wrong.
ODD_TEXTS = (
  'He said "go.',
  '"Quoted" is not quoting, nor is \\t a tab.',
  'one\u2028line\x85still\x0cand\x1eon',
  ' spaces around ',
  'caf\xe9 \u4f60\u597d \U0001f600',
  "''It 's tokenized,'' said the -LRB- parser -RRB- .",
)

# The package that the last argument names is as if it were not installed.
WITHOUT = (
  'import importlib.machinery, sys\n'
  'finder = importlib.machinery.PathFinder\n'
  'find = finder.find_spec\n'
  'finder.find_spec = lambda name, *arguments: (\n'
  '  None if name == sys.argv[-1] else find(name, *arguments))\n'
)


def write(folder, name, rows, end='\n', start='', last=True):
  """Writes rows (sequences of fields) as the official files do."""
  folder.mkdir(parents=True, exist_ok=True)
  text = start + end.join('\t'.join(row) for row in rows)
  (folder / name).write_bytes((text + (end if last else '')).encode())


def table(columns, *rows):
  """A header and rows given by column name; other columns are blank."""
  return [columns, *([row.get(name, '') for name in columns] for row in rows)]


def write_odd_glue(glue_dir):
  """Writes every split of every task, as small and as odd as it may be."""
  pairs = list(zip(ODD_TEXTS, ODD_TEXTS[1:], strict=False))
  standard = ('train', 'dev', 'test')
  sentences = ('sentence1', 'sentence2')
  questions = ('question1', 'question2')
  entailment = ('not_entailment', 'entailment')

  def write_pairs(folder, columns, texts, labels, splits):
    """The first column is the index, the last the label, but for test."""
    for split in splits:
      is_test = split.startswith('test')
      rows = [
        dict(zip(texts, pair, strict=True))
        | {columns[0]: str(i), columns[-1]: labels[i % len(labels)]}
        for i, pair in enumerate(pairs)
      ]
      names = columns[:-1] if is_test else columns
      write(glue_dir / folder, f'{split}.tsv', table(names, *rows))

  cola = [('gj04', '01'[i % 2], '', text) for i, text in enumerate(ODD_TEXTS)]
  write(glue_dir / 'CoLA', 'train.tsv', cola)
  write(glue_dir / 'CoLA', 'dev.tsv', cola[::-1], last=False)
  sst2 = [(text, '10'[i % 2]) for i, text in enumerate(ODD_TEXTS)]
  for split in ('train', 'dev'):
    rows = [('sentence', 'label'), *sst2]
    write(glue_dir / 'SST-2', f'{split}.tsv', rows, end='\r\n')
  for folder in ('CoLA', 'SST-2'):
    rows = [(str(i), text) for i, text in enumerate(ODD_TEXTS)]
    write(glue_dir / folder, 'test.tsv', [('index', 'sentence'), *rows])

  mrpc = [
    ('01'[i % 2], str(i), str(9 - i), *pair) for i, pair in enumerate(pairs)
  ]
  for part in ('train', 'test'):
    name = f'msr_paraphrase_{part}.txt'
    rows = [MRPC_COLUMNS, *mrpc]
    write(glue_dir / 'MRPC', name, rows, end='\r\n', start='\ufeff')
  write(glue_dir / 'MRPC', 'dev_ids.tsv', [mrpc[3][1:3], mrpc[1][1:3]])

  stsb = [*STSB_COLUMNS, 'score']
  write_pairs('STS-B', stsb, sentences, ('0.000', '3.800', '5.000'), standard)

  write_pairs('QQP', QQP_COLUMNS, questions, '10', ('train', 'dev'))
  with (glue_dir / 'QQP' / 'train.tsv').open('a') as file:
    file.write('5\t1\t2\t"A question that breaks here.\n"\tAnother?\t1\n')
    file.write('6\t3\t4\tWho?\t\t1\n')
    file.write('7\t5\t6\tWhere?\t"A question that breaks here.\n"\t0\n')
  tests = [(str(i), *pair) for i, pair in enumerate(pairs)]
  write(glue_dir / 'QQP', 'test.tsv', [('id', *questions), *tests])

  mnli = [*MNLI_COLUMNS, 'label1', 'gold_label']
  splits = ('train', 'dev_matched', 'dev_mismatched')
  splits += ('test_matched', 'test_mismatched')
  nli = ('neutral', 'contradiction', 'entailment')
  write_pairs('MNLI', mnli, sentences, nli, splits)
  qnli = ('index', 'question', 'sentence', 'label')
  write_pairs('QNLI', qnli, qnli[1:3], entailment, standard)
  rte = ('index', *sentences, 'label')
  write_pairs('RTE', rte, sentences, entailment, standard)
  write_pairs('WNLI', rte, sentences, '10', standard)
  rows = [('index', *sentences), *tests]
  write(glue_dir / 'AX', 'diagnostic.tsv', rows, last=False)


@contextlib.contextmanager
def as_downloads(glue_dir):
  """Has TFDS find the files of a folder where it would download them.

  With None, a download is an error.
  """
  import tensorflow_datasets as tfds

  mrpc = {
    'train': 'msr_paraphrase_train.txt',
    'test': 'msr_paraphrase_test.txt',
    'dev_ids': 'dev_ids.tsv',
  }

  def download(manager, urls):
    if isinstance(urls, dict):
      return {key: str(glue_dir / 'MRPC' / mrpc[key]) for key in urls}
    return str(glue_dir / 'AX' / 'diagnostic.tsv')

  with mock.patch.multiple(
    tfds.download.DownloadManager,
    download=download,
    download_and_extract=lambda manager, url: os.fspath(glue_dir),
  ):
    yield


def run_python(code, *arguments):
  """Starts Python code that may import the project and the tests."""
  return subprocess.Popen(
    [sys.executable, '-c', code, *map(str, arguments)],
    cwd=pathlib.Path(__file__).parents[1],
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )


def assert_equal(found, expected):
  """Two readers have found the same examples."""
  assert found.text_a == expected.text_a
  assert found.text_b == expected.text_b
  assert found.ids == expected.ids
  if expected.labels is None:
    assert found.labels is None
  else:
    assert found.labels.dtype == expected.labels.dtype
    np.testing.assert_array_equal(found.labels, expected.labels)
