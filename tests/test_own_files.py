"""Own data reads the same in every format, and every flaw is a sentence."""

import bz2
import csv
import gzip
import io
import json
import os
import pathlib

import numpy as np
import pytest

from shared_bert import errors
from shared_bert.data import glue, own_files, table_files

# Two texts with what the formats treat in their own ways, and a label.
_ROWS = [
  {'a': 'He said "go", then\u2028went.', 'b': ' x ', 'label': 'yes'},
  {'a': 'Grüße, 日本 🙂', 'b': 'it\'s 5" wide', 'label': 'no'},
  {'a': '', 'b': '1.50', 'label': 'yes'},
]


def _csv(rows, end='\n'):
  stream = io.StringIO()
  writer = csv.DictWriter(stream, rows[0].keys(), lineterminator=end)
  writer.writeheader()
  writer.writerows(rows)
  return stream.getvalue()


def _tsv(rows):
  lines = [rows[0].keys(), *(row.values() for row in rows)]
  return ''.join('\t'.join(map(str, line)) + '\n' for line in lines)


def _jsonl(rows):
  return ''.join(json.dumps(row) + '\n' for row in rows)


def _write(folder, name, content):
  path = folder / name
  if isinstance(content, str):
    content = content.encode()
  path.write_bytes(content)
  return path


def _load(train='', dev='', test='', **settings):
  settings = {'text_columns': ('text',), 'label_column': 'label'} | settings
  return own_files.load(train, dev, test, **settings)


def _refused(words, *files, **settings):
  """The files are a `UserError` whose sentence has these words."""
  with pytest.raises(errors.UserError) as caught:
    _load(*files, **settings)
  for word in words:
    assert word in str(caught.value)
  assert len(str(caught.value)) < 900


_FORMATS = {
  'data.csv': _csv(_ROWS),
  'other_columns.csv': _csv([{'x': 'y,z'} | row for row in _ROWS]),
  'windows.csv': b'\xef\xbb\xbf' + _csv(_ROWS, '\r\n').encode(),
  'no_final_newline.csv': _csv(_ROWS).removesuffix('\n'),
  'more_columns_than_names.csv': _csv(_ROWS).replace('yes\n', 'yes,,\n'),
  'DATA.CSV': _csv(_ROWS),
  'data.tsv': _tsv(_ROWS),
  'windows.tsv': b'\xef\xbb\xbf' + _tsv(_ROWS).replace('\n', '\r\n').encode(),
  'data.jsonl': _jsonl(_ROWS),
  'data.json': b'\xef\xbb\xbf' + _jsonl(_ROWS).replace('\n', '\r\n').encode(),
  'numbers.jsonl': _jsonl(_ROWS).replace('"1.50"', '1.50'),
  'packed.csv.gz': gzip.compress(_csv(_ROWS).encode(), mtime=0),
  'packed.tsv.gz': gzip.compress(_tsv(_ROWS).encode(), mtime=0),
  'packed.jsonl.bz2': bz2.compress(_jsonl(_ROWS).encode()),
}


@pytest.mark.parametrize('name', _FORMATS)
def test_every_format_gives_the_same_examples(tmp_path, name):
  path = _write(tmp_path, name, _FORMATS[name])
  task, splits = _load(path, path, text_columns=('a', 'b'), name='mine')
  assert list(splits) == ['train', 'dev']
  train = splits['train']
  assert train.text_a == [row['a'] for row in _ROWS]
  assert train.text_b == [row['b'] for row in _ROWS]
  assert train.labels.dtype == np.int32
  assert train.labels.tolist() == [1, 0, 1]
  assert train.ids == [0, 1, 2]
  assert train.skip_reasons == {}
  assert (task.name, task.label_names) == ('mine', ('no', 'yes'))
  assert (task.is_pair, task.num_outputs) == (True, 2)
  assert task.metrics == ('accuracy', 'matthews')


def test_a_csv_text_may_have_line_breaks_and_later_lines_keep_their_number(
  tmp_path,
):
  rows = [{'text': 'two\nlines', 'label': 0}, {'text': 'b', 'label': 1}]
  for end in ('\n', '\r\n'):
    content = _csv(rows).replace('\n', end)
    path = _write(tmp_path, 'train.csv', content)
    _, splits = _load(path, path)
    assert splits['train'].text_a == ['two\nlines', 'b']
    _write(tmp_path, 'train.csv', content + f'c,{end}')
    with pytest.raises(errors.UserError, match=r'line 5: the label .* empty'):
      _load(path, path)


