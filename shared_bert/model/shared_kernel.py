"""Attention of shared weights as one kernel that reads S and nothing else.

In the shared form (`shared_bert.model.attention`) queries, keys and values are
one array S and three diagonals, of which scores see only a = d_q∘d_k. Of a
head, with S [T, K] and c = 1/√K:

  Z = c·S·diag(a)·Sᵀ      P = softmax(Z) within segments      O = (P·S)∘d_v

so a tile of S is keys and values at once, and Z is symmetric. The forward pass
is FlashAttention's, an online softmax over tiles of keys that keeps of each
query the logarithm of its sum, ℓ (Dao et al. 2022, arXiv 2205.14135, algorithm
1; Dao 2023, arXiv 2307.08691, section 3.1). The backward pass computes P again
from ℓ (the same, algorithm 4). With δ = rowsum(dO∘O):

  dP = (dO∘d_v)·Sᵀ        dZ = P∘(dP − δ)        G = Pᵀ·dO
  M  = dZ + dZᵀ
  dS  = c·(M·S)∘a + G∘d_v
  da  = ½c·Σ_t (S∘(M·S))_t       dd_v = Σ_t (S∘G)_t

since S stands on both sides of Z, and Σ_ij dZ_ij·S_ik·S_jk does not change when
dZ is transposed. Because Z is symmetric, a tile of it gives both dZ of the tile
and, with the ℓ of its columns, dZᵀ of the tile across the diagonal: one loop of
5 products a pair of tiles makes all of dS, where separate queries, keys and
values take two loops and 7 (Dao 2023, section 3.1.2, without atomic additions).
Each program owns its rows of dS, so that sums have one order and a segment's
numbers do not depend on other segments, not by a bit.

The algebra of this form is ours; the diagonals are Kowsher et al.'s (arXiv
2412.00359). The softmax is online, rather than over whole rows of scores, since
64 rows of 512 in float32 take half of the registers of a GPU's multiprocessor,
and the backward pass works with several such.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

# Rows of a tile, at most. A TPU's vectors have 128 lanes; on a GPU the backward
# pass holds several tiles of 64 by 64 in registers. Small on a CPU, where the
# kernel is interpreted to test it.
_BLOCKS = {'cpu': 32, 'gpu': 64, 'tpu': 128}
# The least that a Triton product takes.
_SMALLEST_BLOCK = 16
# As `backends.MASKED_SCORE`: finite, and exp() of it is 0 beside a real score.
_MASKED = -1e9


def shared_attention(
  s: jax.Array,
  a: jax.Array,
  d_v: jax.Array,
  segment_ids: jax.Array,
  platform: str | None = None,
) -> jax.Array:
  """Attention within segments of queries, keys and values that are S.

  Args:
    s: [B, S, H, K], float32 or bfloat16.
    a: float32 [H, K], d_q∘d_k.
    d_v: float32 [H, K].
    segment_ids: int32 [B, S]; 0 is padding, equal numbers see each other.
    platform: `gpu` (Triton), `tpu` (Mosaic) or `cpu` (interpreted); by default
      that of the devices.

  Returns:
    [B, S, H, K] in the dtype of `s`; 0 where there is padding. Products are
    added up in float32, and so is the softmax.
  """
  platform = platform or jax.default_backend()
  length = s.shape[1]
  block = _BLOCKS[platform]
  while block // 2 >= max(length, _SMALLEST_BLOCK):
    block //= 2
  behind = -length % block
  if behind:
    s = jnp.pad(s, ((0, 0), (0, behind), (0, 0), (0, 0)))
    segment_ids = jnp.pad(segment_ids, ((0, 0), (0, behind)))
  context = _attention(platform, block, s, a, d_v, segment_ids)
  return context[:, :length] if behind else context


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _attention(
  platform: str,
  block: int,
  s: jax.Array,
  a: jax.Array,
  d_v: jax.Array,
  segment_ids: jax.Array,
) -> jax.Array:
  return _forward(platform, block, s, a, d_v, segment_ids)[0]


def _forward(platform, block, s, a, d_v, segment_ids):
  """The context [B, S, H, K], and what the backward pass wants."""
  call = _Call(platform, block, s)
  context, lse = call(
    _forward_kernel,
    [call.whole(s), *call.diagonals(a, d_v), *call.segments(segment_ids)],
    [call.tile(s.dtype), call.tile_of_statistics()],
    num_warps=4,
  )
  context = call.rows_first(context)
  return context, (s, a, d_v, segment_ids, context, lse)


def _backward(platform, block, kept, gradient):
  """Gradients of S, a and d_v; none of the segments."""
  s, a, d_v, segment_ids, context, lse = kept
  call = _Call(platform, block, s)
  delta = jnp.einsum(
    'BSHK,BSHK->BHS',
    gradient,
    context,
    preferred_element_type=jnp.float32,
  )
  ds, da, dd_v = call(
    _backward_kernel,
    [
      call.whole(s),
      *call.diagonals(a, d_v),
      *call.segments(segment_ids),
      call.whole(gradient),
      *call.statistics(lse),
      *call.statistics(delta),
    ],
    [call.tile(s.dtype), call.tile_of_sums(), call.tile_of_sums()],
    num_warps=8,  # with 4, ptxas spills registers for sm_90
  )
  da, dd_v = (x.sum(axis=(0, 2, 3)) for x in (da, dd_v))
  return call.rows_first(ds), da.astype(a.dtype), dd_v.astype(d_v.dtype), None


_attention.defvjp(_forward, _backward)


def _dot(x: jax.Array, y: jax.Array, x_axis: int, y_axis: int) -> jax.Array:
  """The product of two matrices over these axes, float32."""
  return jax.lax.dot_general(
    x,
    y,
    (((x_axis,), (y_axis,)), ((), ())),
    preferred_element_type=jnp.float32,
  )


def _visible(of_queries: jax.Array, of_keys: jax.Array) -> jax.Array:
  """Where a query [T, 1] sees a key [1, T], bool [T, T]."""
  return (of_queries == of_keys) & (of_keys > 0)


def _forward_kernel(
  s_ref, a_ref, d_v_ref, column_ref, row_ref, context_ref, lse_ref, *, block
):
  """A tile of the context [T, K] and of ℓ [T, 1]."""
  mine = pl.ds(pl.multiple_of(pl.program_id(2) * block, block), block)
  num_blocks, width = s_ref.shape[0] // block, s_ref.shape[1]
  dtype = s_ref.dtype
  queries = s_ref[mine, :] * (a_ref[...] * width**-0.5)
  queries, segments = queries.astype(dtype), column_ref[mine, :]

  def step(j, carry):
    highest, total, context = carry
    theirs = pl.ds(pl.multiple_of(j * block, block), block)
    keys = s_ref[theirs, :]
    visible = _visible(segments, row_ref[:, theirs])
    z = jnp.where(visible, _dot(queries, keys, 1, 1), _MASKED)
    higher = jnp.maximum(highest, z.max(axis=1, keepdims=True))
    p = jnp.where(visible, jnp.exp(z - higher), 0.0)
    shrink = jnp.exp(highest - higher)
    total = total * shrink + p.sum(axis=1, keepdims=True)
    context = context * shrink + _dot(p.astype(dtype), keys, 1, 0)
    return higher, total, context

  highest, total, context = jax.lax.fori_loop(
    0,
    num_blocks,
    step,
    (
      jnp.full((block, 1), _MASKED, jnp.float32),
      jnp.zeros((block, 1), jnp.float32),
      jnp.zeros((block, width), jnp.float32),
    ),
  )
  total = jnp.where(total > 0, total, 1.0)  # padding sees nothing: 0 over 1
  context_ref[...] = (context / total * d_v_ref[...]).astype(dtype)
  lse_ref[...] = highest + jnp.log(total)


def _backward_kernel(
  s_ref,
  a_ref,
  d_v_ref,
  column_ref,
  row_ref,
  gradient_ref,
  lse_column_ref,
  lse_row_ref,
  delta_column_ref,
  delta_row_ref,
  ds_ref,
  da_ref,
  dd_v_ref,
  *,
  block,
):
  """A tile of dS [T, K], and what its rows give to da and dd_v, [1, K] each."""
  mine = pl.ds(pl.multiple_of(pl.program_id(2) * block, block), block)
  num_blocks, width = s_ref.shape[0] // block, s_ref.shape[1]
  dtype = s_ref.dtype
  a, d_v = a_ref[...] * width**-0.5, d_v_ref[...]
  s = s_ref[mine, :]
  scaled, segments = (s * a).astype(dtype), column_ref[mine, :]
  gradient = (gradient_ref[mine, :] * d_v).astype(dtype)
  lse, delta = lse_column_ref[mine, :], delta_column_ref[mine, :]

  def step(j, carry):
    from_scores, from_values = carry
    theirs = pl.ds(pl.multiple_of(j * block, block), block)
    s_j, gradient_j = s_ref[theirs, :], gradient_ref[theirs, :]
    visible = _visible(segments, row_ref[:, theirs])
    z = _dot(scaled, s_j, 1, 1)
    p = jnp.where(visible, jnp.exp(z - lse), 0.0)
    # Of the tile across the diagonal, transposed.
    p_t = jnp.where(visible, jnp.exp(z - lse_row_ref[:, theirs]), 0.0)
    dp = _dot(gradient, s_j, 1, 1)
    dp_t = _dot(s, (gradient_j * d_v).astype(dtype), 1, 1)
    m = p * (dp - delta) + p_t * (dp_t - delta_row_ref[:, theirs])
    return (
      from_scores + _dot(m.astype(dtype), s_j, 1, 0),
      from_values + _dot(p_t.astype(dtype), gradient_j, 1, 0),
    )

  nothing = jnp.zeros((block, width), jnp.float32)
  from_scores, from_values = jax.lax.fori_loop(
    0, num_blocks, step, (nothing, nothing)
  )
  ds_ref[...] = (from_scores * a + from_values * d_v).astype(dtype)
  half = 0.5 * width**-0.5
  da_ref[...] = half * (s * from_scores).sum(axis=0, keepdims=True)
  dd_v_ref[...] = (s * from_values).sum(axis=0, keepdims=True)


class _Call:
  """A grid of (row, head, tile of queries), and how it cuts arrays.

  A TPU wants the last two axes of a block whole or in multiples of its tiles,
  so heads go before the tokens there; a GPU reads [B, S, H, K] as it is. For
  the same reason what is one number a token comes as a column and as a row.
  """

  def __init__(self, platform: str, block: int, s: jax.Array):
    self._platform, self._block = platform, block
    self._rows, self._length, self._heads, self._width = s.shape
    self._heads_first = platform == 'tpu'

  def rows_first(self, x: jax.Array) -> jax.Array:
    """[B, S, H, K] of what the kernel wrote."""
    return x.swapaxes(1, 2) if self._heads_first else x

  def whole(self, x: jax.Array) -> tuple[jax.Array, pl.BlockSpec]:
    """All tokens of a row and head of [B, S, H, K]: [S, K]."""
    if self._heads_first:
      return x.swapaxes(1, 2), pl.BlockSpec(
        (None, None, self._length, self._width), lambda b, h, i: (b, h, 0, 0)
      )
    return x, pl.BlockSpec(
      (None, self._length, None, self._width), lambda b, h, i: (b, 0, h, 0)
    )

  def diagonals(self, *xs: jax.Array) -> list:
    """Those of a head of [H, K]: [1, K] each."""
    spec = pl.BlockSpec((None, 1, self._width), lambda b, h, i: (h, 0, 0))
    return [(x.astype(jnp.float32)[:, None, :], spec) for x in xs]

  def segments(self, x: jax.Array) -> list:
    """All of a row of [B, S]: [S, 1] and [1, S]."""
    length = self._length
    return [
      (
        x[:, :, None],
        pl.BlockSpec((None, length, 1), lambda b, h, i: (b, 0, 0)),
      ),
      (
        x[:, None, :],
        pl.BlockSpec((None, 1, length), lambda b, h, i: (b, 0, 0)),
      ),
    ]

  def statistics(self, x: jax.Array) -> list:
    """All of a row and head of B·H·S numbers: [S, 1] and [1, S]."""
    shapes = ((self._length, 1), (1, self._length))
    return [
      (
        x.reshape(self._rows, self._heads, *shape),
        pl.BlockSpec((None, None, *shape), lambda b, h, i: (b, h, 0, 0)),
      )
      for shape in shapes
    ]

  def tile(self, dtype: Any) -> tuple[jax.ShapeDtypeStruct, pl.BlockSpec]:
    """The tokens of a tile, [T, K], of what `whole` cuts."""
    shape = [self._rows, self._length, self._heads, self._width]
    if self._heads_first:
      shape[1:3] = self._heads, self._length
      spec = pl.BlockSpec(
        (None, None, self._block, self._width), lambda b, h, i: (b, h, i, 0)
      )
    else:
      spec = pl.BlockSpec(
        (None, self._block, None, self._width), lambda b, h, i: (b, i, h, 0)
      )
    return jax.ShapeDtypeStruct(shape, dtype), spec

  def tile_of_statistics(self) -> tuple[jax.ShapeDtypeStruct, pl.BlockSpec]:
    """The tokens of a tile, [T, 1], of [B, H, S, 1]."""
    shape = (self._rows, self._heads, self._length, 1)
    return jax.ShapeDtypeStruct(shape, jnp.float32), pl.BlockSpec(
      (None, None, self._block, 1), lambda b, h, i: (b, h, i, 0)
    )

  def tile_of_sums(self) -> tuple[jax.ShapeDtypeStruct, pl.BlockSpec]:
    """A tile's own numbers, [1, K], of [B, H, tiles, 1, K]."""
    tiles = self._length // self._block
    shape = (self._rows, self._heads, tiles, 1, self._width)
    return jax.ShapeDtypeStruct(shape, jnp.float32), pl.BlockSpec(
      (None, None, None, 1, self._width), lambda b, h, i: (b, h, i, 0, 0)
    )

  def __call__(
    self,
    kernel: Callable[..., None],
    inputs: list,
    outputs: list,
    num_warps: int,
  ) -> list[jax.Array]:
    """Runs a kernel.

    Args:
      kernel: of refs of the inputs and of the outputs, and `block`.
      inputs: arrays with how they are cut.
      outputs: shapes with how they are cut.
      num_warps: of a program on a GPU.

    Returns:
      The outputs.
    """
    arrays, in_specs = zip(*inputs, strict=True)
    shapes, out_specs = zip(*outputs, strict=True)
    return pl.pallas_call(
      functools.partial(kernel, block=self._block),
      grid=(self._rows, self._heads, self._length // self._block),
      in_specs=in_specs,
      out_specs=out_specs,
      out_shape=shapes,
      compiler_params=_compiler_params(self._platform, num_warps),
      interpret=self._platform == 'cpu',
      name=f'shared_attention{kernel.__name__.removesuffix("_kernel")}',
    )(*arrays)


def _compiler_params(platform: str, num_warps: int) -> Any:
  # Imported late: each is for its platform alone.
  if platform == 'gpu':
    from jax.experimental.pallas import triton

    return triton.CompilerParams(num_warps=num_warps, num_stages=2)
  if platform == 'tpu':
    from jax.experimental.pallas import tpu

    return tpu.CompilerParams(dimension_semantics=('parallel',) * 3)
  return None
