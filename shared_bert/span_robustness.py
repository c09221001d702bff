"""How a model of questions holds under noise.

Questions get noise and contexts do not, since the answer has to be found in
them; so do Ravichander et al. (2021, "NoiseQA", arXiv 2102.08345). Noise on
embeddings is on all tokens of a row.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from shared_bert import robustness_results
from shared_bert.data import noise as noise_lib
from shared_bert.interop.saved import SavedModel
from shared_bert.model.perturbation import WordNoise
from shared_bert.robustness_config import EMBEDDING
from shared_bert.span_data import Answers, SpanData
from shared_bert.span_model import SpanModel
from shared_bert.training import answer_metrics, bootstrap

Arrays = dict[str, np.ndarray]


def under_noise(
  config: ConfigDict,
  saved: SavedModel,
  data: SpanData,
  model: SpanModel,
  params: Any,
) -> tuple[dict[str, Any], Arrays]:
  """Scores a model of questions at every level of every kind of noise.

  Args:
    config: of the job `robustness`, with `data` of questions.
    saved: the model.
    data: with its splits as windows.
    model: of these.
    params: of the model.

  Returns:
    By split and kind the curve of F1, in per cent, as `curves_of` has it; and
    arrays to be kept, as `read_predictions` gives them.
  """
  noise, by_split, kept = config.noise, {}, {}
  clean = model.answers(params)
  for split in data.scored:
    f1 = {}
    without = _f1(data, split, clean[split])
    for kind in noise.kinds:
      noisy = _answers(kind, config, saved, data, split, model, params)
      f1[kind] = np.array(
        [without, *(_f1(data, split, each) for each in noisy)]
      )
    by_split[split] = _curves(noise, f1)
    kept |= {f'{split}/{kind}': each for kind, each in f1.items()}
    kept[f'{split}/ids'] = np.array(data.splits[split].ids)
  return by_split, kept


def _curves(noise: ConfigDict, f1: dict[str, np.ndarray]) -> dict[str, Any]:
  """The mean F1 by level and its area, by kind; of that of answers, [K, N]."""
  if not f1:
    return {}
  samples = bootstrap.mean_samples(
    np.concatenate(list(f1.values())), count=noise.resamples, seed=noise.seed
  )
  means = {kind: 100 * each.mean(axis=1) for kind, each in f1.items()}
  return robustness_results.curves_of('f1', noise.levels, means, 100 * samples)


def _answers(
  kind: str,
  config: ConfigDict,
  saved: SavedModel,
  data: SpanData,
  split: str,
  model: SpanModel,
  params: Any,
) -> Iterator[Answers]:
  """What is answered at each level but the first."""
  levels, seed = list(config.noise.levels[1:]), config.noise.seed
  questions, tokenizer = data.splits[split], saved.tokenizer
  if kind == EMBEDDING:
    spared = (tokenizer.cls_id, tokenizer.sep_id)
    for level in levels:
      noise = WordNoise(seed, level, spared)
      yield model.answers_in(params, split, data.windows[split], noise)
    return
  for asked in noise_lib.noisy_encodings(
    kind, questions.texts, questions.numbers, 0, levels, seed, tokenizer
  ):
    windows = data.asked_otherwise(split, asked, tokenizer, config.data.seq_len)
    yield model.answers_in(params, split, windows)


def _f1(data: SpanData, split: str, answers: Answers) -> list[float]:
  """Of each answer, from 0 to 1."""
  questions = data.splits[split]
  return [
    answer_metrics.exact_and_f1(
      answers.predictions[name], gold, second=questions.has_unanswerable
    )[1]
    for name, gold in questions.gold_texts.items()
  ]
