"""Wrong data, vocabularies and corpora: one sentence, by file and line."""

import shutil

import pytest

from shared_bert import config as config_lib
from tests.bad_input import assert_refused, flags_of, snapshot
from tests.tiny_jobs import finetune_config, shrink


def glue_flags(task, glue, pretrained):
  return flags_of(task, finetune_config(task, glue, pretrained))


def lines_of(change):
  """A change of a file's lines as one of its bytes."""
  return lambda data: b'\n'.join(change(data.split(b'\n')))


def swapped(lines):
  fields = [line.split(b'\t') for line in lines]
  return [b'\t'.join((a, d, c, b)) for a, b, c, d in fields]


# A file of GLUE, what is done to its bytes, and what the sentence must say
# besides its name.
GLUE = {
  'empty': ('CoLA/train.tsv', lambda data: b'', 'no example', 'fetch'),
  'truncated': (
    'CoLA/train.tsv',
    lambda data: data[: data.rindex(b'\t')],
    'line 40: 3 columns where 4 are expected',
    'fetch the file again',
  ),
  'ragged': (
    'CoLA/dev.tsv',
    lines_of(lambda lines: [*lines[:5], b'x\t1\t\tsaid\tand done', *lines[5:]]),
    'line 6: 5 columns',
    'Mend the line',
  ),
  'mislabelled': (
    'CoLA/train.tsv',
    lambda data: data.replace(b'x\t1\t', b'x\t2\t', 1),
    "line 2: label '2' in column 'label' is not one of 0, 1",
    'Mend the line',
  ),
  'label and sentence swapped': (
    'CoLA/train.tsv',
    lines_of(swapped),
    "line 1: label '",
    'is not one of 0, 1',
  ),
  'not UTF-8': (
    'CoLA/train.tsv',
    lambda data: data + b'\nx\t1\t\tcaf\xe9',
    'line 41: not UTF-8',
    'Save the file as UTF-8',
  ),
  'UTF-16': (
    'CoLA/train.tsv',
    lambda data: data.decode().encode('utf-16'),
    'line 1: not UTF-8',
  ),
  'binary': (
    'CoLA/train.tsv',
    lambda data: bytes(range(256)) * 50,
    'line 1: ',
    'Mend the line',
  ),
  'one huge line': (
    'CoLA/train.tsv',
    lambda data: b'word ' * 2**20,
    'line 1: 1 columns where 4',
  ),
  'a huge label': (
    'CoLA/train.tsv',
    lambda data: data + b'\nx\t' + b'word ' * 2**20 + b'\t\tx',
    "line 41: label 'word word",
    '…',
  ),
  'header only': (
    'MNLI/train.tsv',
    lines_of(lambda lines: lines[:1]),
    'no example',
  ),
  'no header': (
    'MNLI/train.tsv',
    lines_of(lambda lines: lines[1:]),
    "line 1: no column 'sentence1', 'sentence2', 'gold_label'",
    'Expected a tab-separated header',
  ),
  'a column twice': (
    'MNLI/train.tsv',
    lambda data: data.replace(b'index', b'sentence1', 1),
    "line 1: 'sentence1' twice in the header",
    'Expected',
  ),
  'a column misnamed': (
    'MNLI/dev_matched.tsv',
    lambda data: data.replace(b'gold_label', b'label', 1),
    "no column 'gold_label'",
  ),
  'a thousand columns': (
    'MNLI/train.tsv',
    lambda data: b'word\t' * 1000,
    '… (1,000 in all)',
  ),
  'a label misspelt': (
    'MNLI/train.tsv',
    lambda data: data.replace(b'\tneutral', b'\tneutrall', 1),
    "label 'neutrall'",
    'entailment, neutral, contradiction',
  ),
  'a score too high': (
    'STS-B/train.tsv',
    lambda data: data.replace(b'\t5.0', b'\t7.0', 1),
    "label '7.0' in column 'score' is not a number from 0 to 5",
  ),
  'a score that is no number': (
    'STS-B/dev.tsv',
    lambda data: data.replace(b'\t5.0', b'\tnan', 1),
    "label 'nan'",
    'from 0 to 5',
  ),
  'an index of 5000 digits': (
    'MNLI/test_matched.tsv',
    lambda data: b'index\tsentence1\tsentence2\n' + b'9' * 5000 + b'\ta\tb\n',
    "line 2: index '9999",
    'not a whole number',
  ),
}


def copied(folder, target):
  shutil.copytree(folder, target)
  return target


