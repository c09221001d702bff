"""Text to pre-train on out of sets that TFDS's own builders have prepared."""

import contextlib
import importlib
import os
import shutil
from unittest import mock

import numpy as np
import pytest

from shared_bert import errors
from shared_bert.data import sources
from tests.glue_files import WITHOUT, run_python

_BENCHMARK = '1-billion-word-language-modeling-benchmark-r13output'
TEXTS = [f'Sentence {i} of caf\xe9\x85 news .' for i in range(1200)]


@contextlib.contextmanager
def as_download(folder):
  """Has TFDS find a folder where it would unpack a download."""
  import tensorflow_datasets as tfds

  with mock.patch.object(
    tfds.download.DownloadManager,
    'download_and_extract',
    lambda manager, url: os.fspath(folder),
  ):
    yield


def store(data_dir, name, texts, config='en', version='1.0.0', shards=1):
  """Writes a set of one's own with TFDS; its code is then nowhere."""
  import tensorflow_datasets as tfds

  tfds.dataset_builders.store_as_tfds_dataset(
    name=name,
    config=config,
    version=version,
    data_dir=data_dir,
    features=tfds.features.FeaturesDict(
      {'text': tfds.features.Text(), 'number': tfds.features.Scalar(np.int64)}
    ),
    split_datasets={
      'train': [
        (i, {'text': text, 'number': i}) for i, text in enumerate(texts)
      ]
    },
    file_format='array_record',
    download_config=tfds.download.DownloadConfig(num_shards=shards),
    disable_shuffling=True,
  )


@pytest.fixture(scope='module')
def data_dir(tmp_path_factory):
  """TFDS's folder with lm1b, which its builder has made of small files."""
  folder = tmp_path_factory.mktemp('tfds')
  for place, lines in {
    'training-monolingual.tokenized.shuffled/news.en-00001-of-00100': TEXTS,
    'heldout-monolingual.tokenized.shuffled/news.en.heldout-00000': ['no'],
  }.items():
    path = folder / 'lm1b' / _BENCHMARK / place
    path.parent.mkdir(parents=True)
    path.write_text(''.join(f'{line}\n' for line in lines))
  with as_download(folder / 'lm1b'):
    sources.find_sources(['tfds:lm1b'], '--input', data_dir=folder / 'data')
  return folder / 'data'


def find(name, data_dir, text_key='text'):
  return sources.find_sources([name], '--input', text_key, data_dir)


def read(found):
  return [lines for item in found for lines, _ in sources.read_documents(item)]


def test_documents_are_the_lines_of_lm1b(data_dir):
  (source,) = find('tfds:lm1b', data_dir)
  documents, offsets = zip(*sources.read_documents(source), strict=True)
  assert sorted(documents) == sorted([text] for text in TEXTS)
  # TFDS has stripped the lines, as we do.
  assert offsets[-1] == sum(len(text.encode()) for text in TEXTS)
  described = source.describe()
  assert described.pop('sha256') and described.pop('bytes')
  assert described == {
    'name': 'tfds:lm1b/1.1.0/lm1b-train.array_record-00000-of-00001',
    'read_as': 'tfds:text',
  }
  assert find('tfds:lm1b:1.1.0', data_dir) == [source]


def test_the_command_prepares_a_set(data_dir, commands, tmp_path):
  done = commands.run(
    'prepare',
    '--input=tfds:lm1b',
    f'--data_dir={data_dir}',
    f'--output={tmp_path / "out"}',
    '--vocab_size=60',
    '--seq_len=32',
    devices=False,
  )
  assert done.code == 0, done.err
  assert '1,200 documents' in done.err


def test_a_set_is_read_without_tensorflow(data_dir):
  code = WITHOUT + (
    'from shared_bert.data import sources\n'
    'found = sources.find_sources(\n'
    '  ["tfds:lm1b"], "--input", data_dir=sys.argv[1])\n'
    'print(len(list(sources.read_documents(*found))))\n'
    'assert "tensorflow" not in sys.modules\n'
  )
  process = run_python(code, data_dir, 'tensorflow')
  out, err = process.communicate()
  assert out.split() == ['1200'], err


def test_files_of_a_set_of_one_s_own_are_sources_each(tmp_path):
  store(tmp_path, 'my_own', ['a\nb', ' \n', '', 'c\n\nd'] * 5, shards=3)
  found = find('tfds:my_own/en', tmp_path)
  assert [source.num_records for source in found] == [7, 6, 7]
  assert [source.name for source in found] == [
    f'tfds:my_own/en/1.0.0/my_own-train.array_record-{i:05}-of-00003'
    for i in range(3)
  ]
  assert read(found) == [['a', 'b'], ['c', 'd']] * 5


