"""Small files in the layout of SQuAD."""

import json
import pathlib
from typing import Any

import numpy as np

from tests.tiny_jobs import WORDS


def question(name: str, text: str, *answers: tuple[str, int], **more: Any):
  """A question with its gold answers, text and place in the context."""
  gold = [{'text': text, 'answer_start': start} for text, start in answers]
  return {'id': name, 'question': text, 'answers': gold, **more}


def write(
  path: pathlib.Path,
  paragraphs: list[tuple[str, list[dict[str, Any]]]],
  version: str = '1.1',
) -> pathlib.Path:
  """Writes an article of paragraphs, each a context and its questions."""
  article = {
    'title': 'Things',
    'paragraphs': [{'context': c, 'qas': qas} for c, qas in paragraphs],
  }
  path.write_text(json.dumps({'version': version, 'data': [article]}))
  return path


def write_random(
  path: pathlib.Path, count: int, version: str = '1.1', seed: int = 0
) -> pathlib.Path:
  """Questions of one word, which stands before the answer of one or two.

  Contexts have 20 words. Of version 2.0, the word of every fourth question is
  not in its context.
  """
  rng = np.random.default_rng(seed)
  paragraphs = []
  for number in range(count):
    asked, *words = rng.permutation(WORDS)
    words = [*words, *words][:20]
    name = f'q{number}'
    if version != '1.1' and number % 4 == 3:
      found = question(name, asked, is_impossible=True)
    else:
      place, length = rng.integers(2, 18), rng.integers(1, 3)
      words[place - 1] = asked
      answer = ' '.join(words[place : place + length])
      start = len(' '.join(words[:place])) + 1
      found = question(name, asked, (answer, start))
    paragraphs.append((' '.join(words), [found]))
  return write(path, paragraphs, version)
