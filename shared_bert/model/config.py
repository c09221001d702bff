"""What a model is: its sizes, its attention, its numbers.

One legend of axes holds in the whole project, in docstrings, einsum strings
and tests: B batch (rows), S sequence, D model width, H heads, K head size,
F feed-forward width, V vocabulary, P masked positions predicted, L layers.
"""

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from shared_bert.errors import UserError

if TYPE_CHECKING:
  from jax.typing import DTypeLike

# (L, D, H, F) as published with google-research/bert (README.md, "Smaller BERT
# Models", and the two of the paper, Devlin et al. 2019, section 3).
SIZES = {
  'tiny': (2, 128, 2, 512),
  'mini': (4, 256, 4, 1024),
  'small': (4, 512, 8, 2048),
  'medium': (8, 512, 8, 2048),
  'base': (12, 768, 12, 3072),
  'large': (24, 1024, 16, 4096),
}
ATTENTIONS = (
  'standard',
  'shared',
  'symmetric',
  'pairwise',
  'tied',
  'tied_kv',
)
# How attention is computed; see `shared_bert.model.backends`. `auto` is the
# first, until another is measured to be faster on an accelerator.
ATTENTION_BACKENDS = ('xla', 'cudnn', 'pallas_shared')
DTYPES = ('float32', 'bfloat16')


def dtype_on(platform: str) -> str:
  """What `model.dtype=auto` computes in on devices of a platform."""
  return 'float32' if platform == 'cpu' else 'bfloat16'