def test_marks_of_wiki40b_are_no_text(tmp_path):
  text = (
    '\n_START_ARTICLE_\nAlbert\n_START_SECTION_\nLife\n_START_PARAGRAPH_\n'
    'Born in a town._NEWLINE_Died in_another_ one.'
  )
  store(tmp_path, 'wiki40b', [text, '\n_START_ARTICLE_\n'], version='1.3.0')
  assert read(find('tfds:wiki40b/en', tmp_path)) == [
    ['Albert', 'Life', 'Born in a town.', 'Died in_another_ one.']
  ]
  store(tmp_path, 'my_own', [text])
  assert '_START_ARTICLE_' in read(find('tfds:my_own/en', tmp_path))[0]


@pytest.mark.parametrize(
  ('name', 'words'),
  [
    ('lm1bb', ["has no such set, and neither has .*mean 'lm1b'"]),
    ('lm1b:9.9.9', ['has no such set']),
    ('wikipedia/20230601.eng', ["no such set.*'wikipedia/20230601.en'"]),
    ('wikipedia/', ['no such set']),
    ('', ['no such set']),
    ('../lm1b', ['no such set']),
    ('a/b/c', ['no such set']),
    ('huggingface:wikitext', ['no such set']),
    ('lm1b', ["no text 'body', but 'text'", '--text_key', 'data.text_key']),
  ],
)
def test_a_set_or_feature_that_is_not_there_is_a_sentence(
  name, words, data_dir
):
  with pytest.raises(errors.UserError) as caught:
    find(f'tfds:{name}', data_dir, 'body')
  for word in words:
    caught.match(word)
  assert f'--input=tfds:{name}' in str(caught.value)


def test_a_feature_of_numbers_and_a_set_without_train_are_refused(tmp_path):
  store(tmp_path, 'my_own', ['a'])
  with pytest.raises(errors.UserError, match="no text 'number', but 'text'"):
    find('tfds:my_own/en', tmp_path, 'number')
  folder = tmp_path / 'my_own' / 'en' / '1.0.0'
  info = folder / 'dataset_info.json'
  info.write_text(info.read_text().replace('"train"', '"valid"'))
  for path in folder.glob('*-train.*'):
    path.rename(folder / path.name.replace('train', 'valid'))
  with pytest.raises(errors.UserError, match="no split 'train', but 'valid'"):
    find('tfds:my_own/en', tmp_path)


def test_without_internet_a_sentence_comes_soon(tmp_path, monkeypatch):
  lm1b = importlib.import_module(
    'tensorflow_datasets.datasets.lm1b.lm1b_dataset_builder'
  )
  # Nobody listens on port 9 here.
  url = 'http://127.0.0.1:9/lm1b.tar.gz'
  monkeypatch.setenv('NO_PROXY', '127.0.0.1')
  monkeypatch.setattr(lm1b, '_DOWNLOAD_URL', url)
  with pytest.raises(errors.UserError) as caught:
    find('tfds:lm1b', tmp_path)
  assert f'lm1b is not in {tmp_path} yet' in str(caught.value)
  assert f'could not be fetched ({url}: Conn' in str(caught.value)
  assert 'or name text files' in str(caught.value)


def test_what_is_fetched_by_hand_is_a_sentence(tmp_path):
  # Asks for Beam first where that is not installed.
  with pytest.raises(
    errors.UserError, match='cannot be fetched without you|needs apache_beam'
  ):
    find('tfds:c4/webtextlike', tmp_path)


@pytest.mark.parametrize(
  ('name', 'size'),
  [('*-train.*', 1000), ('*-train.*', 2**16), ('dataset_info.json', 1000)],
)
def test_files_cut_short_are_named(name, size, data_dir, tmp_path):
  shutil.copytree(data_dir / 'lm1b', tmp_path / 'lm1b')
  (path,) = (tmp_path / 'lm1b').glob(f'*/{name}')
  assert path.stat().st_size > size
  os.truncate(path, size)
  with pytest.raises(errors.UserError, match='lm1b.* damaged .*remove the'):
    read(find('tfds:lm1b', tmp_path))


def test_files_of_one_s_own_are_not_removed_where_some_are_missing(tmp_path):
  store(tmp_path, 'my_own', ['a', 'b'], shards=2)
  folder = tmp_path / 'my_own' / 'en' / '1.0.0'
  gone, left = sorted(folder.glob('*-train.*'))
  gone.unlink()
  with pytest.raises(errors.UserError, match=f'{folder} are damaged .not all'):
    find('tfds:my_own/en', tmp_path)
  assert left.exists()
