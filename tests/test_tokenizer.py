"""The tokenizer: BERT's ids, exact round trips, and errors that help."""

import json
import pickle

import numpy as np
import pytest
import tokenizers

from shared_bert.data import tokenizer as tokenizer_lib
from shared_bert.errors import UserError

SPECIALS = list(tokenizer_lib.SPECIAL_TOKENS)
VOCAB = SPECIALS + 'un ##aff ##able cafe the [ ] sep mask . 中'.split()


@pytest.fixture
def small():
  return tokenizer_lib.Tokenizer.from_vocab(VOCAB)


def _tokens(tokenizer, text):
  return [tokenizer.vocab[i] for i in tokenizer.encode_batch([text])[0]]


def test_special_ids_follow_the_vocabulary_not_a_constant():
  vocab = ['[PAD]', 'x', 'y', '[UNK]', '[CLS]', 'a', '[SEP]', '[MASK]']
  tokenizer = tokenizer_lib.Tokenizer.from_vocab(vocab)
  assert tokenizer.pad_id == 0
  assert tokenizer.unk_id == 3
  assert tokenizer.cls_id == 4
  assert tokenizer.sep_id == 6
  assert tokenizer.mask_id == 7
  assert tokenizer.special_ids == (0, 3, 4, 6, 7)
  assert tokenizer.vocab_size == 8
  assert tokenizer.random_ids == (1, 3)


def test_normalisation_is_bert_s(small):
  pieces = ['un', '##aff', '##able', 'cafe', '.']
  assert _tokens(small, 'UNAFFABLE café.') == pieces
  assert _tokens(small, 'the中the') == ['the', '中', 'the']
  assert _tokens(small, 'un\u00adaffable\x00') == ['un', '##aff', '##able']
  assert _tokens(small, ' \t\n') == []
  assert _tokens(small, 'zebra the') == ['[UNK]', 'the']
  assert _tokens(small, 'the' * 34) == ['[UNK]']


def test_cased_tokenizer_keeps_case_and_accents():
  cased = tokenizer_lib.Tokenizer.from_vocab([*VOCAB, 'Café'], lowercase=False)
  assert _tokens(cased, 'Café cafe The') == ['Café', 'cafe', '[UNK]']


def test_text_cannot_forge_special_tokens(small):
  assert _tokens(small, '[SEP]') == ['[', 'sep', ']']
  assert small.encode_masked('the [MASK].') == [
    small.vocab.index('the'),
    small.mask_id,
    small.vocab.index('.'),
  ]


def test_blocks_do_not_change_the_result(small, monkeypatch):
  texts = ['the', '', 'unaffable', 'the the', 'x'] * 3
  whole = small.encode_batch(texts)
  monkeypatch.setattr(tokenizer_lib, '_ENCODE_BLOCK', 4)
  assert small.encode_batch(texts) == whole
  assert len(whole) == len(texts)


def test_decode_joins_pieces(small):
  ids = small.encode_batch(['the unaffable.'])[0]
  assert small.decode(ids) == 'the unaffable.'
  row = [small.cls_id, *ids, small.sep_id, small.pad_id]
  assert small.decode(row, skip_special=True) == 'the unaffable.'
  assert small.decode(row) == '[CLS] the unaffable. [SEP] [PAD]'


@pytest.mark.parametrize('lowercase', [True, False])
def test_save_and_load_round_trip(tmp_path, lowercase):
  before = tokenizer_lib.Tokenizer.from_vocab(VOCAB, lowercase)
  before.save(tmp_path)
  config = json.loads((tmp_path / 'tokenizer_config.json').read_text())
  assert config['do_lower_case'] is lowercase
  assert config['sha256'] == before.sha256
  after = tokenizer_lib.Tokenizer.load(tmp_path)
  assert after.sha256 == before.sha256
  assert after.vocab == before.vocab
  assert after.lowercase is lowercase
  asked = tokenizer_lib.Tokenizer.load(tmp_path, lowercase=not lowercase)
  assert asked.lowercase is not lowercase
  from_file = tokenizer_lib.Tokenizer.load(tmp_path / 'vocab.txt')
  assert from_file.vocab == VOCAB
  assert from_file.lowercase


def test_hash_tells_order_and_case_apart():
  make = tokenizer_lib.Tokenizer.from_vocab
  swapped = [*VOCAB[:-2], VOCAB[-1], VOCAB[-2]]
  hashes = {
    make(VOCAB).sha256,
    make(VOCAB, lowercase=False).sha256,
    make(swapped).sha256,
  }
  assert len(hashes) == 3


def test_a_changed_vocabulary_is_noticed(tmp_path, small):
  small.save(tmp_path)
  text = (tmp_path / 'vocab.txt').read_text(encoding='utf-8')
  (tmp_path / 'vocab.txt').write_text(text.replace('cafe', 'cafes'), 'utf-8')
  with pytest.raises(UserError, match='hashes differ'):
    tokenizer_lib.Tokenizer.load(tmp_path)