@pytest.mark.parametrize('case', GLUE)
def test_a_damaged_file_of_glue_is_named_with_its_line(
  case, commands, glue, pretrained, tmp_path
):
  name, change, *words = GLUE[case]
  folder = copied(glue, tmp_path / 'my glue')
  path = folder / name
  path.write_bytes(change(path.read_bytes() if path.exists() else b''))
  task = {'CoLA': 'cola', 'MNLI': 'mnli', 'STS-B': 'stsb'}[path.parent.name]
  flags = glue_flags(task, folder, pretrained)
  before = snapshot(tmp_path)
  done = commands.run('main', *flags, f'--workdir={tmp_path / "run"}')
  assert_refused(done, [str(path), *words])
  assert before.items() <= snapshot(tmp_path).items()


# What is in place of the folder of GLUE, or of a part of it.
GLUE_FOLDERS = {
  'none': (lambda folder: folder / 'none', '/none is not there', 'layout'),
  'a file': (lambda folder: folder / 'CoLA' / 'dev.tsv', 'is a file', 'layout'),
  'the folder of a task': (
    lambda folder: folder / 'CoLA',
    'CoLA holds train.tsv itself: name its parent',
  ),
  'a folder for a file': (
    lambda folder: (
      (folder / 'CoLA' / 'train.tsv').unlink(),
      (folder / 'CoLA' / 'train.tsv').mkdir(),
      folder,
    )[-1],
    'CoLA/train.tsv (Is a directory)',
    'check that it is a file',
  ),
  'no dev set': (
    lambda folder: ((folder / 'CoLA' / 'dev.tsv').unlink(), folder)[-1],
    'CoLA/dev.tsv, which is not there',
  ),
  'a file that may not be read': (
    lambda folder: ((folder / 'CoLA' / 'train.tsv').chmod(0), folder)[-1],
    'CoLA/train.tsv (Permission denied)',
    'that you may read',
  ),
  'a folder that may not be entered': (
    lambda folder: ((folder / 'CoLA').chmod(0), folder)[-1],
    'CoLA/train.tsv cannot be read or written (Permission denied)',
    'permissions',
  ),
}


@pytest.mark.parametrize('case', GLUE_FOLDERS)
def test_a_folder_that_is_not_glue_is_named(
  case, commands, glue, pretrained, tmp_path
):
  change, *words = GLUE_FOLDERS[case]
  folder = change(copied(glue, tmp_path / 'glue'))
  flags = glue_flags('cola', folder, pretrained)
  done = commands.run(
    'main', *flags, f'--workdir={tmp_path / "run"}', humble=True
  )
  (tmp_path / 'glue' / 'CoLA').chmod(0o755)
  assert_refused(done, words)


def test_the_files_of_every_task_are_missed_before_the_first_is_trained(
  commands, glue, pretrained, tmp_path
):
  flags = [*glue_flags('cola', glue, pretrained), '--config.data.task=all']
  done = commands.run('main', *flags, f'--workdir={tmp_path}', devices=False)
  assert_refused(done, ['no files of sst2 (SST-2)', 'data.task=cola,stsb,mnli'])
  assert '── cola ──' not in done.out


def test_a_task_without_training_data_says_whose_it_is(
  commands, glue, pretrained, tmp_path
):
  flags = [*glue_flags('cola', glue, pretrained), '--config.data.task=ax']
  done = commands.run('main', *flags, f'--workdir={tmp_path}')
  assert_refused(done, ['data.task=ax', 'data.task=mnli'])


CSV = b'sentence,label\n' + b''.join(
  b'the dog %d sings,%d\n' % (i, i % 2) for i in range(20)
)
REGRESSION = '--config.data.regression=True'

