"""BERT's tokenizer: one vocabulary, one hash, files others can read.

The work is done by the `tokenizers` library; this module pins it to the
rules of BERT (Devlin et al., arXiv 1810.04805; google-research/bert
`tokenization.py`) and gives every vocabulary an identity, `sha256`, that
corpora and checkpoints record.

Text is never searched for special tokens: a literal `[SEP]` in a sentence is
three pieces, `[`, `sep`, `]`, so that data cannot forge the layout of a row.
"""

import hashlib
import itertools
import json
import pathlib
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import tokenizers
from tokenizers import (
  decoders,
  models,
  normalizers,
  pre_tokenizers,
  processors,
)

from shared_bert.data import vocabulary_files
from shared_bert.errors import UserError

SPECIAL_TOKENS = ('[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]')
# A longer word is [UNK]; the value of Hugging Face's BertTokenizerFast.
_MAX_CHARS_PER_WORD = 100
# An encoding weighs some 200 bytes a token until its ids are taken out, so
# only this many texts are in flight at once.
_ENCODE_BLOCK = 4096


class Tokenizer:
  """A frozen WordPiece vocabulary with BERT's text normalisation.

  Attributes:
    vocab: the V tokens, in the order of their ids.
    vocab_size: V.
    pad_id, unk_id, cls_id, sep_id, mask_id: ids of the special tokens.
    special_ids: those five ids, ascending.
    random_ids: `(low, high)`, the widest half-open range of ids that holds no
      special token: what a masked position may be replaced by at random.
    is_continuation: bool [V], read-only: which tokens go on with a word, `##…`.
    lowercase: whether text is lower-cased and stripped of accents.
    sha256: hex digest over the vocabulary and `lowercase`. Two tokenizers
      with the same digest encode every text alike.
  """

  def __init__(self, vocab: Sequence[str], lowercase: bool = True):
    """Builds the tokenizer; see `from_vocab`, which reads better."""
    self.vocab = list(vocab)
    self.vocab_size = len(self.vocab)
    self.lowercase = bool(lowercase)
    ids = {token: i for i, token in enumerate(self.vocab)}
    missing = [token for token in SPECIAL_TOKENS if token not in ids]
    if missing:
      raise UserError(
        f'The vocabulary of {len(self.vocab)} tokens lacks '
        f'{" ".join(missing)}; BERT needs all of {" ".join(SPECIAL_TOKENS)}: '
        'add them, one a line, or use another vocabulary.'
      )
    if len(ids) != len(self.vocab):
      twice = next(t for i, t in enumerate(self.vocab) if ids[t] != i)
      raise UserError(
        f'The vocabulary holds the token {twice!r} more than once, so its id '
        'is not defined; remove the repeated line.'
      )
    self.pad_id, self.unk_id, self.cls_id, self.sep_id, self.mask_id = (
      ids[token] for token in SPECIAL_TOKENS
    )
    self.special_ids = tuple(sorted(ids[token] for token in SPECIAL_TOKENS))
    bounds = (-1, *self.special_ids, self.vocab_size)
    gaps = [(a + 1, b) for a, b in itertools.pairwise(bounds)]
    self.random_ids = max(gaps, key=lambda gap: gap[1] - gap[0])
    self.is_continuation = np.array([t.startswith('##') for t in self.vocab])
    self.is_continuation.flags.writeable = False
    self.sha256 = _digest(self.vocab, self.lowercase)
    self._engine = pipeline(
      models.WordPiece(
        vocab=ids,
        unk_token='[UNK]',
        max_input_chars_per_word=_MAX_CHARS_PER_WORD,
      ),
      self.lowercase,
    )

  @classmethod
  def from_vocab(
    cls, vocab: Sequence[str], lowercase: bool = True
  ) -> 'Tokenizer':
    """Makes a tokenizer of a list of tokens.

    Args:
      vocab: the tokens in the order of their ids; pieces inside a word start
        with `##`.
      lowercase: whether text is lower-cased and stripped of accents.

    Returns:
      The tokenizer.

    Raises:
      UserError: a special token is missing, or a token is there twice.
    """
    return cls(vocab, lowercase)

  @classmethod
  def load(
    cls, path: str | pathlib.Path, lowercase: bool | None = None
  ) -> 'Tokenizer':
    """Reads a vocabulary from disk.

    Args:
      path: a `vocab.txt` (one token a line), a `tokenizer.json` of Hugging
        Face, or a folder that holds one of them, the first named preferred,
        and perhaps a `tokenizer_config.json`.
      lowercase: overrules what the files say; `None` takes their word, and
        true where they say nothing, as BERT does.

    Returns:
      The tokenizer.

    Raises:
      UserError: no such file, not a BERT vocabulary, or a vocabulary that no
        longer has the hash recorded beside it.
    """
    path = pathlib.Path(path)
    config = {}
    if path.is_dir():
      folder, names = path, ('vocab.txt', 'tokenizer.json')
      path = next(
        (folder / name for name in names if (folder / name).is_file()), folder
      )
      if path == folder:
        raise UserError(
          f'The folder {folder} holds no vocabulary: neither vocab.txt nor '
          'tokenizer.json is there; name a folder or file that has one.'
        )
      config = vocabulary_files.read_config(folder / 'tokenizer_config.json')
    if not path.is_file():
      raise UserError(
        f'There is no vocabulary {path}; name a vocab.txt, a tokenizer.json '
        'or a folder that holds one.'
      )
    if path.suffix == '.json':
      vocab, stored_lowercase = vocabulary_files.read_tokenizer_json(path)
    else:
      vocab, stored_lowercase = vocabulary_files.read_vocab_txt(path), True
    stored_lowercase = bool(config.get('do_lower_case', stored_lowercase))
    recorded = config.get('sha256')
    if recorded and recorded != _digest(vocab, stored_lowercase):
      raise UserError(
        f'The vocabulary {path} is not the one its tokenizer_config.json was '
        'written for (their hashes differ); restore the file, or delete the '
        'sha256 line there if the change is meant.'
      )
    try:
      return cls(vocab, stored_lowercase if lowercase is None else lowercase)
    except UserError as error:
      raise UserError(f'{path}: {error}') from error

  def save(self, directory: str | pathlib.Path) -> None:
    """Writes `vocab.txt` and `tokenizer_config.json`, as Hugging Face reads.

    Args:
      directory: an existing folder, or one to be made.
    """
    directory = pathlib.Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    for name, data in self.files().items():
      (directory / name).write_bytes(data)

  def files(self) -> dict[str, bytes]:
    """What `save` writes: file names and contents."""
    config = {
      'tokenizer_class': 'BertTokenizer',
      'do_lower_case': self.lowercase,
      'sha256': self.sha256,
    }
    return {
      'vocab.txt': ''.join(t + '\n' for t in self.vocab).encode('utf-8'),
      'tokenizer_config.json': (json.dumps(config, indent=2) + '\n').encode(),
    }

  def to_huggingface(self) -> str:
    """A `tokenizer.json` that encodes texts and pairs as BERT's rows.

    Unlike here, a literal `[MASK]` in a text is the mask token, as their users
    expect.
    """
    engine = tokenizers.Tokenizer.from_str(self._engine.to_str())
    engine.add_special_tokens(list(SPECIAL_TOKENS))
    engine.post_processor = processors.BertProcessing(
      ('[SEP]', self.sep_id), ('[CLS]', self.cls_id)
    )
    engine.decoder = decoders.WordPiece(prefix='##', cleanup=True)
    return engine.to_str(pretty=True)

  def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
    """Encodes texts, each on its own, without adding special tokens.

    Args:
      texts: any number of strings.

    Returns:
      The ids of every text, in the order given; an empty list for a text of
      white space.
    """
    # The fast form leaves out character offsets.
    encodings = self._encodings(self._engine.encode_batch_fast, texts)
    return [encoding.ids for encoding in encodings]

  def encode_with_offsets(
    self, texts: Sequence[str]
  ) -> list[tuple[list[int], np.ndarray]]:
    """Encodes as `encode_batch`, and says where in its text each token stands.

    Args:
      texts: any number of strings.

    Returns:
      For every text its T ids, and int32 [T, 2]: the characters
      `text[start:end]` of each token in the text as it was given. Accents and
      other marks that follow a token's letters are part of it, also where
      normalisation strips them. Tokens may share a character (a Korean
      syllable is two or three).
    """
    encodings = self._encodings(self._engine.encode_batch, texts)
    return [
      (encoding.ids, _with_marks(text, encoding.offsets))
      for text, encoding in zip(texts, encodings, strict=True)
    ]

  def _encodings(
    self,
    encode: Callable[..., list[tokenizers.Encoding]],
    texts: Sequence[str],
  ) -> Iterator[tokenizers.Encoding]:
    for start in range(0, len(texts), _ENCODE_BLOCK):
      block = list(texts[start : start + _ENCODE_BLOCK])
      yield from encode(block, add_special_tokens=False)

  def encode_masked(self, text: str) -> list[int]:
    """Encodes a text in which every literal `[MASK]` is the mask token.

    Args:
      text: a sentence with gaps, such as `Paris is the [MASK] of France.`

    Returns:
      Its ids, without `[CLS]` and `[SEP]`.
    """
    first, *rest = self.encode_batch(text.split('[MASK]'))
    for ids in rest:
      first = [*first, self.mask_id, *ids]
    return first

  def decode(self, ids: Iterable[int], skip_special: bool = False) -> str:
    """Joins tokens to a text; what normalisation lost stays lost.

    Args:
      ids: token ids, each in `[0, V)`.
      skip_special: leaves the five special tokens out.

    Returns:
      The text, its punctuation drawn to the word before it.
    """
    left_out = self.special_ids if skip_special else ()
    tokens = [self.vocab[int(i)] for i in ids if int(i) not in left_out]
    return decoders.WordPiece(prefix='##', cleanup=True).decode(tokens)


