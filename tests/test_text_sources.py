"""Equal texts are equal documents, however they come."""

import bz2
import gzip
import json
import lzma
import pickle
import sys

import pyarrow
import pytest

from shared_bert import errors
from shared_bert import prepare as prepare_lib
from shared_bert.data import sources, text_files
from tests.glue_files import WITHOUT, run_python
from tests.text_formats import (
  DOCUMENTS,
  PACK,
  as_json_lines,
  as_parquet,
  as_tar,
  as_text,
  as_windows,
)
from tests.tiny_jobs import sentences

ARCHIVE = as_tar(
  {
    'folder': None,
    'folder/._a.txt': b'\0\5\x16\7attributes',
    'folder/z.txt': as_windows(DOCUMENTS[:3]),
    '../../outside.txt': as_text(DOCUMENTS[3:9]),
    '/etc/passwd': '/etc/passwd',
    f'{"long" * 60}/a.xz': lzma.compress(as_text(DOCUMENTS[9:12])),
    'empty': b'',
    'caf\udce9.jsonl.zst': PACK['.zst'](as_json_lines(DOCUMENTS[12:])),
  }
)

# Names and contents of files of the same documents.
FILES = {
  **{f'a.txt{end}': pack(as_text(DOCUMENTS)) for end, pack in PACK.items()},
  'a.tokens': as_text(DOCUMENTS, end=' \n \t'),
  'windows': as_windows(DOCUMENTS),
  **{
    f'a.jsonl{end}': pack(as_json_lines(DOCUMENTS))
    for end, pack in PACK.items()
  },
  'a.JSON.GZ': gzip.compress(b'\xef\xbb\xbf\n' + as_json_lines(DOCUMENTS)),
  **{f'a.tar{end}': pack(ARCHIVE) for end, pack in PACK.items()},
  'a.tgz': gzip.compress(ARCHIVE),
  'a.txz': lzma.compress(ARCHIVE),
  'a.tbz2': bz2.compress(ARCHIVE),
  'a.tzst': PACK['.zst'](ARCHIVE),
  'a.parquet': as_parquet(DOCUMENTS),
  'large.parquet': as_parquet(DOCUMENTS, kind=pyarrow.large_string()),
  'groups.parquet': as_parquet(DOCUMENTS, row_group_size=5),
  'words.parquet': as_parquet(
    DOCUMENTS, kind=pyarrow.dictionary(pyarrow.int32(), pyarrow.string())
  ),
}


def read(path, **options):
  (source,) = sources.find_sources([str(path)], '--input', **options)
  # To any process, as it may be sent.
  source = pickle.loads(pickle.dumps(source))
  documents, offsets = zip(*sources.read_documents(source), strict=True)
  assert offsets[0] > 0
  assert list(offsets) == sorted(offsets)
  return list(documents)


@pytest.mark.parametrize('name', FILES)
def test_equal_texts_are_equal_documents(name, tmp_path):
  (tmp_path / name).write_bytes(FILES[name])
  assert read(tmp_path / name) == DOCUMENTS
  assert [path.name for path in tmp_path.iterdir()] == [name]


def test_offsets_end_at_the_size_of_the_text(tmp_path):
  plain = as_text(DOCUMENTS)
  files = {
    'a.zst': PACK['.zst'](plain),
    'a.tar.gz': gzip.compress(as_tar({'a': plain, 'b': plain})),
    'a.jsonl.xz': lzma.compress(as_json_lines(DOCUMENTS)),
  }
  sizes = [len(plain), 2 * len(plain), len(as_json_lines(DOCUMENTS))]
  for (name, data), size in zip(files.items(), sizes, strict=True):
    (tmp_path / name).write_bytes(data)
    *_, (_, offset) = sources.read_documents(
      sources.file_source(tmp_path / name)
    )
    assert offset == size, name


def test_records_without_a_word_are_no_documents(tmp_path):
  (tmp_path / 'a.jsonl').write_text('{"text": ""}\n\n{"text": " \\n"}\n')
  (tmp_path / 'a.parquet').write_bytes(as_parquet([[''], [' ', '\n']]))
  for name in ('a.jsonl', 'a.parquet'):
    source = sources.file_source(tmp_path / name)
    assert list(sources.read_documents(source)) == []


def test_another_key_is_read_and_is_another_source(tmp_path):
  text, body = DOCUMENTS[:5], DOCUMENTS[5:]
  for name, data in {
    'a.jsonl': b''.join(
      json.dumps({'text': '\n'.join(a), 'body': '\n'.join(b)}).encode() + b'\n'
      for a, b in zip(text, body[:5], strict=True)
    ),
    'b.parquet': as_parquet(body[:5], key='body'),
  }.items():
    path = tmp_path / name
    path.write_bytes(data)
    assert read(path, text_key='body') == body[:5]
    usual, other = (
      sources.file_source(path, key).describe() for key in ('text', 'body')
    )
    assert usual['sha256'] == other['sha256'] == text_files.file_hash(path)
    assert usual['read_as'] != other['read_as']
    assert usual['bytes'] == len(data)