@dataclasses.dataclass(frozen=True)
class BertConfig:
  """Everything that decides a model's parameters and its arithmetic.

  Attributes:
    vocab_size: V.
    hidden_size: D.
    num_layers: L.
    num_heads: H; the head size K is D / H.
    intermediate_size: F.
    max_positions: longest sequence with a learned position.
    type_vocab_size: number of token types (sentence A, sentence B).
    attention: one of `ATTENTIONS`; see `shared_bert.model.attention`.
    diagonal_init: of d_q, d_k, d_v: `ones`, `normal` for 1 + N(0, σ²) with σ
      as `initializer_range`, or `signs` for ±1 at random. The paper does not
      say. Ones start as the plain tied projection, in which every token
      attends mostly to itself; signs start with self-scores of mean 0.
    folded: `shared` only, for inference: d_k is folded into d_q and d_v into
      W_o, so that keys and values are S itself; `interop.folding` makes the
      parameters.
    last_apart: for inference: the parameters of the last layer beside the
      stack of the others, out of which it would have to be cut each time;
      `interop.folding` parts them.
    role_bias: `shared` only: one bias per role, added after the diagonals,
      in place of the shared one. It breaks the symmetry of the scores.
    residual_rank: `shared` with `role_bias` only: r, of a product of two
      matrices [D, r] and [r, D] that each role adds, x·A·B. 0 is the method;
      the more, the nearer it can come to three matrices, which r = D is.
    pairwise_init: `normal` for N(0, 1), as in Courtois et al.'s code, or
      `identity`, which starts as `symmetric`; of U.
    standard_init: `apart`, or `symmetric`, where W_k begins as W_q and goes
      its own way (Saponati et al. 2025, arXiv 2502.10927).
    hidden_dropout: after the embeddings and each sub-layer.
    attention_dropout: on the attention probabilities.
    pre_norm: LayerNorm before each sub-layer and once at the end, instead of
      BERT's after each.
    dtype: of the arithmetic, `float32` or `bfloat16`; parameters, softmax,
      LayerNorm and loss stay float32.
    attention_backend: one of `ATTENTION_BACKENDS`. The function is the same,
      and so are the parameters; what one can do only `backends.check` knows,
      as it depends on devices and rows.
    scan_layers: compile one layer and scan it L times; else unroll all L. The
      parameters are the same either way.
    remat: what the backward pass computes again instead of keeping: `none`,
      `full` (all but each layer's input) or `dots` (all but the results of
      the projections).
    layer_norm_epsilon: BERT's 1e-12.
    initializer_range: σ of all matrices and tables, BERT's 0.02.

  Raises:
    UserError: if a value or a combination is impossible.
  """

  vocab_size: int = 30522
  hidden_size: int = 768
  num_layers: int = 12
  num_heads: int = 12
  intermediate_size: int = 3072
  max_positions: int = 512
  type_vocab_size: int = 2
  attention: str = 'shared'
  diagonal_init: str = 'ones'
  role_bias: bool = False
  residual_rank: int = 0
  folded: bool = False
  last_apart: bool = False
  pairwise_init: str = 'normal'
  standard_init: str = 'apart'
  hidden_dropout: float = 0.1
  attention_dropout: float = 0.1
  pre_norm: bool = False
  dtype: str = 'float32'
  attention_backend: str = 'xla'
  scan_layers: bool = True
  remat: str = 'none'
  layer_norm_epsilon: float = 1e-12
  initializer_range: float = 0.02

  def __post_init__(self) -> None:
    for name, choices in (
      ('attention', ATTENTIONS),
      ('diagonal_init', ('ones', 'normal', 'signs')),
      ('pairwise_init', ('normal', 'identity')),
      ('standard_init', ('apart', 'symmetric')),
      ('dtype', DTYPES),
      ('attention_backend', ATTENTION_BACKENDS),
      ('remat', ('none', 'full', 'dots')),
    ):
      value = getattr(self, name)
      if value not in choices:
        raise UserError(
          f'model.{name}={value!r} is not known: use one of '
          f'{", ".join(choices)}.'
        )
    for name in (
      'vocab_size',
      'hidden_size',
      'num_layers',
      'num_heads',
      'intermediate_size',
      'max_positions',
      'type_vocab_size',
    ):
      if getattr(self, name) < 1:
        raise UserError(
          f'model.{name}={getattr(self, name)} must be at least 1.'
        )
    for name in ('hidden_dropout', 'attention_dropout'):
      if not 0 <= getattr(self, name) < 1:
        raise UserError(
          f'model.{name}={getattr(self, name)} must be at least 0 and below 1.'
        )
    for name in ('layer_norm_epsilon', 'initializer_range'):
      if not getattr(self, name) > 0:
        raise UserError(f'model.{name}={getattr(self, name)} must be above 0.')
    if self.hidden_size % self.num_heads:
      raise UserError(
        f'model.hidden_size={self.hidden_size} is not a multiple of '
        f'model.num_heads={self.num_heads}: choose a width that every head '
        'gets an equal share of.'
      )
    if self.role_bias and self.attention != 'shared':
      raise UserError(
        'model.role_bias=True belongs to model.attention=shared, not to '
        f'{self.attention}: leave it False.'
      )

    if not 0 <= self.residual_rank <= self.hidden_size:
      raise UserError(
        f'model.residual_rank={self.residual_rank} must be from 0 to '
        f'model.hidden_size={self.hidden_size}.'
      )
    if self.residual_rank and not self.role_bias:
      raise UserError(
        f'model.residual_rank={self.residual_rank} belongs to '
        'model.attention=shared with model.role_bias=True: set both, or leave '
        'it 0.'
      )
    if self.folded and (self.attention != 'shared' or self.role_bias):
      raise UserError(
        'only model.attention=shared without model.role_bias can be folded.'
      )
    self._check_backend()

  def _check_backend(self) -> None:
    backend = self.attention_backend
    if backend == 'xla':
      return
    if self.attention_dropout:
      raise UserError(
        f'model.attention_backend={backend} has no dropout: set '
        f'model.attention_dropout=0, which is {self.attention_dropout}, or use '
        'model.attention_backend=xla.'
      )
    if backend == 'pallas_shared' and (
      self.attention != 'shared' or self.role_bias
    ):
      bias = ' with model.role_bias' if self.role_bias else ''
      raise UserError(
        'model.attention_backend=pallas_shared computes model.attention=shared '
        f'without model.role_bias alone, not {self.attention}{bias}: use '
        'model.attention_backend=xla.'
      )

  @classmethod
  def of_keys(
    cls, keys: Mapping[str, Any], vocab_size: int, dtype: str
  ) -> 'BertConfig':
    """The configuration that a run's `model` keys describe.

    Args:
      keys: with `size`; None where a key is left to it.
      vocab_size: V.
      dtype: to compute in where the keys say `auto`.

    Returns:
      The configuration.

    Raises:
      UserError: if the size is not known or a value is impossible.
    """
    given = {key: value for key, value in keys.items() if value is not None}
    if given['dtype'] == 'auto':
      given['dtype'] = dtype
    if given.get('attention_backend') == 'auto':
      given['attention_backend'] = ATTENTION_BACKENDS[0]
    return cls.of_size(given.pop('size'), vocab_size=vocab_size, **given)

  def with_attention(self, attention: str) -> 'BertConfig':
    """The same sizes with another mechanism, as that is by itself."""
    return dataclasses.replace(
      self,
      attention=attention,
      role_bias=False,
      residual_rank=0,
      folded=False,
      attention_backend='xla',
    )

  @property
  def head_size(self) -> int:
    """K."""
    return self.hidden_size // self.num_heads

  @property
  def compute_dtype(self) -> 'DTypeLike':
    """The JAX dtype of the arithmetic."""
    # Imported late: whether a config can work is known without JAX.
    import jax.numpy as jnp

    return {'float32': jnp.float32, 'bfloat16': jnp.bfloat16}[self.dtype]

  @classmethod
  def of_size(cls, size: str, **overrides: Any) -> 'BertConfig':
    """The configuration of a published size.

    Args:
      size: a key of `SIZES`.
      **overrides: any attribute; wins over what the size says.

    Returns:
      The configuration.

    Raises:
      UserError: if the size is not known or a value is impossible.
    """
    if size not in SIZES:
      raise UserError(
        f'model.size={size!r} is not known: use one of {", ".join(SIZES)}.'
      )
    num_layers, hidden_size, num_heads, intermediate_size = SIZES[size]
    shape: dict[str, Any] = {
      'num_layers': num_layers,
      'hidden_size': hidden_size,
      'num_heads': num_heads,
      'intermediate_size': intermediate_size,
    }
    return cls(**(shape | overrides))