def test_empty_lines_are_skipped_and_counted_and_no_row_number_is_lost(
  tmp_path,
):
  for name, content in (
    ('train.csv', '\ntext,label\na,0\n\n\nb,1\n\n'),
    ('train.tsv', '\ntext\tlabel\na\t0\n\n\nb\t1\n\n'),
    (
      'train.jsonl',
      '\n{"text":"a","label":0}\n\n \n{"text":"b","label":1}\n\n',
    ),
  ):
    path = _write(tmp_path, name, content)
    train = _load(path, path)[1]['train']
    assert (train.text_a, train.text_b) == (['a', 'b'], None)
    assert (train.labels.tolist(), train.ids) == ([0, 1], [0, 1])
    assert train.skip_reasons == {'blank line': 4}


def test_tsv_takes_a_quotation_mark_for_text(tmp_path):
  path = _write(tmp_path, 'a.tsv', 'text\tlabel\n"a\tx\nb"\ty\n')
  assert _load(path, path)[1]['train'].text_a == ['"a', 'b"']


def test_a_text_longer_than_the_csv_module_takes_is_read(tmp_path, monkeypatch):
  before = csv.field_size_limit()
  rows = [{'text': 'x' * 200_000, 'label': i} for i in range(2)]
  path = _write(tmp_path, 'a.csv', _csv(rows))
  assert len(_load(path, path)[1]['train'].text_a[0]) == 200_000
  monkeypatch.setattr(table_files, '_LONGEST_FIELD', 150_000)
  with pytest.raises(errors.UserError, match=r'in line 2 .* at most 150,000'):
    _load(path, path)
  assert csv.field_size_limit() == before


@pytest.mark.parametrize(
  ('labels', 'given', 'names', 'ids'),
  [
    (['b', 'a', 'b'], (), ('a', 'b'), [1, 0, 1]),
    (['10', '9', '-1'], (), ('-1', '9', '10'), [2, 1, 0]),
    (['10', '9', 'x'], (), ('10', '9', 'x'), [0, 1, 2]),
    ([' b', 'a ', 'b'], ('b', 'a', 'c'), ('b', 'a', 'c'), [0, 1, 0]),
    ([1, 0, 1], (1, 0), ('1', '0'), [0, 1, 0]),
    ([True, False, True], (), ('false', 'true'), [1, 0, 1]),
  ],
)
def test_classes_are_sorted_or_as_given(tmp_path, labels, given, names, ids):
  rows = [{'text': 't', 'label': label} for label in labels]
  path = _write(tmp_path, 'a.jsonl', _jsonl(rows))
  task, splits = _load(path, path, label_names=given)
  assert task.label_names == names
  assert splits['dev'].labels.tolist() == ids


def test_scores_are_taken_as_they_are_and_never_clipped(tmp_path):
  rows = [{'text': 't', 'label': y} for y in ('-3', ' 2.5', '1e6', '0')]
  path = _write(tmp_path, 'a.csv', _csv(rows))
  task, splits = _load(path, path, regression=True)
  assert splits['train'].labels.dtype == np.float32
  assert splits['train'].labels.tolist() == [-3.0, 2.5, 1e6, 0.0]
  assert (task.is_regression, task.num_outputs) == (True, 1)
  assert task.metrics == ('pearson', 'spearman')
  scores = np.array([-1e9, 1 / 3, 2.5e-8, 7e9], np.float32)
  task, _ = _load(path, path, path, regression=True)
  written = glue.write_predictions(task, 'test', range(4), scores, tmp_path)
  lines = written.read_text().splitlines()[1:]
  read = np.array([line.split('\t')[1] for line in lines], np.float32)
  np.testing.assert_array_equal(read, scores)


def _split(folder, name, *rows):
  rows = [{'text': text, 'label': label} for text, label in rows]
  return _write(folder, name, _csv(rows))