def test_a_corpus_of_another_key_is_another_corpus(tmp_path):
  record = {'text': ' '.join(sentences(9, 1)), 'body': 'a b c ' * 20}
  path = tmp_path / 'a.jsonl'
  path.write_text((json.dumps(record) + '\n') * 9)
  settings = {'vocab_size': 60, 'seq_len': 32}
  folders = {
    prepare_lib.prepare_text(str(path), tmp_path, text_key=key, **settings)
    for key in ('text', 'body')
  }
  assert len(folders) == 2
  out = tmp_path / 'out'
  settings['heldout_fraction'] = 0
  prepare_lib.prepare(str(path), out, text_key='text', **settings)
  prepare_lib.prepare(str(path), out, text_key='text', **settings)
  with pytest.raises(errors.UserError, match='made with other input files'):
    prepare_lib.prepare(str(path), out, text_key='body', **settings)


def test_every_file_is_found_once_and_folders_are_passed_over(tmp_path):
  for name in ('b/x.txt', 'b/c/y.txt', 'a[1].txt', 'b/c/z'):
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text('a')
  patterns = [f'{tmp_path}/a[1].txt', f'{tmp_path}/b/*', f'{tmp_path}/**/*.txt']
  found = sources.find_sources(patterns, '--input')
  assert [source.name for source in found] == ['a[1].txt', 'x.txt', 'y.txt']


def test_a_sample_takes_an_equal_share_of_every_source(tmp_path):
  for name, data in {
    'a.jsonl': as_json_lines([['a' * 90]] * 50),
    'b.tar.zst': PACK['.zst'](as_tar({'b': as_text([['b' * 99]] * 50)})),
    'c.parquet': as_parquet([['c' * 100]] * 50),
  }.items():
    (tmp_path / name).write_bytes(data)
  found = sources.find_sources([f'{tmp_path}/*'], '--input')
  lines = list(sources.sample_lines(found, 3000))
  assert [sum(line[0] == letter for line in lines) for letter in 'abc'] == [
    9,
    10,
    10,
  ]


def test_many_frames_of_zstandard_are_one_file(tmp_path):
  halves = [as_text(DOCUMENTS[:20]) + b'\n', as_text(DOCUMENTS[20:])]
  frames = b''.join(map(PACK['.zst'], halves))
  # pzstd and others put frames in between that readers skip.
  skippable = b'\x50\x2a\x4d\x18\x03\0\0\0abc'
  (tmp_path / 'a.zst').write_bytes(skippable + frames + skippable)
  assert read(tmp_path / 'a.zst') == DOCUMENTS


@pytest.mark.parametrize(
  ('package', 'name'),
  [
    ('zstandard', 'a.tar.zst'),
    ('zstandard', 'a.tar'),
    ('pyarrow', 'a.parquet'),
  ],
)
def test_a_missing_package_is_named(package, name, tmp_path):
  if package == 'zstandard' and sys.version_info >= (3, 14):
    pytest.skip('Python unpacks it')
  (tmp_path / name).write_bytes(FILES[name])
  code = WITHOUT + (
    'import pathlib\n'
    'from shared_bert import errors\n'
    'from shared_bert.data import sources\n'
    'source = sources.file_source(pathlib.Path(sys.argv[1]))\n'
    'try:\n'
    '  list(sources.read_documents(source))\n'
    'except errors.UserError as error:\n'
    '  print(error)\n'
  )
  process = run_python(code, tmp_path / name, package)
  out, err = process.communicate()
  assert str(tmp_path / name) in out, err
  assert f'(pip install {package})' in out


def test_the_command_prepares_every_kind_alike(commands, tmp_path):
  documents = [sentences(9, seed) for seed in range(40)]
  made = {}
  for name, data in {
    'a.txt': as_text(documents),
    'a.tar.zst': PACK['.zst'](as_tar({'a': as_windows(documents)})),
    'a.jsonl.xz': lzma.compress(as_json_lines(documents, key='body')),
    'a.parquet': as_parquet(documents, key='body'),
  }.items():
    (tmp_path / name).write_bytes(data)
    vocab = [f'--vocab={made["a.txt"].parent}'] if made else ['--vocab_size=60']
    out = tmp_path / f'{name}.corpus'
    done = commands.run(
      'prepare',
      f'--input={tmp_path / name}',
      f'--output={out}',
      '--seq_len=32',
      '--text_key=body',
      *vocab,
      devices=False,
    )
    assert done.code == 0, done.err
    made[name] = out / 'train-00000.npy'
  assert len({path.read_bytes() for path in made.values()}) == 1
