"""Embeddings of a folder of sentence-transformers are those of its own tool."""

import json

import numpy as np
import pytest

import shared_bert
from shared_bert.data.tokenizer import Tokenizer
from shared_bert.errors import UserError
from tests.test_interop import VOCABULARY
from tests.transformers_bert import save_bert

TEXTS = [
  'the cat sees a big dog',
  'dog',
  '',
  'a small old bird sings and the red cat runs and runs and runs and runs',
]
# As all-MiniLM-L6-v2 has them, and as sentence-transformers 5.4 writes them.
MODES = ('cls_token', 'mean_tokens', 'max_tokens', 'mean_sqrt_len_tokens')
OLD, NEW = (
  'sentence_transformers.models.',
  'sentence_transformers.base.modules.',
)


@pytest.fixture(scope='module')
def bert(tmp_path_factory):
  """A tiny BERT with random numbers, as transformers saves it."""
  transformers = pytest.importorskip('transformers')
  folder = tmp_path_factory.mktemp('bert')
  model = save_bert(
    folder,
    'BertModel',
    Tokenizer.from_vocab(VOCABULARY),
    max_position_embeddings=32,
  ).eval()
  return model, transformers.AutoTokenizer.from_pretrained(folder), folder


@pytest.fixture
def folder(bert, tmp_path):
  """A copy of it, to be made a model of sentences."""
  for path in bert[-1].iterdir():
    (tmp_path / path.name).write_bytes(path.read_bytes())
  return tmp_path


def write(path, told):
  path.parent.mkdir(exist_ok=True)
  path.write_text(json.dumps(told))


def describe(folder, pooling, *more, prefix=OLD, max_seq_length=None):
  """Writes what sentence-transformers writes beside a BERT."""
  modules = ['Transformer', 'Pooling', *more]
  paths = ['', *(f'{i}_{name}' for i, name in enumerate(modules) if i)]
  write(
    folder / 'modules.json',
    [
      {'idx': i, 'name': str(i), 'path': path, 'type': f'{prefix}{name}'}
      for i, (name, path) in enumerate(zip(modules, paths, strict=True))
    ],
  )
  write(folder / '1_Pooling' / 'config.json', pooling)
  write(
    folder / 'sentence_bert_config.json',
    {'max_seq_length': max_seq_length, 'do_lower_case': False},
  )


def switches(*on):
  return {
    'word_embedding_dimension': 16,
    **{f'pooling_mode_{mode}': mode in on for mode in MODES},
  }


def expected(bert, mode, normalise, length=32):
  """What the tool computes, in torch: its Pooling and its Normalize."""
  torch = pytest.importorskip('torch')
  model, tokenizer, _ = bert
  rows = tokenizer(
    TEXTS,
    padding=True,
    truncation=True,
    max_length=length,
    return_tensors='pt',
  )
  with torch.inference_mode():
    hidden = model(**rows).last_hidden_state
  if mode == 'mean':
    mask = rows['attention_mask'][..., None].float()
    pooled = (hidden * mask).sum(1) / mask.sum(1).clamp(min=1e-9)
  else:
    pooled = hidden[:, 0]
  if normalise:
    pooled = torch.nn.functional.normalize(pooled, p=2, dim=1)
  return pooled.numpy()


def embeddings(folder, **options):
  answers = shared_bert.load(str(folder), **options)(TEXTS)
  return np.stack([answer['embedding'] for answer in answers])


def assert_close(found, other):
  np.testing.assert_allclose(found, other, rtol=0, atol=1e-5)


@pytest.mark.parametrize('normalise', [False, True])
@pytest.mark.parametrize('mode', ['cls', 'mean'])
@pytest.mark.parametrize('is_new', [False, True])
def test_a_folder_of_sentences_embeds_as_its_files_say(
  is_new, mode, normalise, bert, folder
):
  pooling = switches('cls_token' if mode == 'cls' else 'mean_tokens')
  if is_new:
    pooling = {'embedding_dimension': 16, 'pooling_mode': mode}
  more = ['Normalize'] if normalise else []
  describe(folder, pooling, *more, prefix=NEW if is_new else OLD)
  found = embeddings(folder)
  assert_close(found, expected(bert, mode, normalise))
  assert np.allclose(np.linalg.norm(found, axis=1), 1) == normalise


def test_texts_are_cut_where_the_tool_cuts_them(bert, folder):
  describe(folder, switches('mean_tokens'), max_seq_length=8)
  found = embeddings(folder)
  assert_close(found, expected(bert, 'mean', False, length=8))
  assert np.abs(found - expected(bert, 'mean', False))[-1].max() > 0.01


def test_pooling_that_is_given_is_all_that_counts(bert, folder):
  assert_close(embeddings(folder), expected(bert, 'cls', False))
  describe(folder, switches('mean_tokens'), 'Normalize')
  for mode in ('cls', 'mean'):
    found = embeddings(folder, pooling=mode)
    assert_close(found, expected(bert, mode, False))


def prompt_of(folder):
  describe(folder, switches('mean_tokens'))
  write(
    folder / 'config_sentence_transformers.json',
    {'prompts': {'query': 'query: '}, 'default_prompt_name': 'query'},
  )


def cased(folder):
  describe(folder, switches('mean_tokens'))
  write(folder / 'sentence_bert_config.json', {'do_lower_case': True})
  Tokenizer.from_vocab(VOCABULARY, lowercase=False).save(folder)


def unpooled(folder):
  describe(folder, switches('mean_tokens'))
  (folder / '1_Pooling' / 'config.json').unlink()


@pytest.mark.parametrize(
  ('change', 'words'),
  [
    (lambda f: describe(f, switches('max_tokens')), 'are pooled by max '),
    (
      lambda f: describe(f, switches('cls_token', 'mean_tokens')),
      'pooled by cls and mean ',
    ),
    (
      lambda f: describe(f, {'pooling_mode': ['mean', 'lasttoken']}),
      'pooled by mean and lasttoken ',
    ),
    (lambda f: describe(f, switches('mean_tokens'), 'Dense'), 'through Dense'),
    (unpooled, '1_Pooling/config.json says, which is missing'),
    (prompt_of, "of texts with 'query: ' before them"),
    (cased, 'lower-cased texts'),
  ],
)
def test_an_embedding_that_is_not_computed_is_refused_and_nothing_else(
  change, words, folder
):
  change(folder)
  with pytest.raises(UserError, match=words) as error:
    shared_bert.load(str(folder))
  assert 'set pooling to cls or mean' in str(error.value)
  assert embeddings(folder, pooling='mean').shape == (4, 16)


def test_a_model_of_words_beside_odd_files_still_fills_masks(folder):
  transformers = pytest.importorskip('transformers')
  config = transformers.BertConfig.from_pretrained(folder)
  transformers.BertForMaskedLM(config).save_pretrained(folder)
  describe(folder, switches('max_tokens'))
  assert len(shared_bert.load(str(folder))('the [MASK]')['masks']) == 1