# The training file's name and bytes, flags, and what the sentence must say.
OWN = {
  'empty': ('a.csv', b'', [], 'data.train_file=', 'is empty'),
  'header only': ('a.csv', b'sentence,label\n', [], 'no example'),
  'ragged': ('a.csv', CSV + b'a,b,c\n', [], 'line 22: 3 columns', 'quotation'),
  'a column twice': (
    'a.csv',
    b'sentence,label,label\na,b,c\n',
    [],
    "column 'label' is there 2 times",
    'rename',
  ),
  'a column misnamed': (
    'a.tsv',
    b'sentence\tlable\na\tb\n',
    [],
    "no column 'label'",
    "Did you mean 'lable'?",
  ),
  'one class': ('a.csv', b'sentence,label\na,1\nb,1\n', [], 'labels in column'),
  'a quotation without end': (
    'a.csv',
    b'sentence,label\n"a,1\nb,1\n',
    [],
    'begins in line 2 is not valid CSV',
  ),
  'binary': (
    'a.csv',
    bytes(range(256)) * 30,
    [],
    'line 1: a NUL byte',
    'UTF-8',
  ),
  'Latin-1': ('a.csv', CSV + b'caf\xe9,1\n', [], 'line 22: not UTF-8', 'Save'),
  'huge': (
    'a.csv',
    b'sentence,label\n"' + b'word ' * 2**22 + b'",1\nb,0\n',
    [],
    'line 2',
    'at most 16,777,216 characters',
  ),
  'half an object': (
    'a.jsonl',
    b'{"sentence": "a", "label": 1}\n{"sentence": "b"\n',
    [],
    'line 2: not valid JSON',
    'one whole object a line',
  ),
  'an array': (
    'a.jsonl',
    b'[{"sentence": "a", "label": 1}]\n',
    [],
    'line 1: a JSON array',
    'on a line each',
  ),
  'no text': (
    'a.jsonl',
    b'{"sentence": "a", "label": 1}\n{"sentence": null, "label": 0}\n',
    [],
    "line 2: 'sentence' is null",
  ),
  'a spreadsheet': ('a.xlsx', b'PK', [], 'must end in .csv', 'Save'),
  'never packed': ('a.csv.gz', CSV, [], 'cannot be read to its end', 'fetch'),
  'unknown names': (
    'a.csv',
    CSV,
    ['--config.data.label_names=("good","bad")'],
    "line 2: the label '0'",
    "not one of 'good', 'bad'",
  ),
  'names twice': (
    'a.csv',
    CSV,
    ['--config.data.label_names=(1,1)'],
    'data.label_names must be two different names',
  ),
  'names of scores': (
    'a.csv',
    CSV,
    ['--config.data.label_names=(0,1)', REGRESSION],
    'exclude each other',
  ),
  'no such column': (
    'a.csv',
    CSV,
    ['--config.data.text_columns=text'],
    "line 1: no column 'text'; there are 'sentence', 'label'",
  ),
  'the label as text': (
    'a.csv',
    CSV,
    ['--config.data.text_columns=("sentence","label")'],
    'the label would be part of the text',
  ),
  'no label column': (
    'a.csv',
    CSV,
    ['--config.data.label_column='],
    'data.label_column is empty',
  ),
  'a score that is no number': (
    'a.csv',
    CSV + b'x,nan\n',
    [REGRESSION],
    "line 22: the label 'nan'",
    'finite number',
  ),
  'a score past float32': (
    'a.csv',
    CSV + b'x,1e60\n',
    [REGRESSION],
    "line 22: the label '1e60'",
    'at most 3.4e38',
  ),
}


def own_flags(train, dev, pretrained):
  config = shrink(config_lib.finetune_defaults(), epochs=1.0)
  config.data.update({'source': 'files', 'task': 'own', 'seq_len': 16})
  config.data.update({'train_file': str(train), 'dev_file': str(dev)})
  config.data.eval_batch_size = 16
  config.init_from = str(pretrained)
  return flags_of('own', config)


@pytest.mark.parametrize('case', OWN)
def test_a_file_of_one_s_own_is_named_with_its_line(
  case, commands, pretrained, tmp_path
):
  name, data, flags, *words = OWN[case]
  train, dev = tmp_path / name, tmp_path / 'dev.csv'
  train.write_bytes(data)
  dev.write_bytes(CSV)
  argv = [*own_flags(train, dev, pretrained), *flags]
  done = commands.run('main', *argv, f'--workdir={tmp_path / "run"}')
  assert_refused(done, words)


@pytest.mark.parametrize(
  ('dev', 'words'),
  [
    ('none.csv', ['data.dev_file=', 'there is no such file', 'check the path']),
    ('', ['data.dev_file=', 'is a folder; name the file in it']),
    ('c.csv', ["c.csv, line 2: the label '7'", 'those of data.train_file']),
  ],
)
def test_a_dev_file_that_does_not_fit_is_refused(
  dev, words, commands, pretrained, tmp_path
):
  (tmp_path / 'a.csv').write_bytes(CSV)
  (tmp_path / 'c.csv').write_bytes(b'sentence,label\na,7\n')
  argv = own_flags(tmp_path / 'a.csv', tmp_path / dev, pretrained)
  done = commands.run('main', *argv, f'--workdir={tmp_path / "run"}')
  assert_refused(done, words)
