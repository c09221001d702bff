"""Optimisers by name, with one decay mask and clipping for all.

The learning rate is an argument of the training step, so that a clock may set
it: optimisers here make the update of a learning rate of 1.
"""

import re
from typing import Any

import jax
import jax.numpy as jnp
import optax
from optax import contrib

from shared_bert.model.parameters import name_of
from shared_bert.training.schedules import check_optimizer

DIAGONALS = r'/d_[qkv]$'
# Leaves with a leading L axis: what one of them holds is of L layers.
_STACKED = r'(^|/)layers/'
# Of Muon's update, as root mean square: about AdamW's, whose learning rates
# and decay then fit (Liu et al. 2025, arXiv 2502.16982).
_MUON_RMS = 0.2


def matching(pattern: str, tree: Any) -> Any:
  """A tree of bools: which leaves' names the regular expression finds.

  Args:
    pattern: searched in names such as `encoder/layers/attention_norm/scale`.
    tree: nested dicts.
  """
  return jax.tree_util.tree_map_with_path(
    lambda path, _: re.search(pattern, name_of(path)) is not None,
    tree,
  )


def _trust_ratio() -> optax.GradientTransformation:
  """`optax.scale_by_trust_ratio`, for each layer of a stacked leaf by itself.

  A norm over all layers at once would not be LAMB's, which is by layer.
  """
  by_leaf = optax.scale_by_trust_ratio()

  def update(updates, state, params=None):
    def scale(path, update, param):
      def one(update, param):
        return by_leaf.update(update, state, param)[0]

      is_stacked = re.search(_STACKED, name_of(path))
      return (jax.vmap(one) if is_stacked else one)(update, param)

    scaled = jax.tree_util.tree_map_with_path(scale, updates, params)
    return scaled, state

  return optax.GradientTransformation(by_leaf.init, update)


def _muon(
  momentum: float, adam: optax.GradientTransformation
) -> optax.GradientTransformation:
  """Muon for the matrices of the layers, `adam` for all else.

  A matrix is the last two axes of a leaf: those before them, layers and heads,
  are each orthogonalised by themselves. Embeddings, heads, biases, norms and
  diagonals are no hidden matrices (Jordan et al. 2024,
  https://kellerjordan.github.io/posts/muon).
  """
  axes = contrib.MuonDimensionNumbers(reduction_axis=-2, output_axis=-1)
  muon = contrib.muon(
    learning_rate=-1.0,  # it turns the sign, which is turned once, at the end
    beta=momentum,
    consistent_rms=_MUON_RMS,
    muon_weight_dimension_numbers=lambda tree: jax.tree.map(
      lambda _: axes, tree
    ),
  )

  def labels(params):
    return jax.tree.map(
      lambda x, stacked: 'muon' if stacked and x.ndim >= 3 else 'adam',
      params,
      matching(_STACKED, params),
    )

  return optax.partition({'muon': muon, 'adam': adam}, labels)


def _clip(most: float) -> optax.GradientTransformationExtraArgs:
  """`optax.clip_by_global_norm`, of a norm that the step may know already."""

  def update(updates, state, params=None, *, gradient_norm=None, **_):
    if gradient_norm is None:
      gradient_norm = optax.tree.norm(updates)
    # At most 1; a norm that is not finite leaves nothing that is.
    factor = jnp.minimum(1.0, most / gradient_norm)
    return jax.tree.map(lambda g: factor * g, updates), state

  return optax.GradientTransformationExtraArgs(optax.init_empty_state, update)


def make_optimizer(
  name: str,
  *,
  weight_decay: float,
  no_decay: str,
  clip_norm: float,
  beta1: float = 0.9,
  beta2: float | None = None,
  epsilon: float = 1e-6,
  momentum: float = 0.95,
  diagonal_learning_rate_scale: float = 1.0,
) -> optax.GradientTransformation:
  """An optimiser of optax, with BERT's decay mask and clipping.

  - `adamw`: Loshchilov and Hutter 2019, with bias correction, which the
    original BERT leaves out and short fine-tuning runs need (Mosbach et al.
    2021, section 4).
  - `lamb`: You et al. 2020, arXiv 1904.00962, for large batches.
  - `lion`: Chen et al. 2023, arXiv 2302.06675; it wants a learning rate 3 to 10
    times smaller than AdamW's and a decay as much larger.
  - `muon`: Jordan et al. 2024, scaled as Liu et al. 2025 do.

  Args:
    name: one of `schedules.OPTIMIZERS`.
    weight_decay: decoupled, times the learning rate.
    no_decay: regular expression of the names that are not decayed.
    clip_norm: global norm the gradient is clipped to; 0 turns it off.
    beta1: decay of the first moment.
    beta2: decay of the second moment, Lion's of its momentum; None: 0.999,
      Lion 0.99, as their papers have it.
    epsilon: added to the root of the second moment; Lion has none.
    momentum: of Muon.
    diagonal_learning_rate_scale: factor on the learning rate of d_q, d_k and
      d_v.

  Returns:
    An optimiser whose updates are those of a learning rate of 1.

  Raises:
    UserError: for another name.
  """
  check_optimizer(name)
  if beta2 is None:
    beta2 = 0.99 if name == 'lion' else 0.999
  adam = optax.scale_by_adam(b1=beta1, b2=beta2, eps=epsilon)
  parts: list[optax.GradientTransformation] = []
  if clip_norm:
    parts.append(_clip(clip_norm))
  if name == 'lion':
    parts.append(optax.scale_by_lion(b1=beta1, b2=beta2))
  elif name == 'muon':
    parts.append(_muon(momentum, adam))
  else:
    parts.append(adam)
  if weight_decay:
    parts.append(
      optax.add_decayed_weights(
        weight_decay,
        mask=lambda tree: jax.tree.map(
          lambda found: not found, matching(no_decay, tree)
        ),
      )
    )
  if name == 'lamb':
    parts.append(_trust_ratio())
  if diagonal_learning_rate_scale != 1.0:
    parts.append(
      optax.masked(
        optax.scale(diagonal_learning_rate_scale),
        lambda tree: matching(DIAGONALS, tree),
      )
    )
  parts.append(optax.scale(-1.0))
  return optax.chain(*parts)


def of_config(train: Any) -> optax.GradientTransformation:
  """`make_optimizer` with the keys of a run's `train` section."""
  return make_optimizer(
    train.optimizer,
    weight_decay=train.weight_decay,
    no_decay=train.no_decay,
    clip_norm=train.clip_norm,
    beta1=train.beta1,
    beta2=train.beta2,
    epsilon=train.epsilon,
    momentum=train.momentum,
    diagonal_learning_rate_scale=train.diagonal_learning_rate_scale,
  )
