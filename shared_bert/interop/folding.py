"""Any of the mechanisms as standard attention: the same function, exactly.

Every projection of `shared_bert.model.attention` is linear in its input, and so
are three matrices with their biases:

  shared     W_q = W_s·diag(d_q), b_q = b_s∘d_q, and so for keys and values;
             a residual's product is added to it
  symmetric  W_k = W_q
  pairwise   W_k = W_q, and of each head W_q·U for the queries
  tied       W_q = W_k = W_v = W_s
  tied_kv    W_v = W_k
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from shared_bert.errors import UserError
from shared_bert.model.config import BertConfig
from shared_bert.model.encoder import split_last

Params = dict[str, Any]
# A projection's parameters by name, stacked over layers, to (kernel [L, D, D],
# bias [L, D]) of queries, keys and values.
_Dense = tuple[np.ndarray, np.ndarray]
_Roles = tuple[_Dense, _Dense, _Dense]


def _dense(params: Params) -> _Dense:
  return np.asarray(params['kernel']), np.asarray(params['bias'])


def _standard(params: Params, heads: int) -> _Roles:
  del heads
  return _dense(params['query']), _dense(params['key']), _dense(params['value'])


def _shared(params: Params, heads: int) -> _Roles:
  del heads
  shared = np.asarray(params['shared']['kernel'])

  def role(name: str) -> _Dense:
    d = np.asarray(params[f'd_{name[0]}'])
    kernel = shared * d[:, None, :]
    if residual := params.get(f'{name}_residual'):
      kernel = kernel + np.asarray(residual['down']) @ np.asarray(
        residual['up']
      )
    if (bias := params.get(f'{name}_bias')) is not None:  # after the diagonal
      return kernel, np.asarray(bias)
    return kernel, np.asarray(params['shared']['bias']) * d

  return role('query'), role('key'), role('value')


def _symmetric(params: Params, heads: int) -> _Roles:
  del heads
  query = _dense(params['query'])
  return query, query, _dense(params['value'])


def _pairwise(params: Params, heads: int) -> _Roles:
  keys = _dense(params['query'])
  pairwise = np.asarray(params['pairwise'])  # [L, H, K, K]

  def by_head(x: np.ndarray) -> np.ndarray:  # [L, ..., D]
    split = x.reshape(*x.shape[:-1], heads, -1)
    return np.einsum('L...HK,LHKJ->L...HJ', split, pairwise).reshape(x.shape)

  kernel, bias = keys
  return (by_head(kernel), by_head(bias)), keys, _dense(params['value'])


def _tied(params: Params, heads: int) -> _Roles:
  del heads
  return (_dense(params['shared']),) * 3


def _tied_kv(params: Params, heads: int) -> _Roles:
  del heads
  key = _dense(params['key'])
  return _dense(params['query']), key, key


_FOLDS: dict[str, Callable[[Params, int], _Roles]] = {
  'standard': _standard,
  'shared': _shared,
  'symmetric': _symmetric,
  'pairwise': _pairwise,
  'tied': _tied,
  'tied_kv': _tied_kv,
}


def as_standard(params: Params, config: BertConfig) -> Params:
  """The parameters of the standard model that computes the same.

  Args:
    params: of a model with its encoder at `encoder`, nested by name; arrays
      float32.
    config: of that model.

  Returns:
    Parameters of the same model `with_attention('standard')`; what is not an
    attention's projection is the very array.

  Raises:
    UserError: it has its LayerNorms before the sub-layers, as BERT has not.
  """
  if config.pre_norm:
    raise UserError(
      'this model was trained with model.pre_norm=True, and BERT as others '
      'know it has its LayerNorms after each sub-layer: no BERT computes the '
      'same. Train with model.pre_norm=False to export.'
    )
  projection = params['encoder']['layers']['attention']['projection']
  roles = _FOLDS[config.attention](projection, config.num_heads)
  projection = {
    name: {'kernel': kernel, 'bias': bias}
    for name, (kernel, bias) in zip(
      ('query', 'key', 'value'), roles, strict=True
    )
  }
  return with_attention(params, projection=projection)


def for_inference(
  params: Params, config: BertConfig
) -> tuple[Params, BertConfig]:
  """The same function with less to compute, where the method allows it.

  Shared attention without role biases becomes `FoldedProjection`: one
  projection, and keys and values that are one array.

  Args:
    params: of a model with its encoder at `encoder`, nested by name.
    config: of that model.

  Returns:
    Parameters and the configuration that they belong to; both as they were for
    what cannot be folded.
  """
  if config.attention != 'shared' or config.role_bias or config.folded:
    return params, config
  attention = params['encoder']['layers']['attention']
  projection, output = attention['projection'], attention['output']
  d_q, d_k, d_v = (np.asarray(projection[f'd_{role}']) for role in 'qkv')
  # [L, D, D]: its rows are what the values are multiplied with.
  kernel = np.asarray(output['kernel']) * d_v[..., None]
  folded = with_attention(
    params,
    projection={'shared': projection['shared'], 'd_qk': d_q * d_k},
    output=output | {'kernel': kernel},
  )
  return folded, dataclasses.replace(config, folded=True)


def with_last_apart(
  params: Params, config: BertConfig
) -> tuple[Params, BertConfig]:
  """The same model with the last layer's parameters beside the others' stack.

  For heads that read a few positions, of which the last layer computes no
  others: nothing is then cut out of the stack in every call.

  Args:
    params: of a model with its encoder at `encoder`, nested by name.
    config: of that model.

  Returns:
    Parameters and the configuration that they belong to.
  """
  encoder = params['encoder']
  layers, last = split_last(encoder['layers'])
  return (
    params | {'encoder': encoder | {'layers': layers, 'last': last}},
    dataclasses.replace(config, last_apart=True),
  )


def with_attention(params: Params, **parts: Params) -> Params:
  """The parameters with other parts of the layers' attention, by name."""
  encoder = params['encoder']
  layers = encoder['layers']
  layers = layers | {'attention': layers['attention'] | parts}
  return params | {'encoder': encoder | {'layers': layers}}
