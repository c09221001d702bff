"""Wrong vocabularies, corpora and texts: one sentence that names them."""

import json
import pathlib
import shutil

import pytest

from tests.bad_input import assert_refused, cola_flags, flags_of, flipped
from tests.tiny_jobs import pretrain_config

BERT = b'[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\n'

# A vocabulary's name, its contents, and what the sentence must say.
VOCABULARIES = {
  'none': ('', b'', 'holds no vocabulary', 'vocab.txt'),
  'empty': ('a.txt', b'', 'lacks [PAD] [UNK]', 'add them'),
  'without [MASK]': ('a.txt', BERT[:-7], 'lacks [MASK]', 'add them'),
  'a token twice': ('a.txt', BERT + b'the\nthe\n', "'the' more than once"),
  'binary': ('a.txt', b'\xff\xfe\x00', 'not UTF-8 text'),
  'no JSON': ('a.json', b'{', 'not readable as JSON'),
  'a list': ('a.json', b'[]', 'not a BERT tokenizer', 'vocab.txt'),
  'BPE': ('a.json', b'{"model": {"type": "BPE"}}', 'not a BERT tokenizer'),
  'a number': ('a.json', b'{"model": 3}', 'not a BERT tokenizer'),
}


@pytest.mark.parametrize('case', VOCABULARIES)
def test_a_vocabulary_that_does_not_fit_is_refused(
  case, commands, glue, pretrained, tmp_path
):
  name, data, *words = VOCABULARIES[case]
  if name:
    (tmp_path / name).write_bytes(data)
  flags = cola_flags(glue, pretrained)
  flags += ['--config.init_from=', f'--config.data.vocab={tmp_path / name}']
  done = commands.run('main', *flags, f'--workdir={tmp_path / "run"}')
  assert_refused(done, [str(tmp_path / name), *words])


def test_a_vocabulary_below_the_letters_is_refused(
  commands, glue, pretrained, tmp_path
):
  flags = cola_flags(glue, pretrained)
  flags += ['--config.init_from=', '--config.data.vocab_size=20']
  done = commands.run('main', *flags, f'--workdir={tmp_path}')
  assert_refused(done, ['vocabulary of 20 tokens is too small', 'ask for more'])


def cut(path):
  path.write_bytes(path.read_bytes()[:-50])


def without(key):
  def change(path):
    manifest = json.loads(path.read_text())
    del manifest[key]
    path.write_text(json.dumps(manifest))

  return change


ROWS = 'train-00000.npy'
# A file of a corpus, what is done to it, and what the sentence must say.
CORPORA = {
  'no manifest': (
    'manifest.json',
    pathlib.Path.unlink,
    'not a prepared corpus',
  ),
  'half a manifest': ('manifest.json', cut, 'not readable', 'prepare'),
  'another manifest': (
    'manifest.json',
    lambda path: path.write_text('[]'),
    'format None',
    'prepare it again',
  ),
  'an old corpus': (
    'manifest.json',
    lambda path: path.write_text('{"format": 1}'),
    'has format 1, this version reads format 2: prepare it again',
  ),
  'a manifest without counts': (
    'manifest.json',
    without('counts'),
    'lacks counts',
    'prepare',
  ),
  'no rows': (ROWS, pathlib.Path.unlink, f'{ROWS} is missing'),
  'cut rows': (ROWS, cut, 'bytes long', 'prepare it again'),
  'rows that are none': (
    ROWS,
    lambda path: path.write_bytes(b'x' * path.stat().st_size),
    f'{ROWS} has another head than was written',
    'prepare',
  ),
  'no vocabulary': ('vocab.txt', pathlib.Path.unlink, 'vocab.txt is missing'),
  'another vocabulary': ('vocab.txt', flipped, 'vocab.txt is not the one'),
}


@pytest.fixture(scope='module')
def corpus(text, pretrained):
  """The corpus that the pre-training fixture has prepared."""
  del pretrained
  (folder,) = (text.parent / 'data').glob('corpus-????????????')
  return folder


def corpus_flags(text, folder):
  config = pretrain_config(text)
  config.data.update({'text': '', 'corpus': str(folder)})
  return [*flags_of('pretrain', config), '--config.train.warmup_steps=0']


