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
from collections.abc import Callable

import numpy as np

from shared_bert.interop.folding import Params, with_attention

ROLES = ('query', 'key', 'value')
_ROUNDS = 5  # of columns and residuals in turn; each lowers the loss


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
  residual_rank: int = 0,
  second_moments: np.ndarray | None = None,
) -> Fit:
  """Fits shared attention to standard, each layer alone.

  Args:
    params: of a model with standard attention, nested by name, float32.
    role_bias: fit a model with `role_bias`, which keeps the biases as they are.
    residual_rank: r, of such a model. What shared columns leave is brought to
      rank r by its largest singular values, and the columns are fitted to what
      that leaves in turn, a few times.
    second_moments: [L, D+1, D+1], of each layer's inputs with a 1 behind them,
      the mean of x·xᵀ; None weights all alike.

  Returns:
    The parameters, with all that is not a projection as it was, and the errors.
  """
  projection = params['encoder']['layers']['attention']['projection']
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

  def weigh(x: np.ndarray) -> np.ndarray:
    if second_moments is None:
      return x
    return np.einsum('LEF,LFRD->LERD', second_moments, x)

  residuals = np.zeros_like(roles)
  down = up = np.zeros(0)
  shared, diagonals = _columns(roles, weigh)
  for _ in range(_ROUNDS if residual_rank else 0):
    left = roles - np.einsum('LED,LDR->LERD', shared, diagonals)
    down, up = _low_rank(left[:, :-1], residual_rank, second_moments)
    residuals[:, :-1] = np.einsum('LDRK,LRKE->LDRE', down, up)
    shared, diagonals = _columns(roles - residuals, weigh)
  left = roles - residuals - np.einsum('LED,LDR->LERD', shared, diagonals)
  lost = np.einsum('LERD,LERD->LR', left, weigh(left))
  whole = np.einsum('LERD,LERD->LR', roles, weigh(roles))

  def single(x: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(x, np.float32)

  fitted: Params = {'shared': {'kernel': single(shared[:, :-1])}}
  for number, role in enumerate(ROLES):
    fitted[f'd_{role[0]}'] = single(diagonals[:, :, number])
    if role_bias:
      fitted[f'{role}_bias'] = projection[role]['bias']
    if residual_rank:
      fitted[f'{role}_residual'] = {
        'down': single(down[:, :, number]),
        'up': single(up[:, number]),
      }
  if not role_bias:
    fitted['shared']['bias'] = single(shared[:, -1])
  return Fit(
    with_attention(params, projection=fitted), lost / np.maximum(whole, 1e-30)
  )


def _columns(
  roles: np.ndarray, weigh: Callable[[np.ndarray], np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
  """[L, D+1, 3, D] to the nearest columns [L, D+1, D], diagonals [L, D, 3]."""
  gram = np.einsum('LERD,LETD->LDRT', roles, weigh(roles))
  # The largest eigenvalue is the last; a scale that keeps diagonals near ±1.
  leading = np.linalg.eigh(gram)[1][..., -1]
  shared = np.einsum('LERD,LDR->LED', roles, leading) / np.sqrt(3)
  return shared, np.sqrt(3) * leading


def _low_rank(
  left: np.ndarray, rank: int, second_moments: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
  """[L, D, 3, D] to factors [L, D, 3, r] and [L, 3, r, D] of rank r."""
  width = left.shape[1]
  root = np.eye(width)[None]
  if second_moments is not None:
    inputs = second_moments[:, :-1, :-1]
    # Never singular: some dimensions of some inputs hardly vary.
    floor = 1e-6 * np.trace(inputs, axis1=1, axis2=2) / width
    inputs = inputs + floor[:, None, None] * np.eye(width)
    root = np.linalg.cholesky(inputs).swapaxes(1, 2)
  weighted = np.einsum(
    'LEF,LFRD->LRED', np.broadcast_to(root, (len(left), width, width)), left
  )
  u, s, v = np.linalg.svd(weighted, full_matrices=False)
  down = np.linalg.solve(root[:, None], u[..., :rank] * s[..., None, :rank])
  return down.swapaxes(1, 2), v[..., :rank, :]
