"""A small training state of every dtype, and how to compare two."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import NamedSharding, PartitionSpec

from shared_bert.training.checkpoint import Checkpoints

METADATA = {'config': {'seed': 1, 'name': 'tést'}, 'tokenizer': 'abc'}
FILES = {'vocab.txt': b'[PAD]\n[UNK]\n', 'tokenizer_config.json': b'{}'}


def sharding_over(devices: int, *axes: str | None) -> NamedSharding:
  """A sharding over the first devices, along the mesh axis `data`."""
  mesh = jax.make_mesh(
    (devices,),
    ('data',),
    axis_types=(jax.sharding.AxisType.Auto,),
    devices=jax.devices()[:devices],
  )
  return NamedSharding(mesh, PartitionSpec(*axes))


def _random_bits(tree, seed):
  """Fills a pytree with arbitrary bits, infinities and NaNs among them."""
  generator = np.random.default_rng(seed)

  def fill(leaf):
    if leaf.dtype == bool:
      return generator.integers(0, 2, leaf.shape).astype(bool)
    size = leaf.size * leaf.dtype.itemsize
    return np.frombuffer(generator.bytes(size), leaf.dtype).reshape(leaf.shape)

  return jax.tree.map(fill, tree)


@functools.cache
def shapes():
  """The state as shapes, with every kind of node that optax has."""
  shape = jax.ShapeDtypeStruct
  params = {
    'encoder': {
      'kernel': shape((16, 8), jnp.float32),
      'bias': shape((8,), jnp.bfloat16),
    },
    'head': {'table': shape((5,), jnp.int32), 'scale': shape((), jnp.float16)},
  }
  decayed = {
    'encoder': {'kernel': True, 'bias': True},
    'head': {'table': False, 'scale': False},
  }
  optimizer = optax.chain(
    optax.clip_by_global_norm(1.0),
    optax.masked(optax.adamw(1e-3), decayed),
    optax.scale_by_schedule(lambda count: 1.0),
  )
  return {
    'step': shape((), jnp.int32),
    'params': params,
    'opt_state': jax.eval_shape(optimizer.init, params),
    'window': {'loss': (shape((), jnp.float32), shape((), jnp.float32))},
  }


def state_of(seed: int, devices: int = 1):
  """A training state; the kernels are split over the devices."""

  def put(leaf):
    axes = ('data',) if leaf.shape == (16, 8) else ()
    return jax.device_put(leaf, sharding_over(devices, *axes))

  return jax.tree.map(put, _random_bits(shapes(), seed))


def abstract_of(state):
  return jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state
  )


def assert_same(actual, expected):
  """Compares structure, dtypes, shapes and every bit."""
  assert jax.tree.structure(actual) == jax.tree.structure(expected)
  for ours, theirs in zip(
    jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True
  ):
    assert ours.dtype == theirs.dtype
    assert ours.shape == theirs.shape
    assert np.asarray(ours).tobytes() == np.asarray(theirs).tobytes()


def save_states(directory, steps, **kwargs):
  checkpoints = Checkpoints(directory, **kwargs)
  for step in steps:
    checkpoints.save(step, state_of(step), METADATA, files=FILES)
  checkpoints.close()


def names_in(directory):
  return sorted(path.name for path in directory.iterdir())