@pytest.mark.parametrize('lowercase', [True, False])
def test_reads_a_hugging_face_tokenizer_json(tmp_path, lowercase):
  model = tokenizers.models.WordPiece(
    vocab={t: i for i, t in enumerate(VOCAB)}, unk_token='[UNK]'
  )
  theirs = tokenizers.Tokenizer(model)
  theirs.normalizer = tokenizers.normalizers.BertNormalizer(lowercase=lowercase)
  theirs.add_special_tokens(SPECIALS)
  theirs.save(str(tmp_path / 'tokenizer.json'))
  for path in (tmp_path, tmp_path / 'tokenizer.json'):
    ours = tokenizer_lib.Tokenizer.load(path)
    assert ours.vocab == VOCAB
    assert ours.lowercase is lowercase


def test_another_kind_of_tokenizer_json_is_refused(tmp_path):
  path = tmp_path / 'tokenizer.json'
  tokenizers.Tokenizer(tokenizers.models.BPE()).save(str(path))
  with pytest.raises(UserError, match='not a BERT tokenizer'):
    tokenizer_lib.Tokenizer.load(path)


def test_bad_vocabularies_are_named(tmp_path):
  with pytest.raises(UserError, match=r'lacks \[SEP\] \[MASK\]'):
    tokenizer_lib.Tokenizer.from_vocab(['[PAD]', '[UNK]', '[CLS]', 'a'])
  with pytest.raises(UserError, match="'un' more than once"):
    tokenizer_lib.Tokenizer.from_vocab([*VOCAB, 'un'])
  with pytest.raises(UserError, match='holds no vocabulary'):
    tokenizer_lib.Tokenizer.load(tmp_path)
  with pytest.raises(UserError, match='no vocabulary .*gone.txt'):
    tokenizer_lib.Tokenizer.load(tmp_path / 'gone.txt')
  (tmp_path / 'vocab.txt').write_bytes(b'[PAD]\n\xff\xfe\n')
  with pytest.raises(UserError, match='not UTF-8'):
    tokenizer_lib.Tokenizer.load(tmp_path)
  (tmp_path / 'vocab.txt').write_text('[PAD]\n')
  with pytest.raises(UserError, match=r'vocab\.txt: .*lacks'):
    tokenizer_lib.Tokenizer.load(tmp_path)


def test_windows_line_ends_give_the_same_vocabulary(tmp_path):
  text = '\r\n'.join(VOCAB) + '\r\n'
  (tmp_path / 'vocab.txt').write_bytes(text.encode('utf-8'))
  assert tokenizer_lib.Tokenizer.load(tmp_path).vocab == VOCAB


def test_tokenizer_travels_to_other_processes(small):
  copy = pickle.loads(pickle.dumps(small))
  assert copy.sha256 == small.sha256
  assert copy.encode_batch(['the']) == small.encode_batch(['the'])


@pytest.mark.parametrize('lowercase', [True, False])
def test_offsets_are_those_of_the_text_as_it_was_given(lowercase):
  words = 'the cafe zoe 中 国 . ##x'.split()
  jamo = ['\u1112', '##\u1161', '##\u11ab']
  letters = [c for x in 'abcdefghijklmnopqrstuvwxyz' for c in (x, f'##{x}')]
  vocab = list(dict.fromkeys([*SPECIALS, *words, *jamo, *letters]))
  tokenizer = tokenizer_lib.Tokenizer.from_vocab(vocab, lowercase)
  cases = {
    'The Café.': ['The', 'Café', '.'],
    # Letters and their accents apart.
    'Cafe\u0301 Zoe\u0308 the': ['Cafe\u0301', 'Zoe\u0308', 'the'],
    '中国the': ['中', '国', 'the'],
    '👍🏽 the 👩\u200d👧\ufe0f\u00a0the': [
      *('👍🏽', 'the', '👩\u200d👧\ufe0f', 'the')
    ],
    # What cannot be seen counts within a word only.
    'th\x00\u00ade\r\n\tthe\u200b': ['th\x00\u00ade', 'the'],
    ' \n': [],
    '': [],
  }
  if lowercase:
    cases['한 the'] = ['한', '한', '한', 'the']
    cases['\u0301the e\u0301x'] = ['the', 'e\u0301', 'x']
  encoded = tokenizer.encode_with_offsets(list(cases))
  assert [ids for ids, _ in encoded] == tokenizer.encode_batch(list(cases))
  for (text, parts), (_, offsets) in zip(cases.items(), encoded, strict=True):
    assert offsets.dtype == np.int32 and offsets.shape[1:] == (2,)
    assert [text[a:b] for a, b in offsets] == parts


def test_bert_base_vocabulary_gives_the_published_ids(shared_data):
  path = shared_data / 'vocab' / 'bert-base-uncased-vocab.txt'
  tokenizer = tokenizer_lib.Tokenizer.load(path)
  assert tokenizer.vocab_size == 30522
  assert tokenizer.special_ids == (0, 100, 101, 102, 103)
  # The example of google-research/bert's README: john johanson's house.
  pieces = ['john', 'johan', '##son', "'", 's', ',', 'house']
  assert _tokens(tokenizer, "John Johanson's, house") == pieces
  assert tokenizer.encode_batch(['hello, world!']) == [[7592, 1010, 2088, 999]]