@pytest.mark.parametrize('side', ['train', 'heldout'])
def test_rows_that_changed_stop_a_run(side, commands, text, corpus, tmp_path):
  folder = shutil.copytree(corpus, tmp_path / 'my corpus')
  flipped(folder / f'{side}-00000.npy')
  flags = corpus_flags(text, folder)
  done = commands.run('main', *flags, f'--workdir={tmp_path / "run"}')
  words = [str(folder), f'{side}-00000.npy has not the rows 0 to', 'restore']
  assert_refused(done, words, planned=side == 'train')


@pytest.mark.parametrize('case', CORPORA)
def test_a_damaged_corpus_is_named(case, commands, text, corpus, tmp_path):
  name, change, *words = CORPORA[case]
  folder = shutil.copytree(corpus, tmp_path / 'my corpus')
  change(folder / name)
  flags = corpus_flags(text, folder)
  done = commands.run('main', *flags, f'--workdir={tmp_path / "run"}')
  assert_refused(done, [str(folder), *words])


def test_a_corpus_of_other_rows_is_refused(commands, text, corpus, tmp_path):
  flags = [*corpus_flags(text, corpus), '--config.data.seq_len=32']
  done = commands.run('main', *flags, f'--workdir={tmp_path}')
  assert_refused(done, ['rows of 16 tokens, not of 32', 'data.seq_len=16'])
  output = f'--output={corpus}'
  done = commands.run(
    'prepare', f'--input={text}', output, '--vocab_size=60', '--seq_len=32'
  )
  assert_refused(done, ['made with other seq_len', 'name another output'])


def test_a_corpus_of_another_vocabulary_is_not_trained_on(
  commands, text, corpus, pretrained, tmp_path
):
  vocabulary = (corpus / 'vocab.txt').read_text().splitlines()
  vocabulary[5:7] = vocabulary[6:4:-1]
  (tmp_path / 'vocab.txt').write_text('\n'.join(vocabulary) + '\n')
  argv = [f'--input={text}', f'--output={tmp_path / "c"}', '--seq_len=16']
  done = commands.run('prepare', *argv, f'--vocab={tmp_path / "vocab.txt"}')
  assert done.code == 0, done.err
  flags = corpus_flags(text, tmp_path / 'c')
  for more in ([], ['--config.job=eval']):
    workdir = f'--workdir={tmp_path / "run"}'
    more = [*more, f'--config.init_from={pretrained}', workdir]
    done = commands.run('main', *flags, *more)
    assert_refused(done, ['another vocabulary than', str(pretrained)])


@pytest.mark.parametrize(
  ('flag', 'words'),
  [
    ('--config.data.text=none/*.txt', ['data.text=none/*.txt: there is no']),
    ('--config.data.dir={text}', ['cannot be made', 'another place']),
    ('--config.data.seq_len=5', ['seq_len=5 is too short']),
  ],
)
def test_text_that_cannot_be_prepared_is_refused_by_its_key(
  flag, words, commands, text, tmp_path
):
  flags = flags_of('pretrain', pretrain_config(text))
  flags += ['--config.train.warmup_steps=0', flag.format(text=text)]
  done = commands.run('main', *flags, f'--workdir={tmp_path}')
  assert_refused(done, words)


@pytest.mark.parametrize(
  ('name', 'data', 'words'),
  [
    ('a.txt', b'', ['no text to train on', 'check the inputs']),
    ('a.txt', b'caf\xe9 ' * 30, ['not UTF-8 text: byte 3', 'iconv']),
    ('a.xz', b'never packed', ['cannot be read to its end', 'fetch it again']),
    ('a.zip', b'PK', ['an archive', 'unpack it']),
  ],
)
def test_text_that_is_none_is_refused_by_name(
  name, data, words, commands, tmp_path
):
  path = tmp_path / name
  path.write_bytes(data)
  argv = [f'--input={path}', f'--output={tmp_path / "corpus"}']
  done = commands.run('prepare', *argv, '--vocab_size=60', devices=False)
  assert_refused(done, [*words, *([str(path)] if data else [])])
  assert list(tmp_path.iterdir()) == [path]
