"""What the layers of a model see of a text: the inputs of their attention."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from shared_bert.model.config import BertConfig
from shared_bert.model.encoder import Encoder, EncoderLayer
from shared_bert.model.parameters import applier

_ROWS = 16  # at once


def second_moments(
  params: dict[str, Any], config: BertConfig, rows: dict[str, np.ndarray]
) -> np.ndarray:
  """The mean of x·xᵀ over all tokens but padding, x having a 1 behind it.

  Args:
    params: of a model, with `encoder` among them.
    config: of that model.
    rows: `input_ids`, `token_type_ids` and `segment_ids`, int32 [N, S] each;
      N at least 1.

  Returns:
    float64 [L, D+1, D+1], as `fitting.fit_shared` takes them.
  """
  observe = applier(lambda rngs: Encoder(config, rngs=rngs), 'observe')

  def look(
    layer: EncoderLayer, x: jax.Array, segment_ids: jax.Array
  ) -> jax.Array:
    x = layer.attention_input(x).astype(jnp.float32)
    x = jnp.concatenate([x, jnp.ones_like(x[..., :1])], axis=-1)
    real = (segment_ids > 0).astype(x.dtype)
    return jnp.einsum('BSE,BSF,BS->EF', x, x, real)

  @jax.jit
  def sums(encoder: Any, batch: dict[str, jax.Array]) -> jax.Array:
    columns = ('input_ids', 'token_type_ids', 'segment_ids')
    return observe(encoder, look, *(batch[name] for name in columns))[1]

  encoder = jax.device_put(params['encoder'])
  total = 0.0
  for start in range(0, len(rows['input_ids']), _ROWS):
    batch = {name: value[start : start + _ROWS] for name, value in rows.items()}
    # The last one is filled up with padding, which does not count.
    fill = ((0, _ROWS - len(batch['input_ids'])), (0, 0))
    batch = {name: np.pad(value, fill) for name, value in batch.items()}
    total = total + np.asarray(sums(encoder, batch), np.float64)
  total = np.asarray(total)
  return total / total[:, -1:, -1:]  # ones times ones: how many tokens
