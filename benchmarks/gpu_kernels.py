"""Ceilings of a device, and attention alone: two sections of `gpu.py`."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from contest import Contestant
from gpu_report import Report, Scale, agreed, timed, tried

from shared_bert.model.backends import BACKENDS, Backend

Arrays = dict[str, jax.Array]


def ceilings(scale: Scale, report: Report) -> float | None:
  """A product of matrices, and a copy.

  Args:
    scale: of all.
    report: gets TFLOP/s and GB/s.

  Returns:
    FLOP/s of the product, or None if it was not measured.
  """
  if not report.begin('ceilings'):
    return None
  n, dtype = scale.product, jnp.dtype(scale.dtype)
  keys = jax.random.split(jax.random.key(0), 3)
  x, y = (jax.random.normal(key, (n, n), dtype) for key in keys[:2])
  z = jax.random.normal(keys[2], (scale.copied,), dtype)
  # Negated, since XLA may not copy what it need not.
  product, copy = jax.jit(jnp.matmul), jax.jit(jnp.negative)
  wait = jax.block_until_ready
  parity: list[dict[str, Any]] = []
  few = slice(0, 16)
  exact = np.asarray(x[few], np.float64) @ np.asarray(y[:, few], np.float64)
  found = np.asarray(product(x, y)[few, few], np.float64)
  contestants = {}
  if agreed(parity, 'product', _apart(found, exact), scale.tolerance):
    contestants['product'] = Contestant(lambda: product(x, y), wait=wait)
  if agreed(parity, 'copy', float(jnp.abs(copy(z) + z).max()), 0.0):
    contestants['copy'] = Contestant(lambda: copy(z), wait=wait)
  told = timed(contestants, scale.rounds, scale.short_turn, pairs=[])
  rates, flops = {}, None
  if 'product' in contestants:
    flops = 2 * n**3 / told['seconds']['product']['wall']['median']
    rates['product'] = {'tflops': flops / 1e12}
  if 'copy' in contestants:
    seconds = told['seconds']['copy']['wall']['median']
    rates['copy'] = {'gigabytes': 2 * z.nbytes / seconds / 1e9}
  report.add(
    'ceilings',
    scale.dtype,
    told | {'rates': rates, 'parity': parity, 'errors': {}},
  )
  return flops


def _apart(ours: Any, theirs: Any) -> float:
  """The largest difference, as a share of the largest value."""
  ours, theirs = (np.asarray(x, np.float64) for x in (ours, theirs))
  return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


def segments_of(kind: str, rows: int, length: int) -> np.ndarray:
  """Segments of rows: int32 [B, S].

  Args:
    kind: `one segment`, `padded` (a half to all of a row is real) or `packed`
      (three segments and a little padding).
    rows: B.
    length: S.
  """
  ids = np.ones((rows, length), np.int32)
  places = np.arange(length)
  if kind == 'padded':
    real = np.random.default_rng(0).integers(length // 2, length + 1, rows)
    ids = (places < real[:, None]).astype(np.int32)
  if kind == 'packed':
    ends = np.array([0.45, 0.8, 0.97]) * length
    row = (1 + np.searchsorted(ends, places, side='right')) % 4
    ids = np.broadcast_to(row, ids.shape).astype(np.int32)
  return ids


def _of_three(attend: Callable, arrays: Arrays, segments: Any) -> jax.Array:
  return attend(arrays['q'], arrays['k'], arrays['v'], segments)


def _of_shared(attend: Callable, arrays: Arrays, segments: Any) -> jax.Array:
  """By a backend of queries, keys and values, which S and diagonals make."""
  s = arrays['s']
  # In float32, so that gradients of the diagonals are added up in it.
  q, v = ((s * arrays[name]).astype(s.dtype) for name in ('a', 'd_v'))
  return attend(q, s, v, segments)


def _of_form(attend: Callable, arrays: Arrays, segments: Any) -> jax.Array:
  return attend(arrays['s'], arrays['a'], arrays['d_v'], segments)


def _functions(backend: Backend, shared: bool) -> dict[str, Callable[..., Any]]:
  """`forward` and `both`, the latter with gradients, of arrays, segments, w."""
  form = _of_shared if shared else _of_three
  form = _of_form if backend.takes_shared_form else form
  attend = functools.partial(form, backend.attend)

  def loss(arrays: Arrays, segments: Any, w: Any) -> tuple[Any, Any]:
    context = attend(arrays, segments)
    # Nothing behind the end of a row counts.
    w = jnp.where((segments > 0)[:, :, None, None], w, 0)
    return (context * w).astype(jnp.float32).sum(), context

  return {
    'forward': jax.jit(lambda arrays, segments, w: attend(arrays, segments)),
    'both': jax.jit(jax.grad(loss, has_aux=True)),
  }


def _can(backend: Backend, scale: Scale, platform: str) -> bool:
  sizes = backend.head_sizes.get(platform)
  return (
    platform in backend.platforms
    and scale.dtype in backend.dtypes
    and (not sizes or scale.head_size in sizes)
  )


def attention(scale: Scale, report: Report) -> None:
  """Each backend, of queries, keys and values and of S and its diagonals.

  Args:
    scale: of all.
    report: gets milliseconds of the forward pass, and of it with gradients,
      and how many times faster than XLA's each is. What is timed, XLA's in
      `scale.dtype` as well, agrees with XLA's in float32.
  """
  platform = jax.default_backend()
  able = {
    name: backend
    for name, backend in BACKENDS.items()
    if _can(backend, scale, platform)
  }
  # Compiled once for a shape, whatever the segments.
  functions = {
    (name, shared): _functions(backend, shared)
    for name, backend in able.items()
    for shared in (False, True)
    if shared or not backend.takes_shared_form
  }
  for length in sorted(scale.lengths, reverse=True):
    shape = (scale.tokens // length, length, scale.heads, scale.head_size)
    keys = iter(jax.random.split(jax.random.key(1), 7))
    dtype = jnp.dtype(scale.dtype)
    arrays = {
      name: jax.random.normal(next(keys), shape, dtype)
      for name in ('q', 'k', 'v', 's')
    }
    arrays |= {
      name: jax.random.normal(next(keys), shape[2:]) for name in ('a', 'd_v')
    }
    w = jax.random.normal(next(keys), shape, dtype)
    for kind in ('packed', 'one segment', 'padded'):
      case = f'{shape[0]} x {length}, {kind}'
      if not report.begin(f'attention of {case}'):
        continue
      segments = jnp.asarray(segments_of(kind, *shape[:2]))
      usable = {
        key: made
        for key, made in functions.items()
        if kind != 'packed' or able[key[0]].packs
      }
      _case(scale, report, case, usable, (arrays, segments, w))


def _results(made: dict, arrays: Arrays, segments: Any, w: Any) -> dict:
  """What both functions give, float32; 0 where there is padding."""
  gradients, again = made['both'](arrays, segments, w)
  contexts = {'forward': made['forward'](arrays, segments, w), 'both': again}
  real = np.asarray(segments > 0)[:, :, None, None]
  return {
    name: np.where(real, np.asarray(x, np.float32), 0)
    for name, x in contexts.items()
  } | {name: np.asarray(x, np.float32) for name, x in gradients.items()}


def _case(
  scale: Scale, report: Report, case: str, functions: dict, inputs: tuple
) -> None:
  """Compares, times and tells of backends on the same rows."""
  arrays, segments, w = inputs
  parity: list[dict[str, Any]] = []
  errors: dict[str, str] = {}
  ready: dict[str, dict[str, Contestant]] = {'forward': {}, 'both': {}}
  pairs: list[tuple[str, str]] = []
  exact: dict[bool, dict[str, np.ndarray]] = {}
  for (name, shared), made in functions.items():
    form, names = 'Q, K, V', ('q', 'k', 'v')
    if shared:
      form, names = 'S', ('s', 'a', 'd_v')
    title, plain = f'{name} of {form}', f'xla of {form}'
    used = {n: arrays[n] for n in names}
    if shared not in exact:
      wide = {n: x.astype(jnp.float32) for n, x in used.items()}
      # Of a GPU's float32 products otherwise 10 bits count.
      with jax.default_matmul_precision('highest'):
        exact[shared] = _results(
          functions['xla', shared], wide, segments, w.astype(jnp.float32)
        )
    compute = functools.partial(_results, made, used, segments, w)
    found = tried(compute, title, errors)
    if found is None:
      continue
    # NaN is the largest, so that one is seen.
    worst = np.max([_apart(found[n], x) for n, x in exact[shared].items()])
    what = f'{title} and XLA in float32'
    if not agreed(parity, what, float(worst), scale.tolerance):
      continue
    if title != plain and plain in ready['both']:
      pairs.append((plain, title))
    for passes, function in made.items():
      ready[passes][title] = Contestant(
        functools.partial(function, used, segments, w),
        wait=jax.block_until_ready,
      )
  tokens, width = segments.size, scale.heads * scale.head_size
  for what, contestants in ready.items():
    told = timed(contestants, scale.rounds, scale.short_turn, pairs)
    # Of two products forward, and twice as many backward, all of a row.
    flops = 4.0 * tokens * segments.shape[1] * width
    flops *= 3 if what == 'both' else 1
    rates = {
      name: {'tflops': flops / clock['wall']['median'] / 1e12}
      for name, clock in told['seconds'].items()
    }
    told |= {'rates': rates, 'parity': parity, 'errors': errors}
    passes = 'forward' if what == 'forward' else 'forward and backward'
    report.add('attention', f'{case}, {passes}', told)
