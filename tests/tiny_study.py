"""Findings of studies that never ran, with effects that are known."""

import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

GLUE = ('cola', 'sst2', 'mrpc', 'stsb', 'qqp', 'mnli', 'qnli', 'rte')
MODELS = ('standard', 'shared', 'symmetric', 'pairwise', 'narrow')
_METRICS = {
  'cola': ('matthews', 'accuracy'),
  'mrpc': ('f1', 'accuracy'),
  'stsb': ('spearman', 'pearson'),
  'qqp': ('f1', 'accuracy'),
}


def study(
  *,
  models: Sequence[str] = MODELS,
  tasks: Sequence[str] = ('mrpc', 'cola'),
  pretrain_seeds: Sequence[int] = (0, 1, 2),
  seeds: Sequence[int] = (0, 1, 2),
  effects: Mapping[str, float] | None = None,
  noise_effects: Mapping[str, float] | None = None,
  between: float = 1.0,
  within: float = 1.0,
  gain: Mapping[str, float] | float | None = 0.4,
  robust: bool = True,
  seed: int = 0,
) -> dict[str, Any]:
  """A whole study.

  Args:
    models: names; the first is the baseline.
    tasks: names.
    pretrain_seeds: of all models.
    seeds: of fine-tuning.
    effects: points that a model is above the first, on every task.
    noise_effects: points that it is above besides, under noise and outside.
    between: standard deviation of a pre-trained model, in points.
    within: of a run.
    gain: nats by the order of words, of all models or by model; None where it
      was not measured.
    robust: whether there are curves under noise.
    seed: of the numbers.
  """
  random = np.random.default_rng(seed)
  pretrain, finetune = [], []
  for model in models:
    for p in pretrain_seeds:
      its_gain = gain.get(model) if isinstance(gain, Mapping) else gain
      pretrain.append(_pretrained(model, p, its_gain, random))
      quality = random.normal(scale=between)
      for task in tasks:
        for s in seeds:
          points = 70 + quality + random.normal(scale=within)
          points += (effects or {}).get(model, 0.0)
          extra = (noise_effects or {}).get(model, 0.0)
          extra += random.normal(scale=0.5)
          finetune.append(_run(model, p, task, s, points, extra, robust))
  return {
    'config': {'model.size': 'tiny', 'seeds': [*seeds]},
    'versions': {'jax': '0.12.0', 'numpy': '2.5.5'},
    'date': '2026-11-29',
    'models': list(models),
    'baseline': models[0],
    'plan': {'cells': 60, 'finished': 60, 'hours': 5.0, 'hours_spent': 4.8},
    'cost': _cost(models, random),
    'pretrain': pretrain,
    'finetune': finetune,
  }


def _pretrained(model, seed, gain, random):
  loss = 3.0 + random.normal(scale=0.02)
  context = None
  if gain is not None:
    context = {
      'as_is': loss,
      'shuffled': loss + gain,
      'foreign': loss + gain + 0.5,
      'frequency': 6.9,
    }
  curve = [[step, 3 + 4 * 0.99**step] for step in range(0, 500, 50)]
  return {
    'model': model,
    'seed': seed,
    'steps': 450,
    'tokens': 450 * 4096,
    'seconds': 100.0,
    'loss': loss,
    'accuracy': 0.4,
    'curve': [*curve, [500, loss]],
    'context': context,
    'failed': None,
  }


def _run(model, pretrain_seed, task, seed, points, extra, robust):
  splits = ('dev_matched', 'dev_mismatched') if task == 'mnli' else ('dev',)
  if task.startswith('squad'):
    values = {'exact_match': points - 8, 'f1': points}
  else:
    names = _METRICS.get(task, ('accuracy',))
    values = dict.fromkeys(names, points / 100)
  robustness = None
  if robust and not task.startswith('squad'):
    levels = [0.0, 0.1, 0.2]
    metric = next(iter(values))
    heights = [points / 100, (points - 5 + extra) / 100, 0.6 + extra / 100]
    area = sum(a + b for a, b in zip(heights, heights[1:], strict=False)) / 4
    robustness = {
      'curves': {
        kind: {
          'metric': metric,
          'levels': levels,
          'values': heights,
          'auc': area,
          'interval': [area - 0.01, area + 0.01],
        }
        for kind in ('characters', 'word_drop')
      },
      'outside': {
        f'{task}_other': {
          'metric': 'accuracy',
          'value': 0.62 + extra / 100,
          'majority': 0.5,
          'examples': 1000,
        }
      },
    }
  return {
    'model': model,
    'pretrain_seed': pretrain_seed,
    'task': task,
    'seed': seed,
    'learning_rate': 3e-4,
    'selected_rate': False,
    'steps': 300,
    'seconds': 20.0,
    'metrics': {split: dict(values) for split in splits},
    'collapsed': [],
    'majority': {split: 0.6 for split in splits if task != 'stsb'},
    'examples': dict.fromkeys(splits, 408),
    'robustness': robustness,
    'failed': None,
  }


def _cost(models, random):
  counts = {
    'standard': (99_072, 1_503_104),
    'shared': (33_792, 1_437_824),
    'symmetric': (66_048, 1_470_080),
  }
  found = {}
  for model in models:
    projections, total = counts.get(model, (90_000, 1_437_000))
    ratio = 1 - (zlib.crc32(model.encode()) % 7) / 100
    if model == 'shared':
      ratio = 0.9
    seconds = (0.25 * ratio + random.normal(scale=0.001, size=8)).tolist()
    phase = {'seconds': seconds, 'rows': 16, 'seq_len': 128}
    found[model] = {
      'parameters': {'query/key/value': projections, 'total': total},
      'flops_per_token': 2.5e6 * ratio,
      'step_bytes': 300 * 2**20,
      'joules_per_step': None,
      'pretrain': phase,
      'finetune': phase,
    }
  return {
    'hardware': 'two cores',
    'load': [0.4, 0.5, 0.6],
    'rounds': 8,
    'models': found,
  }