def test_a_test_file_is_evaluated_with_labels_and_else_predicted(tmp_path):
  train = _split(tmp_path, 'train.csv', ('a', 'no'), ('b', 'yes'))
  dev = _split(tmp_path, 'dev.csv', ('c', 'no'))
  task, splits = _load(train, dev, train)
  assert splits['test'].labels.tolist() == [0, 1]
  for name, content in (
    ('test.csv', 'text\nq\n"r,s"\n'),
    ('test.jsonl', '{"text": "q"}\n{"text": "r,s"}\n'),
  ):
    test = _write(tmp_path, name, content)
    task, splits = _load(train, dev, test)
    unlabelled = splits['test']
    assert (unlabelled.text_a, unlabelled.labels) == (['q', 'r,s'], None)
    folder, ids = tmp_path / 'predictions', unlabelled.ids
    written = glue.write_predictions(task, 'test', ids, [1, 0], folder)
    assert written == folder / 'test.tsv'
    assert written.read_bytes() == b'index\tprediction\n0\tyes\n1\tno\n'


def test_evaluation_alone_needs_no_training_file(tmp_path):
  dev = _split(tmp_path, 'dev.csv', ('a', '1'), ('b', '1'))
  task, splits = _load('', dev, label_names=('0', '1', '2'))
  assert list(splits) == ['dev']
  assert splits['dev'].labels.tolist() == [1, 1]
  assert list(task.splits) == ['dev']
  task, splits = _load('', '', dev, regression=True)
  assert splits['test'].labels.tolist() == [1.0, 1.0]


def test_remarks_tell_what_is_seldom_meant(tmp_path):
  train = _split(tmp_path, 'train.csv', ('a', '0.5'), ('b', '1'), (' ', '1'))
  test = _write(tmp_path, 'test.csv', 'text\na\n')
  dev = _split(tmp_path, 'dev.csv', ('a', '1'), ('c', '0.5'))
  names = ('0.5', '1', '2')
  said = own_files.remarks(*_load(train, dev, test, label_names=names))
  expected = [
    ('train: 1 of 3 have an empty text',),
    ("train: has no example of '2'",),
    ('dev: the texts of 1 of 2 are in train',),
    ("test: has no column 'label'", 'not evaluated'),
    ('data.regression=True',),
  ]
  for sentence, words in zip(said, expected, strict=True):
    assert all(word in sentence for word in words), sentence
  other = _split(tmp_path, 'other.csv', ('c', '0'), ('d', '1'))
  known = _split(tmp_path, 'known.csv', ('x', '1'), ('y', '0'))
  assert own_files.remarks(*_load(known, other)) == []


_GOOD = b'text,label\na,0\nb,1\n'
# Behind the ten bytes of the header, a block of a kind that there is not.
_DAMAGED = bytearray(gzip.compress(_GOOD, mtime=0))
_DAMAGED[10] = 0xFF
_SCORES = b'text,label\n' + b''.join(b't,%d.5\n' % i for i in range(1001))

