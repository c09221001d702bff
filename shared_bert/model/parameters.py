"""Models as pytrees: make, apply and count parameters.

Outside `shared_bert.model` a model is a function and a nested dict of arrays,
so that optimisers, checkpoints and shardings see plain pytrees.
"""

from collections.abc import Callable
from typing import Any

import jax
from flax import nnx

from shared_bert.model import sharding
from shared_bert.model.config import BertConfig
from shared_bert.model.encoder import BertModel

Params = dict[str, Any]


def initialise(
  make: Callable[[nnx.Rngs], nnx.Module], key: jax.Array
) -> Params:
  """Makes the parameters of a model.

  Args:
    make: builds the module from its random streams.
    key: a random key.

  Returns:
    Nested dict of float32 arrays, by attribute name.
  """
  return nnx.to_pure_dict(nnx.state(make(nnx.Rngs(key)), nnx.Param))


def abstract(make: Callable[[nnx.Rngs], nnx.Module]) -> Params:
  """`initialise`'s tree as `jax.ShapeDtypeStruct`s, nothing allocated.

  Args:
    make: builds the module from its random streams.

  Returns:
    Nested dict of shapes and dtypes, by attribute name.
  """
  return jax.eval_shape(lambda: initialise(make, jax.random.key(0)))


def applier(
  make: Callable[[nnx.Rngs], nnx.Module], method: str = '__call__'
) -> Callable[..., Any]:
  """The model as a pure function of its parameters.

  Args:
    make: builds the module from its random streams.
    method: of the module, the one to apply.

  Returns:
    `apply(params, *args, **kwargs)`, with `params` as `initialise` makes them
    and the rest as the module's method takes it.
  """
  module = nnx.eval_shape(lambda: make(nnx.Rngs(0)))
  graph = nnx.graphdef(module)

  def apply(params: Params, *args: Any, **kwargs: Any) -> Any:
    if sharding.is_sharded():
      params = _whole_outside_layers(params)
    return getattr(nnx.merge(graph, params), method)(*args, **kwargs)

  return apply


def _whole_outside_layers(params: Params) -> Params:
  """Gathers what the mesh spreads; a layer gathers its own when it comes."""
  outside, layers = {}, {}
  for name, leaf in named_leaves(params):
    (layers if 'layers' in name.split('/') else outside)[name] = leaf
  found = sharding.whole(outside) | layers
  return jax.tree_util.tree_map_with_path(
    lambda path, _: found[name_of(path)], params
  )


def name_of(path: tuple[Any, ...]) -> str:
  """A key path as a name, such as `encoder/pooler/dense/kernel`."""
  return jax.tree_util.keystr(path, simple=True, separator='/')


def named_leaves(tree: Any) -> list[tuple[str, Any]]:
  """Leaves with their names, such as `pooler/dense/kernel`."""
  leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
  return [(name_of(path), leaf) for path, leaf in leaves]


def count(tree: Any) -> int:
  """How many numbers a tree of arrays holds."""
  return sum(leaf.size for leaf in jax.tree.leaves(tree))


def count_by_block(config: BertConfig) -> dict[str, int]:
  """Parameters of `BertModel`, by block.

  Args:
    config: of the model.

  Returns:
    Numbers for `embeddings`, `query/key/value`, `attention output`,
    `feed-forward`, `layer norms`, `pooler` and `total`.
  """
  blocks = dict.fromkeys(
    (
      'embeddings',
      'query/key/value',
      'attention output',
      'feed-forward',
      'layer norms',
      'pooler',
    ),
    0,
  )
  parts = {
    'embeddings': 'embeddings',
    'projection': 'query/key/value',
    'attention': 'attention output',
    'feed_forward': 'feed-forward',
    'pooler': 'pooler',
  }
  shapes = abstract(lambda rngs: BertModel(config, rngs=rngs))
  for name, leaf in named_leaves(shapes):
    words = name.split('/')
    block = next(
      (b for part, b in parts.items() if part in words), 'layer norms'
    )
    blocks[block] += leaf.size
  blocks['total'] = sum(blocks.values())
  return blocks


def beside_standard(config: BertConfig) -> dict[str, tuple[int, int]]:
  """`count_by_block` of a model and of standard BERT of the same size.

  Args:
    config: of the model.

  Returns:
    (the model's, standard BERT's) number for every block.
  """
  standard = config.with_attention('standard')
  ours, theirs = count_by_block(config), count_by_block(standard)
  return {block: (ours[block], theirs[block]) for block in ours}
