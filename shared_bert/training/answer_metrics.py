"""Exact match and F1 of answers, as SQuAD's two scripts count them.

After what evaluate-v1.1.py (Rajpurkar et al. 2016, arXiv 1606.05250) and
evaluate-v2.0.py (2018, arXiv 1806.03822) compute, in per cent as they have it.
They agree on nearly all answers; where one is nothing but articles and
punctuation they do not, so each version has its own here.
"""

import collections
import re
import string
from collections.abc import Mapping, Sequence

_ARTICLES = re.compile(r'\b(a|an|the)\b')
_NO_PUNCTUATION = str.maketrans('', '', string.punctuation)


def normalised(text: str) -> str:
  """Lower case, without punctuation (ASCII), articles and excess spaces."""
  text = text.lower().translate(_NO_PUNCTUATION)
  return ' '.join(_ARTICLES.sub(' ', text).split())


def exact_and_f1(
  prediction: str, gold: Sequence[str], *, second: bool
) -> tuple[float, float]:
  """How well an answer agrees with the gold answer that suits it best.

  Args:
    prediction: a text; empty for no answer.
    gold: the texts of the answers; none where there is no answer, which is
      right if the prediction is none either.
    second: whether to count as version 2.0 does.

  Returns:
    Exact match, 0 or 1, and F1 of the words, from 0 to 1, each the best over
    the gold answers.
  """
  ours = normalised(prediction)
  theirs = [normalised(text) for text in gold]
  if second:
    theirs = [text for text in theirs if text] or ['']
  exact = max(float(ours == text) for text in theirs)
  return exact, max(_f1(ours.split(), t.split(), second) for t in theirs)


def _f1(ours: list[str], theirs: list[str], second: bool) -> float:
  if second and not (ours and theirs):
    return float(ours == theirs)
  common = collections.Counter(ours) & collections.Counter(theirs)
  same = sum(common.values())
  if not same:
    return 0.0
  precision, recall = same / len(ours), same / len(theirs)
  return 2 * precision * recall / (precision + recall)


def evaluate(
  predictions: Mapping[str, str],
  gold: Mapping[str, Sequence[str]],
  null_odds: Mapping[str, float] | None,
) -> dict[str, float]:
  """The numbers of a set of questions.

  Args:
    predictions: answer by question; empty for none.
    gold: texts of the answers by question, of the same questions.
    null_odds: of version 2.0, by question how much likelier no answer is than
      the best one, as a difference of logits; None for version 1.1.

  Returns:
    `exact_match` and `f1`, per cent; of version 2.0 (whose script calls the
    first `exact`) also both of the questions with and without an answer,
    `HasAns_` and `NoAns_`, where there are any, and `best_exact` and `best_f1`
    with their thresholds, `best_exact_thresh` and `best_f1_thresh`: what comes
    out if questions of greater odds are answered by none besides. Predictions
    that are none already stay so, so that these look below the threshold that
    the predictions were made with.
  """
  second = null_odds is not None
  scores = {
    name: exact_and_f1(predictions[name], texts, second=second)
    for name, texts in gold.items()
  }
  found = _means('', list(scores.values()))
  if null_odds is None:
    return found
  for prefix, has_answer in (('HasAns_', True), ('NoAns_', False)):
    chosen = [scores[name] for name in gold if bool(gold[name]) == has_answer]
    if chosen:
      found |= _means(prefix, chosen)
  for number, name in enumerate(('exact', 'f1')):
    one = {key: pair[number] for key, pair in scores.items()}
    best, threshold = _best_threshold(predictions, gold, one, null_odds)
    found |= {f'best_{name}': best, f'best_{name}_thresh': threshold}
  return found


def _means(prefix: str, pairs: list[tuple[float, float]]) -> dict[str, float]:
  exact, f1 = (
    100 * sum(values) / len(pairs) for values in zip(*pairs, strict=True)
  )
  name = 'exact' if prefix else 'exact_match'
  return {f'{prefix}{name}': exact, f'{prefix}f1': f1}


def _best_threshold(
  predictions: Mapping[str, str],
  gold: Mapping[str, Sequence[str]],
  scores: Mapping[str, float],
  null_odds: Mapping[str, float],
) -> tuple[float, float]:
  """The best score in per cent, and the odds up to which questions have it.

  All questions without an answer at first, then one more is answered at a time,
  the one that most likely has an answer first: evaluate-v2.0.py,
  `find_best_thresh`.
  """
  score = best = float(sum(not texts for texts in gold.values()))
  threshold = 0.0
  for name in sorted(null_odds, key=lambda name: null_odds[name]):
    if gold[name]:
      score += scores[name]
    elif predictions[name]:
      score -= 1
    if score > best:
      best, threshold = score, null_odds[name]
  return 100 * best / len(gold), threshold