# File name and content of the training file, words of the sentence.
_BAD_FILES = {
  'empty': ('a.csv', b'', 'data.train_file=', 'is empty'),
  'only blank lines': ('a.jsonl', b'\n\n', 'data.train_file=', 'is empty'),
  'only a mark': ('a.tsv', b'\xef\xbb\xbf', 'data.train_file=', 'is empty'),
  'only a header': ('a.csv', b'text,label\n', 'no example'),
  'column missing': (
    'a.csv', b'texts,label\na,0\n', 'line 1', "no column 'text'",
    "'texts', 'label'", "Did you mean 'texts'?", 'data.text_columns',
  ),
  'capitals': ('a.tsv', b'text\tLABEL\n', "Did you mean 'LABEL'?"),
  'nothing alike': ('a.csv', b'question,label\n', "'question', 'label'. Set"),
  'many columns': (
    'a.csv', b','.join(b'c%d' % i for i in range(200)), "'c9', … (200 in all)",
  ),
  'semicolons': ('a.csv', b'text;label\na;0\n', 'wants commas'),
  'tabs in csv': ('a.csv', b'text\tlabel\na\t0\n', 'wants commas'),
  'doubled column': ('a.csv', b'text,label,text\n', "'text' is there 2 times"),
  'short row': (
    'a.csv', b'text,label\na,0\nb\n', 'line 3: 1 columns', 'has 2', 'Mend',
  ),
  'long row': ('a.csv', b'text,label\na,b,0\n', 'line 2: 3 columns'),
  'tab in tsv': ('a.tsv', b'text\tlabel\n\na\tb\t0\n', 'line 3: 3 columns'),
  'open quotation': (
    'a.csv', b'text,label\na,0\n"b,1\nc,0\n', 'begins in line 3', 'doubled',
  ),
  'text behind quotation': ('a.csv', b'text,label\n"a" b,0\n', 'line 2'),
  'carriage returns': ('a.csv', b'text,label\ra,0\r', 'line 1', 'line feed'),
  'label empty': ('a.csv', b'text,label\na,0\nb, \n', 'line 3', 'is empty'),
  'label with a tab': ('a.csv', b'text,label\na,"x\ty"\n', 'line 2', 'a tab'),
  'one class': ('a.csv', b'text,label\na,0\nb,0\n', "all 2 labels", "'0'"),
  'scores': ('a.csv', _SCORES, '1,001 different', 'data.regression=True'),
  'not utf-8': ('a.csv', b'text,label\ncaf\xe9,0\n', 'line 2: not UTF-8'),
  'utf-16': ('a.csv', _GOOD.decode().encode('utf-16'), 'line 1: not UTF-8'),
  'utf-16 or binary': (
    'a.csv', _GOOD.decode().encode('utf-16-le'), 'line 1', 'NUL', 'UTF-8',
  ),
  'not json': ('a.jsonl', b'{"text": "a", "label": 0}\n{a\n', 'line 2', 'JSON'),
  'deep json': ('a.jsonl', b'{"a":' * 100_000, 'line 1', 'not valid JSON'),
  'json of many lines': (
    'a.json', b'{\n"text": "a"\n}\n', 'line 1', 'character 2', 'whole object a',
  ),
  'json array': ('a.json', b'[{"text": "a"}]', 'line 1', 'array', "'.[]'"),
  'json array of many lines': ('a.json', b'[\n{"text": "a"}\n]', 'array'),
  'json number': ('a.jsonl', b'7', 'line 1: 7 is not a JSON object'),
  'json NaN': ('a.jsonl', b'{"text": NaN, "label": 0}', 'line 1', 'NaN is no'),
  'json null': ('a.jsonl', b'{"text": null, "label": 0}', "'text' is null"),
  'json list': ('a.jsonl', b'{"text": [], "label": 0}', "'text' is a list"),
  'json null label': ('a.jsonl', b'{"text": "", "label": null}', "'label' is"),
  'json key missing': (
    'a.jsonl', b'{"text": "a", "label": 0}\n{"text": "b"}\n',
    "line 2: no column 'label'",
  ),
  'json key twice': ('a.jsonl', b'{"text": 1, "text": 2}', 'occurs twice'),
  'half a surrogate': (
    'a.jsonl', b'{"text": "a\\ud83d", "label": 0}', 'line 1', "'\\ud83d'",
  ),
  'not gzip': ('a.csv.gz', _GOOD, 'cannot be read to its end', 'gzip'),
  'cut gzip': ('a.csv.gz', gzip.compress(_GOOD)[:-9], 'to its end'),
  'damaged gzip': ('a.csv.gz', bytes(_DAMAGED), 'to its end'),
  'spreadsheet': (
    'a.xlsx', b'PK', 'data.train_file=', '.csv, .tsv, .jsonl', '.gz', 'as CSV',
  ),
  'no suffix': ('data', _GOOD, 'must end in .csv'),
}  # fmt: skip


@pytest.mark.parametrize('case', _BAD_FILES)
def test_a_bad_file_is_a_sentence_that_names_it(tmp_path, case):
  name, content, *words = _BAD_FILES[case]
  path = _write(tmp_path, name, content)
  good = _write(tmp_path, 'good.csv', _GOOD)
  _refused([str(path), *words], path, good)


