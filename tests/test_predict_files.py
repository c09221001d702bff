"""Files that `predict` reads and writes: no text is lost, places are named."""

import csv
import io
import json
import os
import pty
import subprocess
import sys

import pytest

from shared_bert.data.table_files import read_table
from shared_bert.interop import huggingface
from tests.test_interop import saved_model

ODD = ['', 'a "cat", red', '  ', 'the dog\u2028runs', 'old']


@pytest.fixture(scope='module')
def folders(tmp_path_factory):
  """A BERT for each task, as a folder of Hugging Face's."""
  made = {}
  for task, head in (
    ('fill-mask', 'masked_lm'),
    ('classify', 'classification'),
    ('answer', 'question_answering'),
    ('embed', 'encoder'),
  ):
    made[task] = tmp_path_factory.mktemp(task)
    huggingface.write(saved_model(head), made[task])
  return made


@pytest.fixture(scope='module')
def predict(commands, folders):
  def run(task, *flags):
    return commands.run('predict', f'--checkpoint={folders[task]}', *flags)

  return run


def written(path, *lines):
  path.write_bytes('\n'.join(lines).encode())  # no line feed at its end
  return path


def rows_of(path):
  """As the csv module reads it; of TSV, as our own reader does."""
  if path.suffix == '.csv':
    return list(csv.DictReader(io.StringIO(path.read_text('utf-8'))))
  header = path.read_text('utf-8').split('\n')[0].split('\t')
  columns = read_table(path, 'file', header).columns
  return [
    dict(zip(columns, row, strict=True))
    for row in zip(*columns.values(), strict=True)
  ]


@pytest.mark.parametrize('end', ['', '\n', '\r\n'])
def test_a_text_a_line_is_answered_line_by_line(end, predict, tmp_path):
  file = written(tmp_path / 'in.txt', '\ufeff', *ODD[1:])
  file.write_bytes(file.read_bytes() + end.encode())
  output = tmp_path / 'out.jsonl'
  done = predict('classify', f'--file={file}', f'--output={output}')
  assert done.code == 0, done.err
  answers = [json.loads(line) for line in output.read_text().split('\n')[:-1]]
  assert [a['text'] for a in answers] == ODD


def test_an_empty_line_has_no_masks_and_is_told_once(predict, tmp_path):
  file = written(tmp_path / 'in.txt', 'a [MASK] runs', '', 'no mask', 'the')
  output = tmp_path / 'out.jsonl'
  done = predict('fill-mask', f'--file={file}', f'--output={output}')
  assert done.code == 0, done.err
  assert done.err == (
    '3 of 4 texts have no [MASK] to fill where the model reads; the first is '
    f'{file}, line 2.\n'
  )
  answers = [json.loads(line) for line in output.read_text().split('\n')[:-1]]
  assert [len(a['masks']) for a in answers] == [1, 0, 0, 0]


@pytest.mark.parametrize(
  ('task', 'lines', 'words'),
  [
    ('classify', ['a\tb', '', 'a\tb'], 'in.txt, line 2 is a single one among'),
    ('classify', ['a', 'b', 'b\tc'], 'in.txt, line 3 is a pair among single'),
    ('classify', ['a', 'b\tc\td'], 'in.txt, line 2 has 2 tabs'),
    (
      'answer',
      ['a\tb', '', 'a'],
      'in.txt, line 2 is a single one: task=answer',
    ),
    ('answer', ['a\tb', 'a\t'], 'in.txt, line 2 has an empty context'),
  ],
)
def test_what_stops_a_file_names_its_line(
  task, lines, words, predict, tmp_path
):
  file = written(tmp_path / 'in.txt', *lines)
  done = predict(task, f'--file={file}')
  assert done.code == 1 and words in done.err, done.err
  assert len(done.err.splitlines()) == 1


def test_what_stops_a_table_names_its_line_and_the_flag(predict, tmp_path):
  file = written(tmp_path / 'IN.CSV', 'q,c', '"a\nb",a dog', '', 'the,')
  done = predict('answer', f'--file={file}', '--text_columns=q,c')
  assert f'{file}, line 5 has an empty context' in done.err
  done = predict('answer', f'--file={file}', '--text_columns=q,d')
  assert "no column 'd'; there are 'q', 'c'" in done.err
  assert done.err.endswith('Set --text_columns to columns that are there.\n')
  file = written(tmp_path / 'in.txt', 'a')
  done = predict('classify', f'--file={file}', '--text_columns=q')
  assert done.code == 1 and '--text_columns=q names columns of a' in done.err


