"""The shared layer that comes nearest to a standard one.

A column of W_q, W_k and W_v, with its bias as a last row, is three vectors; in
a shared layer all three are multiples of one, the column of W_s, by d_q, d_k
and d_v. So each column is a problem of its own, to bring a [D+1, 3] matrix M
near to w·dᵀ, and the least squares are known (Eckart and Young 1936): d is the
leading eigenvector of Mᵀ·C·M, which is 3 by 3, and w = M·d. C weights the
inputs: their second moments make it the error of what the layer computes, the
identity that of the weights.
"""

import dataclasses

import numpy as np

from shared_bert.interop.folding import Params

ROLES = ('query', 'key', 'value')


@dataclasses.dataclass(frozen=True)
class Fit:
  """A fit, and how far it is off.

  Attributes:
    params: of the model with `attention='shared'`.
    errors: [L, 3], of each layer and role the share of the squares that is
      lost, from 0 (exact) to 1.
  """

  params: Params
  errors: np.ndarray


def fit_shared(
  params: Params,
  *,
  role_bias: bool = False,
  second_moments: np.ndarray | None = None,
) -> Fit:
  """Fits shared attention to standard, each layer and column alone.

  Args:
    params: of a model with standard attention, nested by name, float32.
    role_bias: fit a model with `role_bias`, which keeps the biases as they are.
    second_moments: [L, D+1, D+1], of each layer's inputs with a 1 behind them,
      the mean of x·xᵀ; None weights all alike.

  Returns:
    The parameters, with all that is not a projection as it was, and the errors.
  """
  layers = params['encoder']['layers']
  projection = layers['attention']['projection']
  # [L, D+1, 3, D]: rows of the kernel and the bias, roles, columns.
  roles = np.stack(
    [
      np.concatenate(
        [
          np.asarray(projection[role]['kernel'], np.float64),
          np.asarray(projection[role]['bias'], np.float64)[:, None],
        ],
        axis=1,
      )
      for role in ROLES
    ],
    axis=2,
  )
  if role_bias:
    roles[:, -1] = 0.0
  if second_moments is None:
    weighted = roles
  else:
    weighted = np.einsum('LEF,LFRD->LERD', second_moments, roles)
  gram = np.einsum('LERD,LETD->LDRT', roles, weighted)
  # The largest eigenvalue is the last; a scale that keeps diagonals near ±1.
  leading = np.linalg.eigh(gram)[1][..., -1]  # [L, D, 3]
  shared = np.einsum('LERD,LDR->LED', roles, leading) / np.sqrt(3)
  diagonals = np.sqrt(3) * leading
  left = roles - np.einsum('LED,LDR->LERD', shared, diagonals)
  if second_moments is None:
    weighted_left = left
  else:
    weighted_left = np.einsum('LEF,LFRD->LERD', second_moments, left)
  lost = np.einsum('LERD,LERD->LR', left, weighted_left)
  whole = np.einsum('LERD,LERD->LR', roles, weighted)

  def single(x: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(x, np.float32)

  fitted = {
    'shared': {'kernel': single(shared[:, :-1])},
    **{
      f'd_{role[0]}': single(diagonals[:, :, number])
      for number, role in enumerate(ROLES)
    },
  }
  if role_bias:
    fitted |= {f'{role}_bias': projection[role]['bias'] for role in ROLES}
  else:
    fitted['shared']['bias'] = single(shared[:, -1])
  attention = layers['attention'] | {'projection': fitted}
  encoder = params['encoder'] | {'layers': layers | {'attention': attention}}
  return Fit(params | {'encoder': encoder}, lost / np.maximum(whole, 1e-30))