# Content of the development file, settings, words of the sentence.
_BAD_LABELS = {
  'unknown': (b'text,label\na,0\nb,2\n', {}, "line 3: the label '2'", "'1'"),
  'many': (
    b'text,label\na,x\n', {'label_names': range(50)}, "'9', … (50 in all)",
  ),
  'no number': (
    b'text,label\na,high\n', {'regression': True}, 'line 2', "'high'",
    'finite number', 'data.regression=False',
  ),
  'nan': (b'text,label\na,nan\n', {'regression': True}, 'line 2', "'nan'"),
  'inf': (b'text,label\na,-inf\n', {'regression': True}, 'line 2', "'-inf'"),
  'too large': (b'text,label\na,1e39\n', {'regression': True}, '3.4e38'),
  'comma': (b'text,label\na,"1,5"\n', {'regression': True}, 'decimal point'),
  'underscore': (b'text,label\na,1_0\n', {'regression': True}, "'1_0'"),
  'no labels': (b'text\na\n', {}, "line 1: no column 'label'"),
}  # fmt: skip


@pytest.mark.parametrize('case', _BAD_LABELS)
def test_a_bad_label_is_a_sentence_that_names_file_and_line(tmp_path, case):
  content, settings, *words = _BAD_LABELS[case]
  train = '' if 'label_names' in settings else _write(tmp_path, 'a.csv', _GOOD)
  dev = _write(tmp_path, 'dev.csv', content)
  _refused([str(dev), *words], train, dev, **settings)


def test_labels_that_only_some_lines_of_a_test_file_have_are_refused(tmp_path):
  good = _write(tmp_path, 'good.csv', _GOOD)
  content = '{"text": "a"}\n{"text": "b", "label": 0}\n'
  test = _write(tmp_path, 'test.jsonl', content)
  with pytest.raises(errors.UserError, match=r'test.jsonl, line 2: .* in none'):
    _load(good, good, test)
  test = _write(tmp_path, 'test.csv', b'text,label\na,\n')
  with pytest.raises(errors.UserError, match='may leave out the whole column'):
    _load(good, good, test)


# Settings, words of the sentence; the files are good ones.
_BAD_SETTINGS = {
  'text_columns a string': ({'text_columns': 'text'}, "('text',)"),
  'no text_columns': ({'text_columns': ()}, 'one column, or two'),
  'three text_columns': ({'text_columns': tuple('abc')}, 'one column, or two'),
  'the same twice': ({'text_columns': ('a', 'a')}, 'same column twice'),
  'no label_column': ({'label_column': ''}, 'data.label_column is empty'),
  'label as text': ({'label_column': 'text'}, 'is among data.text_columns'),
  'label_names a string': ({'label_names': 'no'}, 'must be a tuple'),
  'one label name': ({'label_names': ('0',)}, 'two different names'),
  'doubled names': ({'label_names': ('0', '0')}, 'two different names'),
  'empty name': ({'label_names': ('0', ' ')}, 'empty name'),
  'scores with names': (
    {'label_names': ('0', '1'), 'regression': True}, 'exclude each other',
  ),
  'no dev': ({'dev': ''}, 'data.dev_file is not set'),
  'no file': ({'train': '', 'dev': ''}, 'data.train_file and data.dev_file'),
  'unknown classes': ({'train': ''}, 'data.label_names as in the training'),
  'missing file': (
    {'train': 'absent.csv'}, 'data.train_file=absent.csv', 'no such file',
    os.getcwd(),
  ),
  'missing test': ({'test': 'absent.jsonl'}, 'data.test_file=absent.jsonl'),
  'below a file': ({'test': f'{__file__}/a.csv'}, 'data.test_file=', 'Not a'),
  'folder': ({'train': os.path.dirname(__file__)}, 'is a folder; name the'),
}  # fmt: skip


@pytest.mark.parametrize('case', _BAD_SETTINGS)
def test_settings_that_cannot_work_are_a_sentence(tmp_path, case):
  settings, *words = _BAD_SETTINGS[case]
  good = _write(tmp_path, 'good.csv', _GOOD)
  _refused(words, **({'train': good, 'dev': good} | settings))


def test_a_file_that_may_not_be_read_is_a_sentence(tmp_path, monkeypatch):
  path = _write(tmp_path, 'train.csv', _GOOD)

  def refuse(*unused):
    raise PermissionError(13, 'Permission denied')

  # Not by the file's mode, which means nothing to root.
  monkeypatch.setattr(pathlib.Path, 'open', refuse)
  with pytest.raises(errors.UserError, match=r'train\.csv .*Permission denied'):
    _load(path, path)
