"""What a folder of sentence-transformers says of its embeddings.

  modules.json                        what the BERT's output goes through
  1_Pooling/config.json               how the vectors of tokens become one
  sentence_bert_config.json           how long a text may be
  config_sentence_transformers.json   what is put before each text

Source of the format: sentence-transformers, `Pooling`, `Normalize` and
`Transformer` (models/*.py; from 5.4 on modules/*.py).
"""

import dataclasses
import json
import pathlib
from typing import Any

POOLINGS = ('cls', 'mean')
_PASSED = {'Transformer', 'Pooling', 'Normalize', 'Dropout'}
# Their switches before 5.4, and the modes of now that they stand for.
_SWITCHES = {
  'pooling_mode_cls_token': 'cls',
  'pooling_mode_max_tokens': 'max',
  'pooling_mode_mean_tokens': 'mean',
  'pooling_mode_mean_sqrt_len_tokens': 'mean_sqrt_len_tokens',
  'pooling_mode_weightedmean_tokens': 'weightedmean',
  'pooling_mode_lasttoken': 'lasttoken',
}


@dataclasses.dataclass(frozen=True)
class Pooling:
  """How the vectors of a text's tokens become one.

  Attributes:
    mode: one of `POOLINGS`.
    normalise: whether the vector is then brought to length 1.
    unlike: what of it is not computed here, to follow upon `its embeddings`;
      empty if all of it is.
  """

  mode: str
  normalise: bool = False
  unlike: str = ''


def read(folder: pathlib.Path, lowercase: bool) -> Pooling | None:
  """Reads how a folder of sentence-transformers embeds.

  Args:
    folder: with a `config.json` of a BERT.
    lowercase: whether its tokenizer lower-cases.

  Returns:
    What its files say; None of a folder that is of transformers alone. Raises
    nothing: what cannot be read or computed matters to embeddings only.
  """
  modules = _read(folder / 'modules.json', list)
  if modules is None:
    return None
  kinds = {str(_get(m, 'type')).rpartition('.')[2]: m for m in modules}
  if other := [kind for kind in kinds if kind not in _PASSED]:
    return Pooling('cls', unlike=f'pass through {other[0]} (modules.json)')
  if 'Pooling' not in kinds:
    return None
  path = folder / str(_get(kinds['Pooling'], 'path')) / 'config.json'
  told = _read(path, dict)
  if told is None:
    return Pooling('cls', unlike=f'are pooled as {path} says, which is missing')
  on = [mode for switch, mode in _SWITCHES.items() if told.get(switch)]
  mode = told.get('pooling_mode') or on or 'mean'
  modes = [str(x) for x in (mode if isinstance(mode, list) else [mode])]
  if len(modes) != 1 or modes[0] not in POOLINGS:
    return Pooling(
      'cls', unlike=f'are pooled by {" and ".join(modes)} ({path})'
    )
  unlike = ''
  prompts = _read(folder / 'config_sentence_transformers.json', dict)
  prompt = _get(_get(prompts, 'prompts'), _get(prompts, 'default_prompt_name'))
  if prompt:
    unlike = f'are those of texts with {prompt!r} before them'
  elif _get(_rows(folder), 'do_lower_case') and not lowercase:
    unlike = 'are those of lower-cased texts, with a cased vocabulary'
  return Pooling(modes[0], 'Normalize' in kinds, unlike)


def longest_row(folder: pathlib.Path, positions: int) -> int:
  """Tokens of a text that sentence-transformers reads.

  Args:
    folder: as `read`.
    positions: that the model has.

  Returns:
    What its files say, `positions` at most.
  """
  tokenizer = _read(folder / 'tokenizer_config.json', dict)
  told = _get(_rows(folder), 'max_seq_length')
  told = told or _get(tokenizer, 'model_max_length')
  # Where nobody set it, transformers writes 1e30.
  return (
    int(min(told, positions)) if isinstance(told, int | float) else positions
  )


def _rows(folder: pathlib.Path) -> Any:
  return _read(folder / 'sentence_bert_config.json', dict)


def _read(path: pathlib.Path, kind: type) -> Any:
  """What a JSON file holds; None without one, or if it is of another kind."""
  try:
    told = json.loads(path.read_text('utf-8'))
  except (OSError, ValueError):
    return None
  return told if isinstance(told, kind) else None


def _get(told: Any, key: Any) -> Any:
  return told.get(str(key)) if isinstance(told, dict) else None
