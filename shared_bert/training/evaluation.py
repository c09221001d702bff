"""Evaluation: every row counted once, whatever the batch size."""

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

import jax
import numpy as np
from jax.sharding import AbstractMesh, Mesh

from shared_bert.model import inspection
from shared_bert.model.config import BertConfig
from shared_bert.training.mesh import on_mesh


@dataclasses.dataclass
class Evaluation:
  """What one evaluation found.

  Attributes:
    metrics: by split.
    pictures: name, such as `dev/confusion`, to what draws it, uint8 [H, W, 3];
      drawn only where somebody looks.
  """

  metrics: dict[str, dict[str, float]]
  pictures: dict[str, Callable[[], np.ndarray]] = dataclasses.field(
    default_factory=dict
  )


def evaluate_sums(
  sums_function: Callable[[Any, dict], dict],
  params: Any,
  batches: Iterable[dict],
) -> dict[str, float]:
  """Means over all rows of what a compiled function sums up.

  Args:
    sums_function: of `on_mesh`, (params, batch) to (sum, weight) pairs by
      name; padded rows must carry weight 0.
    params: of the model.
    batches: on the devices.

  Returns:
    Sum over sum of weights, by name.
  """
  # Kept on the device until the last batch is under way; added in float64.
  parts = jax.device_get([sums_function(params, batch) for batch in batches])
  return {
    name: float(
      sum(np.float64(part[name][0]) for part in parts)
      / max(sum(np.float64(part[name][1]) for part in parts), 1e-9)
    )
    for name in parts[0]
  }


def predict(
  outputs_function: Callable[[Any, dict], tuple[jax.Array, ...]],
  params: Any,
  batches: Iterable[dict],
  num_rows: int,
) -> np.ndarray:
  """The model's outputs for every row, in the order of the rows.

  Args:
    outputs_function: of `on_mesh`, (params, batch) to float32 [B, C], and of
      all processes' rows `row_id` int32 [B] and `weight` float32 [B].
    params: of the model.
    batches: on the devices.
    num_rows: N.

  Returns:
    float32 [N, C].

  Raises:
    RuntimeError: if a row was not visited exactly once.
  """
  pending = [outputs_function(params, batch) for batch in batches]
  visits = np.zeros(num_rows, np.int64)
  result = None
  for outputs, rows, weights in jax.device_get(pending):
    if result is None:
      result = np.zeros((num_rows, outputs.shape[1]), outputs.dtype)
    real = weights > 0
    result[rows[real]] = outputs[real]
    np.add.at(visits, rows[real], 1)
  if result is None or (visits != 1).any():
    raise RuntimeError('evaluation did not visit every row exactly once')
  return result


def watch_attention(
  config: BertConfig,
  mesh: Mesh | AbstractMesh,
  sample: dict[str, jax.Array] | None,
) -> Callable[[Any], dict[str, float]]:
  """How widely the layers look, on one batch that stays the same.

  Args:
    config: of the model.
    mesh: of the devices.
    sample: a batch of `eval_batches` on the devices, with `input_ids`,
      `segment_ids` and perhaps `token_type_ids`, int32 [B, S], and `weight`
      [B]; rows of weight 0 do not count. None if there is nothing to look at.

  Returns:
    A function of the model's parameters to the entropy of the tokens'
    attention in nats, `layer_00`, `layer_01`, …, and `uniform`, the most that
    it can be; or to nothing without a sample.
  """
  if sample is None:
    return lambda params: {}
  entropy_of = inspection.attention_entropy(config)

  def look(params: Any, sample: dict) -> tuple[jax.Array, jax.Array]:
    rows = (sample['weight'] > 0)[:, None]
    segment_ids = sample['segment_ids'] * rows
    entropies = entropy_of(
      params, sample['input_ids'], sample.get('token_type_ids'), segment_ids
    )
    return entropies, inspection.uniform_entropy(segment_ids)

  compiled = on_mesh(mesh, look)

  def watch(params: Any) -> dict[str, float]:
    entropies, uniform = jax.device_get(compiled(params, sample))
    return {
      f'layer_{layer:02}': float(entropy)
      for layer, entropy in enumerate(entropies)
    } | {'uniform': float(uniform)}

  return watch
