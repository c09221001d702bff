"""A corpus that is not as it was written: found, named, refused."""

import json

import numpy as np
import pytest

from shared_bert.data.corpus import open_corpus
from shared_bert.data.preparation import prepare_corpus
from shared_bert.data.tokenizer import SPECIAL_TOKENS, Tokenizer
from shared_bert.errors import UserError


@pytest.fixture
def corpus(tmp_path):
  words = 'zero one two three four five six seven eight nine'.split()
  rng = np.random.default_rng(0)
  documents = [' '.join(rng.choice(words, 40)) for _ in range(60)]
  (tmp_path / 'text.txt').write_text('\n\n'.join(documents))
  tokenizer = Tokenizer.from_vocab([*SPECIAL_TOKENS, *words])
  prepare_corpus(
    [tmp_path / 'text.txt'], tmp_path / 'corpus', tokenizer, 32, 1, 0.25
  )
  return tmp_path / 'corpus'


def test_damage_is_noticed(corpus):
  with pytest.raises(UserError, match='not a prepared .*shared_bert.prep'):
    open_corpus(corpus.parent)
  rows = corpus / 'train-00000.npy'
  whole = rows.read_bytes()
  rows.write_bytes(whole[:500] + bytes([whole[500] ^ 1]) + whole[501:])
  opened = open_corpus(corpus)
  with pytest.raises(
    UserError, match=r'train-00000\.npy has not the rows 0 to'
  ):
    opened.train[[0]]
  with pytest.raises(UserError, match=r'train-00000\.npy has not the contents'):
    open_corpus(corpus, verify=True)
  rows.write_bytes(whole[:600])
  with pytest.raises(UserError, match=r'train-00000\.npy is 600 bytes long'):
    open_corpus(corpus)
  rows.unlink()
  with pytest.raises(UserError, match=r'train-00000\.npy is missing'):
    open_corpus(corpus)


@pytest.mark.parametrize(
  ('name', 'words'),
  [
    ('audit.json', 'audit.json has not the contents'),
    ('lengths.png', 'lengths.png has not the contents'),
    ('vocab.txt', 'vocab.txt'),
    ('tokenizer_config.json', 'tokenizer_config.json'),
    ('train-00000.npy', 'train-00000.npy has not the'),
    ('heldout-00000.npy', 'heldout-00000.npy has not the'),
    ('manifest.json', 'manifest'),
  ],
)
@pytest.mark.parametrize('seed', range(4))
def test_a_flipped_bit_in_any_file_is_found(seed, name, words, corpus):
  data = bytearray((corpus / name).read_bytes())
  rng = np.random.default_rng(seed)
  # Heads of files of rows are in the tests of row files.
  first = 128 if name.endswith('.npy') else 0
  data[rng.integers(first, len(data))] ^= 1 << int(rng.integers(8))
  (corpus / name).write_bytes(data)
  with pytest.raises(UserError, match=words):
    opened = open_corpus(corpus)
    assert len(opened.train[:]) + len(opened.heldout[:])


@pytest.mark.parametrize(
  ('change', 'words'),
  [
    ({'format': 1}, 'has format 1, this version reads format 2: prepare it'),
    ({'seq_len': 33}, 'manifest.json is not what was written'),
  ],
)
def test_manifests_of_others_are_refused(change, words, corpus):
  manifest = json.loads((corpus / 'manifest.json').read_text())
  (corpus / 'manifest.json').write_text(json.dumps({**manifest, **change}))
  with pytest.raises(UserError, match=words):
    open_corpus(corpus)
