"""What docs/security.md says of input that others made: nothing escapes."""

import gzip
import io
import json
import os
import pathlib
import subprocess
import sys
import tarfile

import pytest

from shared_bert.data import sources
from tests.test_processes import pretraining
from tests.text_formats import as_text
from tests.tiny_jobs import sentences

ROOT = pathlib.Path(__file__).parents[1]
TEXT = as_text([sentences(4, seed) for seed in range(40)])


def tree(folder):
  return {
    str(p.relative_to(folder)): p.lstat().st_mtime_ns for p in folder.rglob('*')
  }


def hostile_archive(secret, outside):
  """Members whose names, links and kinds would lead out of a folder."""
  file = io.BytesIO()
  with tarfile.open(fileobj=file, mode='w', format=tarfile.PAX_FORMAT) as tar:

    def add(name, kind=tarfile.REGTYPE, data=b'', link=''):
      member = tarfile.TarInfo(name)
      member.type, member.linkname, member.size = kind, link, len(data)
      member.mode = 0o4777
      tar.addfile(member, io.BytesIO(data))

    add('../../escaped.txt', data=TEXT)
    add(f'{outside}/absolute.txt', data=TEXT)
    add('a/../../../../../../tmp/shared_bert_escaped.txt', data=TEXT)
    add('-rf *; $(touch pwned) `touch pwned`\n.txt', data=TEXT)
    add('link.txt', tarfile.SYMTYPE, link=str(secret))
    add('hard.txt', tarfile.LNKTYPE, link=str(secret))
    add('way', tarfile.SYMTYPE, link=str(outside))
    add('way/through.txt', data=TEXT)
    add('device', tarfile.CHRTYPE)
    add('pipe', tarfile.FIFOTYPE)
    add(str(outside), tarfile.DIRTYPE)
  return file.getvalue()


@pytest.mark.parametrize('packed', ['a.tar', 'a.tar.gz'])
def test_nothing_of_an_archive_is_written_by_its_names_or_read_by_its_links(
  commands, packed, tmp_path
):
  secret = tmp_path / 'secret.txt'
  secret.write_text('xylophone quartz\n' * 50)
  (outside := tmp_path / 'outside').mkdir()
  (place := tmp_path / 'deep' / 'er' / 'place').mkdir(parents=True)
  data = hostile_archive(secret, outside)
  if packed.endswith('.gz'):
    data = gzip.compress(data)
  (place / packed).write_bytes(data)
  before = tree(tmp_path)
  done = commands.run(
    'prepare',
    f'--input={place / packed}',
    f'--output={place / "corpus"}',
    '--vocab_size=60',
    '--seq_len=16',
  )
  assert done.code == 0, done.err
  new = tree(tmp_path).keys() - before.keys()
  assert new and all(name.startswith('deep/er/place/corpus') for name in new)
  assert not pathlib.Path('/tmp/shared_bert_escaped.txt').exists()
  vocabulary = next((place / 'corpus').rglob('vocab.txt')).read_text()
  assert 'dog' in vocabulary and 'x' not in vocabulary.split()
  # Five files, 40 documents each: links are passed over.
  source = sources.file_source(place / packed)
  assert len(list(sources.read_documents(source))) == 5 * 40


def test_a_name_cannot_give_orders_to_the_terminal(commands, tmp_path):
  file = io.BytesIO()
  with tarfile.open(fileobj=file, mode='w') as tar:
    member = tarfile.TarInfo('\x1b]0;owned\x07\x1b[2J\x9b31m.jsonl')
    member.size = 4
    tar.addfile(member, io.BytesIO(b'none'))
  (tmp_path / 'a.tar').write_bytes(file.getvalue())
  done = commands.run(
    'prepare',
    f'--input={tmp_path / "a.tar"}',
    f'--output={tmp_path / "corpus"}',
    '--vocab_size=60',
  )
  assert done.code == 1
  assert 'owned' in done.err
  assert all(c.isprintable() or c == '\n' for c in done.out + done.err)


def test_labels_name_no_file_and_break_no_line(commands, pretrained, tmp_path):
  labels = ['../../escaped', 'a\tb\nc', '=cmd()', '/etc/passwd']
  rows = [
    {'sentence': text, 'label': labels[i % len(labels)]}
    for i, text in enumerate(sentences(40, 0))
  ]
  for name in ('train', 'dev', 'test'):
    path = tmp_path / f'{name}.jsonl'
    given = [
      {'sentence': row['sentence']} if name == 'test' else row for row in rows
    ]
    path.write_text(''.join(json.dumps(row) + '\n' for row in given))
  before = tree(tmp_path)
  done = commands.run(
    'main',
    '--config=configs/own.py',
    f'--workdir={tmp_path / "run"}',
    f'--config.init_from={pretrained}',
    '--config.data.seq_len=16',
    '--config.train.epochs=1.0',
    *(
      f'--config.data.{name}_file={tmp_path / f"{name}.jsonl"}'
      for name in ('train', 'dev', 'test')
    ),
  )
  if done.code == 0:
    (file,) = (tmp_path / 'run' / 'predictions').iterdir()
    lines = file.read_text().split('\n')
    assert len(lines) == 1 + 40 + 1
    assert all(line.count('\t') == 1 for line in lines[:-1])
  else:
    assert done.code == 1 and 'label' in done.err, done.err
  new = tree(tmp_path).keys() - before.keys()
  assert all(name.startswith('run') for name in new)


def test_training_asks_nothing_of_a_network(text, pretrained, tmp_path):
  del pretrained  # the corpus is prepared by then
  # Python tells of each connection, name that is looked up and program that is
  # started, before it happens.
  program = """
import json, runpy, sys
seen = []
def note(name, args):
  if name.startswith(('socket.', 'subprocess.', 'urllib.', 'os.exec',
                      'os.system', 'os.posix_spawn', 'webbrowser.')):
    seen.append([name, repr(args)])
sys.addaudithook(note)
sys.argv[:] = sys.argv[1:]
try:
  runpy.run_module('shared_bert.main', run_name='__main__')
finally:
  print(json.dumps(seen))
"""
  done = subprocess.run(
    [
      sys.executable,
      '-c',
      program,
      'main',
      *pretraining(text, **{'train.steps': 4, 'tensorboard': True}),
      f'--workdir={tmp_path / "run"}',
    ],
    cwd=ROOT,
    env=os.environ | {'JAX_NUM_CPU_DEVICES': '1'},
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stderr
  seen = json.loads(done.stdout.splitlines()[-1])
  harmless = {'socket.__new__', 'socket.gethostname'}
  # urllib3 asks whether there is IPv6; platform what processor this is.
  allowed = {'socket.bind': "('::1', 0)", 'subprocess.Popen': "('uname', "}
  for name, arguments in seen:
    if name not in harmless:
      assert name in allowed and allowed[name] in arguments, (name, arguments)
  assert 'socket.bind' in dict(seen)  # so it would tell
  assert (tmp_path / 'run' / 'results.json').exists()
