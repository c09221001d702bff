"""Text that cannot be read: one sentence says what, where and what then."""

import gzip

import pyarrow
import pytest

from shared_bert import errors
from shared_bert.data import sources
from tests.text_formats import (
  DOCUMENTS,
  PACK,
  as_json_lines,
  as_parquet,
  as_tar,
  as_text,
  of_column,
)
from tests.tiny_jobs import sentences

PARQUET = as_parquet(DOCUMENTS)
BIG = as_text([sentences(4, seed) for seed in range(2000)])
TAR_PARTS = as_tar({'a.txt': BIG, 'b.txt': BIG})
CHECKED = as_parquet(
  DOCUMENTS, compression='none', use_dictionary=False, write_page_checksum=True
)
UTF16 = 'text'.encode('utf-16')

# A file's name, its contents, and what the sentence must say besides.
BAD = {
  'latin-1': ('a.txt', b'ab\ncaf\xe9', 'byte 6 of', '0xe9', 'iconv'),
  'latin-1, packed': ('a.zst', PACK['.zst'](b'caf\xe9'), 'byte 3 of'),
  'utf-16': ('a.txt', UTF16, 'begins as text in UTF-16 does'),
  'utf-16, bare': ('a.txt', 'text'.encode('utf-16-le'), 'byte 1 is NUL'),
  'gzip by another name': ('a.txt', gzip.compress(BIG), 'begins as gzip'),
  'zip by another name': ('a.txt', b'PK\x03\x04..', 'begins as zip', 'ending'),
  'parquet by another name': ('a', PARQUET, 'begins as Parquet'),
  'zip': ('a.zip', b'PK', 'an archive of a kind', 'unpack it'),
  '7z': ('a.7z', b'7z', 'an archive of a kind', 'unpack it'),
  'encrypted': ('a.txt.gpg', b'\x85', 'is encrypted; decrypt it'),
  'encrypted archive': ('a.zip.xz', b'\x85', 'unpack it'),
  'packed parquet': ('a.parquet.gz', b'', 'unpack it first'),
  **{
    f'{what}, {end}': (f'a.txt{end}', data, *words)
    for end, pack in PACK.items()
    if end
    for what, data, *words in (
      ('cut', pack(BIG)[:-9], 'cannot be read to its end', 'fetch it again'),
      ('half', pack(BIG)[: len(pack(BIG)) // 2], 'cannot be read to its end'),
      ('not packed', b'never packed', 'cannot be read to its end'),
      ('no bytes', b'', 'has no bytes at all', end),
    )
  },
  **{
    f'cut tar{end}': (
      f'a.tar{end}',
      pack(TAR_PARTS)[: int(len(pack(TAR_PARTS)) * 0.7)],
      'cannot be read to its end',
    )
    for end, pack in PACK.items()
  },
  'tar cut in a member': ('a.tar', TAR_PARTS[:-99_999], 'member b.txt cannot'),
  # What tarfile takes for the end.
  'tar cut between members': ('a.tar', TAR_PARTS[: len(TAR_PARTS) // 2 - 5120]),
  'tar without its end': ('a.tar', TAR_PARTS.rstrip(b'\0')),
  'tar with a bit flipped in a header': (
    'a.tar.zst',
    PACK['.zst'](TAR_PARTS.replace(b'b.txt', b'b.tyt')),
    'bad checksum',
  ),
  'tar with more behind it': ('a.tar', TAR_PARTS * 2, 'more behind its end'),
  'tar that is none': ('a.tar', b'text\n' * 900, 'cannot be read'),
  'tar of nothing': ('a.tar.gz', gzip.compress(b''), 'cannot be read'),
  'packing wrong behind the tar': (
    'a.tar.gz',
    gzip.compress(TAR_PARTS)[:-3],
    'cannot be read to its end',
  ),
  'member not utf-8': (
    'a.tar',
    as_tar({'good': BIG, 'b/bad.txt': b'\n\xff'}),
    'a.tar, member b/bad.txt is not UTF-8',
    'byte 1 of',
  ),
  'member utf-16': ('a.tar', as_tar({'b': UTF16}), 'member b is', 'UTF-16'),
  'member damaged': ('a.tar', as_tar({'b.xz': BIG}), 'member b.xz cannot be'),
  'archive within': (
    'a.tgz',
    gzip.compress(as_tar({'b.tar': b''})),
    'member b',
  ),
  'zip within': ('a.tar', as_tar({'b.zip': b''}), 'member b.zip is an archive'),
  'no json': (
    'a.jsonl',
    as_json_lines(DOCUMENTS[:2]) + b'{"text": "a\n',
    'line 3: not valid JSON',
    'one whole object a line',
  ),
  'array': ('a.json', b'[\n{"text": "a"}\n]', 'line 1: not valid JSON', 'jq'),
  'array of one line': ('a.json', b'[{"text": "a"}]', 'line 1: not a JSON obj'),
  'deep': ('a.jsonl', b'[' * 200_000, 'line 1: not valid JSON'),
  'no key': (
    'a.jsonl.zst',
    PACK['.zst'](b'\n{"content": "a", "id": 1}'),
    "line 2: no 'text', but 'content', 'id'.",
    '--text_key',
    'data.text_key',
  ),
  'empty object': ('a.jsonl', b'{}', "line 1: no 'text', but nothing"),
  'number': ('a.jsonl', b'{"text": 3}', "line 1: 'text' is a number"),
  'null': ('a.jsonl', b'{"text": null}', "'text' is null", 'leave it out'),
  'surrogate': ('a.jsonl', b'{"text": "\\ud800"}', 'half of a surrogate pair'),
  'json not utf-8': ('a.jsonl', b'\n{"text": "\xe9"}', 'line 2: not UTF-8'),
  'json in utf-16': ('a.jsonl', UTF16, 'begins as text in UTF-16'),
  'json lines in a tar': (
    'a.tar',
    as_tar({'b.jsonl': b'{"text": "a"}\n{}'}),
    'a.tar, member b.jsonl, line 2: no ',
  ),
  'no column': (
    'a.parquet',
    as_parquet(DOCUMENTS, key='content'),
    "no 'text', but 'id', 'content'",
    '--text_key',
  ),
  'column of numbers': (
    'a.parquet',
    as_parquet([['1']], kind=pyarrow.int64()),
    "the column 'text' holds int64",
  ),
  'null in a column': (
    'a.parquet',
    of_column(pyarrow.array(['a', None])),
    "row 2: 'text' is null",
  ),
  'column not utf-8': (
    'a.parquet',
    of_column(pyarrow.array([b'a', b'\xff']).view(pyarrow.string())),
    'row 2: not UTF-8',
  ),
  'column twice': (
    'a.parquet',
    of_column(pyarrow.array(['a']), 2),
    "no 'text' of its own, but 'text', 'text'",
  ),
  'parquet cut': ('a.parquet', PARQUET[:-9], 'cannot be read to its end'),
  'parquet of nothing': ('a.parquet', b'', 'cannot be read to its end'),
  'parquet with a bit flipped': (
    'a.parquet',
    CHECKED.replace(b'He said', b'He sajd'),
    'cannot be read to its end',
  ),
}


@pytest.mark.parametrize('case', BAD)
def test_bad_input_is_a_sentence_that_says_where(case, tmp_path):
  name, data, *words = BAD[case]
  path = tmp_path / name
  path.write_bytes(data)
  with pytest.raises(errors.UserError) as caught:
    for found in sources.find_sources([str(path)], '--input'):
      for _ in sources.read_documents(found):
        pass
  for word in (str(path), *words):
    assert word in str(caught.value)


def test_what_is_no_file_is_refused(tmp_path):
  (tmp_path / 'texts').mkdir()
  for pattern, words in {
    'none/*.txt': 'there is no such file',
    'texts': 'is not a file but a folder .*such as',
    'text*': 'texts is not a file but a folder .*such as',
  }.items():
    with pytest.raises(errors.UserError, match=f'key=.*{words}'):
      sources.find_sources([str(tmp_path / pattern)], 'key')
  with pytest.raises(errors.UserError, match='no data.text is given'):
    sources.find_sources([], 'data.text')
  with pytest.raises(errors.UserError, match='Cannot read .*No such file'):
    sources.file_source(tmp_path / 'gone.txt').describe()