def pipeline(model: models.WordPiece, lowercase: bool) -> tokenizers.Tokenizer:
  """BERT's way from text to pieces, around a model of the library.

  Args:
    model: to make pieces of words, or to be trained.
    lowercase: whether text is lower-cased and stripped of accents.
  """
  engine = tokenizers.Tokenizer(model)
  # strip_accents=None follows `lowercase`, as BERT's own tokenizer does.
  engine.normalizer = normalizers.BertNormalizer(
    clean_text=True,
    handle_chinese_chars=True,
    strip_accents=None,
    lowercase=lowercase,
  )
  engine.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
  return engine


def _with_marks(text: str, offsets: list[tuple[int, int]]) -> np.ndarray:
  """Offsets int32 [T, 2] whose ends are moved past the marks that follow.

  The library ends a token before the marks that it strips: `e` and a combining
  acute accent would be `e` alone. Which marks those are: category Mn, as in
  google-research/bert `tokenization.py`, `_run_strip_accents`.
  """
  moved = np.array(offsets, np.int32).reshape(-1, 2)
  if text.isascii():
    return moved
  size = len(text)
  is_mark = [unicodedata.category(letter) == 'Mn' for letter in text]
  # The first place at or after each one that has no mark.
  plain = np.where([*is_mark, False], size, np.arange(size + 1))
  plain = np.minimum.accumulate(plain[::-1])[::-1]
  moved[:, 1] = plain[moved[:, 1]]
  return moved


def _digest(vocab: Sequence[str], lowercase: bool) -> str:
  """Hex sha256 over the tokens, in order, and the lowercase flag."""
  text = json.dumps([bool(lowercase), list(vocab)], ensure_ascii=True)
  return hashlib.sha256(text.encode('ascii')).hexdigest()