@pytest.mark.parametrize(
  ('make', 'words'),
  [
    (lambda path: path.mkdir(), '(Is a directory); check that it is a file'),
    (lambda path: path.write_bytes(b'a\n\xff\n'), 'line 2: not UTF-8'),
    (lambda path: path.write_bytes(b''), 'is empty: give a text a line'),
  ],
)
def test_a_file_without_texts_is_told(make, words, predict, tmp_path):
  make(tmp_path / 'in')
  done = predict('classify', f'--file={tmp_path / "in"}')
  assert done.code == 1 and words in done.err, done.err


@pytest.mark.parametrize('ending', ['csv', 'tsv'])
def test_a_table_of_answers_is_one(ending, predict, tmp_path):
  def run(task, name, *lines):
    output = tmp_path / f'{name}.{ending}'
    file = written(tmp_path / f'{name}.txt', *lines)
    done = predict(task, f'--file={file}', f'--output={output}')
    assert done.code == 0, done.err
    return rows_of(output)

  rows = run('classify', 'classes', *ODD)
  assert list(rows[0]) == ['text', 'label', 'probability']
  # TSV has one line for a text, and so has neither tabs nor line breaks.
  space = str if ending == 'csv' else lambda text: ' '.join(text.splitlines())
  assert [row['text'] for row in rows] == [space(text) for text in ODD]
  assert {row['label'] for row in rows} <= {'no', 'maybe', 'yes'}
  assert all(0.3 < float(row['probability']) <= 1 for row in rows)

  rows = run('fill-mask', 'words', 'the', 'a [MASK]', '[MASK] a [MASK]')
  names = ['word_1', 'probability_1', 'word_2', 'probability_2']
  assert list(rows[0]) == ['text', *names]
  assert [sum(map(bool, row.values())) for row in rows] == [1, 3, 5]

  rows = run('answer', 'spans', 'the\ta dog runs')
  (row,) = rows
  assert list(row) == [
    *('text_a', 'text_b', 'answer', 'probability', 'start', 'end')
  ]
  assert row['answer'] == 'a dog runs'[int(row['start']) : int(row['end'])]

  (row,) = run('embed', 'vectors', 'the cat')
  assert list(row) == ['text', *(f'embedding_{n}' for n in range(1, 17))]
  plain = predict('embed', 'the cat').out.split('\t')[0].split()
  for name, value in enumerate(plain, 1):
    assert float(row[f'embedding_{name}']) == pytest.approx(float(value), 1e-5)


@pytest.mark.parametrize('ending', ['csv', 'tsv'])
def test_a_table_may_be_read_again(ending, predict, tmp_path):
  texts = ['a\nb', 'a "cat"\tsees', '"', 'a\r\nb', 'red, old']
  file = tmp_path / 'in.jsonl'
  file.write_text('\n'.join(json.dumps({'text': text}) for text in texts))
  output = tmp_path / f'out.{ending}'
  done = predict('classify', f'--file={file}', f'--output={output}')
  assert done.code == 0, done.err
  found = read_table(output, 'file', ['text', 'label']).columns['text']
  if ending == 'csv':
    assert found == [text.replace('\r', '') for text in texts]
  else:
    assert found == ['a b', 'a "cat" sees', '"', 'a b', 'red, old']
  again = predict('classify', f'--file={output}', '--text_columns=text')
  assert again.code == 0 and len(again.out.splitlines()) == 5


@pytest.mark.parametrize(
  ('flags', 'words'),
  [
    (['--output=o.xlsx'], 'not written as .xlsx: let the name end in .jsonl,'),
    (['--output=o.csv', '--json'], 'leave --json out'),
  ],
)
def test_an_ending_that_says_something_else_is_refused(flags, words, predict):
  done = predict('classify', *flags, 'x')
  assert done.code == 1 and words in done.err, done.err


@pytest.mark.parametrize('name', ['o', 'o.txt', 'o.TXT'])
def test_lines_in_a_file_are_those_that_are_printed(name, predict, tmp_path):
  output = tmp_path / name
  assert predict('classify', f'--output={output}', 'the cat').code == 0
  assert output.read_text() == predict('classify', 'the cat').out


def test_a_terminal_sees_the_beginning_of_an_embedding(folders, predict):
  whole = predict('embed', 'the cat').out
  assert len(whole.split('\t')[0].split()) == 16 and '…' not in whole
  ours, theirs = pty.openpty()
  subprocess.run(
    [
      *(sys.executable, '-m', 'shared_bert.predict'),
      *(f'--checkpoint={folders["embed"]}', 'the cat'),
    ],
    stdout=theirs,
    timeout=300,
    check=True,
  )
  os.close(theirs)
  seen = os.read(ours, 2**16).decode()
  os.close(ours)
  first = ' '.join(whole.split()[:4])
  rest = '… 16 numbers; --json or --output for all'
  assert seen == f'{first} {rest}\tthe cat\r\n'
