"""Ways to compute softmax(Q·Kᵀ/√K)·V within segments.

`BACKENDS` has them by their names in `model.attention_backend`. XLA's runs on
every device, does all that is asked, and is the reference that others are
tested against; `check` refuses what another cannot do.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp

from shared_bert.errors import UserError
from shared_bert.model import sharding
from shared_bert.model.config import BertConfig
from shared_bert.model.layers import dropout
from shared_bert.model.shared_kernel import shared_attention

# Finite, so that a row of nothing but padding gives a uniform softmax rather
# than NaN; low enough that exp() of it is exactly 0 beside any real score.
MASKED_SCORE = -1e9


def attention_scores(q: jax.Array, k: jax.Array) -> jax.Array:
  """Scaled scores before the mask, accumulated in float32.

  Args:
    q: [B, S, H, K], or [B, P, H, K] of some tokens.
    k: [B, S, H, K].

  Returns:
    float32 [B, H, S, S] or [B, H, P, S], query axis first.
  """
  scores = jnp.einsum(
    'BSHK,BTHK->BHST', q, k, preferred_element_type=jnp.float32
  )
  return scores * q.shape[-1] ** -0.5


def attention_probabilities(
  q: jax.Array,
  k: jax.Array,
  segment_ids: jax.Array,
  read: jax.Array | None = None,
) -> jax.Array:
  """What each token gives to each token of its segment.

  Args:
    q: [B, S, H, K], or [B, P, H, K] of the tokens at `read`.
    k: [B, S, H, K].
    segment_ids: int32 [B, S]; 0 is padding, equal numbers see each other.
    read: int32 [B, P] or None.

  Returns:
    float32 [B, H, S, S] or [B, H, P, S], query axis first; sums to 1 over the
    last axis, and is 0 outside the segment of a query that is not padding.
  """
  of_queries = segment_ids
  if read is not None:
    of_queries = jnp.take_along_axis(segment_ids, read, axis=1)
  visible = (of_queries[:, None, :, None] == segment_ids[:, None, None, :]) & (
    segment_ids[:, None, None, :] > 0
  )
  scores = jnp.where(visible, attention_scores(q, k), MASKED_SCORE)
  return jax.nn.softmax(scores, axis=-1)


def xla_attention(
  q: jax.Array,
  k: jax.Array,
  v: jax.Array,
  segment_ids: jax.Array,
  *,
  dropout_rate: float = 0.0,
  key: jax.Array | None = None,
  read: jax.Array | None = None,
) -> jax.Array:
  """Attention as BERT has it, with dropout on the probabilities.

  Args:
    q: [B, S, H, K], or [B, P, H, K] of the tokens at `read`.
    k: [B, S, H, K].
    v: [B, S, H, K].
    segment_ids: int32 [B, S]; 0 is padding, equal numbers see each other.
    dropout_rate: on the probabilities, used where `key` is given.
    key: a random key, or None.
    read: int32 [B, P] or None.

  Returns:
    Of the shape of `q`, in the dtype of `v`.
  """
  probabilities = attention_probabilities(q, k, segment_ids, read)
  probabilities = probabilities.astype(v.dtype)
  probabilities = dropout(probabilities, dropout_rate, key)
  return jnp.einsum('BHST,BTHK->BSHK', probabilities, v)


def cudnn_attention(
  q: jax.Array,
  k: jax.Array,
  v: jax.Array,
  segment_ids: jax.Array,
) -> jax.Array:
  """cuDNN's fused attention, of rows that are one segment and padding.

  The lengths of the rows go in place of a mask, which JAX would turn into
  numbers to add to all scores.

  Args:
    q: bfloat16 [B, S, H, K]; K as `BACKENDS` has it.
    k: bfloat16 [B, S, H, K].
    v: bfloat16 [B, S, H, K].
    segment_ids: int32 [B, S]; 1 for each token, then 0 for padding.

  Returns:
    bfloat16 [B, S, H, K]; 0 where there is padding.

  Raises:
    RuntimeError: by JAX, if there is no cuDNN.
    NotImplementedError: by JAX, for float32 or another K.
  """
  real = (segment_ids > 0)[:, :, None, None]
  # What cuDNN leaves behind a row's end is not said; `where` keeps it, and its
  # gradients, out. A row of nothing but padding has a length of 1.
  q, k, v = (jnp.where(real, x, 0) for x in (q, k, v))
  lengths = jnp.maximum((segment_ids > 0).sum(axis=1, dtype=jnp.int32), 1)
  context = jax.nn.dot_product_attention(
    q,
    k,
    v,
    query_seq_lengths=lengths,
    key_value_seq_lengths=lengths,
    implementation='cudnn',
  )
  return jnp.where(real, context, 0)


def pallas_shared_attention(
  s: jax.Array, a: jax.Array, d_v: jax.Array, segment_ids: jax.Array
) -> jax.Array:
  """Our kernel, `shared_kernel.shared_attention`, on each device's rows.

  Args:
    s: [B, S, H, K].
    a: float32 [H, K], d_q∘d_k.
    d_v: float32 [H, K].
    segment_ids: int32 [B, S]; 0 is padding, equal numbers see each other.

  Returns:
    [B, S, H, K] in the dtype of `s`; 0 where there is padding.
  """
  attend = sharding.on_each_device(shared_attention, True, False, False, True)
  return attend(s, a, d_v, segment_ids)


@dataclasses.dataclass(frozen=True)
class Backend:
  """A way to compute attention, and what it can do.

  Attributes:
    title: its name in plans.
    attend: the function.
    takes_shared_form: whether that is of S, d_q∘d_k, d_v and segments, rather
      than of queries, keys, values and segments.
    platforms: of the devices that it runs on.
    dtypes: that it computes in, as `model.dtype` has them.
    packs: whether a row may hold several segments.
    drops: whether there may be dropout on the probabilities; where not,
      `BertConfig` refuses `attention_dropout`.
    head_sizes: K by platform; any where it does not say.
  """

  title: str
  attend: Callable[..., jax.Array]
  takes_shared_form: bool = False
  platforms: tuple[str, ...] = ('cpu', 'gpu', 'tpu')
  dtypes: tuple[str, ...] = ('float32', 'bfloat16')
  packs: bool = True
  drops: bool = False
  head_sizes: dict[str, tuple[int, ...]] = dataclasses.field(
    default_factory=dict
  )


BACKENDS = {
  'xla': Backend('XLA', xla_attention, drops=True),
  'cudnn': Backend(
    'cuDNN',
    cudnn_attention,
    platforms=('gpu',),
    dtypes=('bfloat16',),
    packs=False,
    # jax/_src/cudnn/fused_attention_stablehlo.py, check_is_flash_attention; on
    # Hopper and later up to 256.
    head_sizes={'gpu': tuple(range(8, 129, 8))},
  ),
  # On a CPU it is interpreted, which is for tests: slow.
  'pallas_shared': Backend(
    'Pallas',
    pallas_shared_attention,
    takes_shared_form=True,
    # Triton's arrays have powers of 2, and its products at least 16; beyond 64
    # tiles of float32 take more shared memory than some GPUs have.
    head_sizes={'gpu': (16, 32, 64)},
  ),
}


def check(config: BertConfig, platform: str, packed: bool) -> None:
  """Refuses a backend that cannot do what a run asks of it.

  Args:
    config: of the model.
    platform: of the devices: `cpu`, `gpu` or `tpu`.
    packed: whether a row may hold several segments.

  Raises:
    UserError: naming the key and the mend.
  """
  backend = BACKENDS[config.attention_backend]
  named = f'model.attention_backend={config.attention_backend}'
  mend = 'use model.attention_backend=auto.'
  if platform not in backend.platforms:
    raise UserError(
      f'{named} runs on {" and ".join(backend.platforms)} alone, and the '
      f'devices here are of the platform {platform}: {mend}'
    )
  if config.dtype not in backend.dtypes:
    raise UserError(
      f'{named} computes in {" or ".join(backend.dtypes)}, and model.dtype is '
      f'{config.dtype}: set that, or {mend}'
    )
  sizes = backend.head_sizes.get(platform)
  if sizes and config.head_size not in sizes:
    raise UserError(
      f'{named} takes heads of {", ".join(map(str, sizes))} on this platform, '
      f'and model.hidden_size / model.num_heads is {config.head_size}: {mend}'
    )
  if packed and not backend.packs:
    raise UserError(
      f'{named} takes rows of one text and padding, and rows here hold '
      'several: fine-tune with data.packing=False, pre-train on a corpus of '
      f'pairs (--pairs), or {mend}'
    )
