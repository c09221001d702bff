"""The same documents as each kind of file that can be prepared."""

import bz2
import gzip
import io
import json
import lzma
import tarfile

import pyarrow
import zstandard
from pyarrow import parquet

from tests.tiny_jobs import sentences

# What readers of lines get wrong is text.
DOCUMENTS = [
  ['caf\xe9 \u4f60\u597d \U0001f600', 'one\u2028line\x85still\x0cand\x1eon'],
  ['He said "go.', '{"text": 1}'],
  *(sentences(4, seed) for seed in range(40)),
]
PACK = {
  '': bytes,
  '.gz': gzip.compress,
  '.xz': lzma.compress,
  '.bz2': bz2.compress,
  '.zst': zstandard.ZstdCompressor().compress,
}


def as_text(documents, end='\n', start=''):
  joined = (end * 2).join(end.join(lines) for lines in documents)
  return (start + joined + end).encode()


def as_windows(documents):
  return as_text(documents, end='\r\n', start='\ufeff')


def as_json_lines(documents, key='text'):
  records = ({'id': 3, key: '\n'.join(lines)} for lines in documents)
  return ''.join(json.dumps(record) + '\n' for record in records).encode()


def as_parquet(documents, key='text', kind=None, **options):
  texts = ['\n\n'.join(lines) for lines in documents]
  table = pyarrow.table({'id': range(len(texts)), key: texts})
  if kind is not None:
    table = table.set_column(1, key, table.column(key).cast(kind))
  file = io.BytesIO()
  parquet.write_table(table, file, **options)
  return file.getvalue()


def as_tar(members):
  """An archive of files, and of whatever else may be in one."""
  file = io.BytesIO()
  with tarfile.open(fileobj=file, mode='w') as archive:
    for name, data in members.items():
      header = tarfile.TarInfo(name)
      if data is None:
        header.type = tarfile.DIRTYPE
      elif isinstance(data, str):
        header.type, header.linkname = tarfile.SYMTYPE, data
      else:
        header.size = len(data)
      archive.addfile(header, io.BytesIO(data if header.isreg() else b''))
  return file.getvalue()


def of_column(column, times=1):
  """A Parquet file of a column, or of several of one name."""
  file = io.BytesIO()
  names = ['text'] * times
  parquet.write_table(pyarrow.table([column] * times, names=names), file)
  return file.getvalue()
