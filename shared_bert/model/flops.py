"""Arithmetic of a model by formula, and what devices can do at most.

Only matrix products are counted, two floating-point operations for each
multiply-add: LayerNorm, softmax, GELU, dropout, biases, the diagonals d_q, d_k
and d_v, look-ups in embeddings and their gradients are left out, as is usual
(Kaplan et al. 2020, arXiv 2001.08361, section 2.1; Chowdhery et al. 2022, arXiv
2204.02311, appendix B). XLA's own count, `cost_analysis`, is no help: it counts
the body of a scan once, however many layers there are.

A token is a place in a row, padding included: devices compute on it too.
"""

from shared_bert.model.config import BertConfig

# Blocks that every layer has, as keys of `forward_flops_per_token`.
LAYER_BLOCKS = (
  'query/key/value',
  'scores and values',
  'attention output',
  'feed-forward',
)
# A backward pass has two products, for inputs and weights, to each one of the
# forward pass, and every matrix here is trained: forward and backward are 3.
_FORWARD_AND_BACKWARD = 3

# Square matrices [D, D] that make queries, keys and values of a token.
_MATRICES = {
  'standard': 3,
  'shared': 1,
  'symmetric': 2,
  'pairwise': 2,  # and U, [K, K] a head: `_pairwise_flops`
  'tied': 1,
  'tied_kv': 2,
}

# How many of these make queries alone, which the last layer needs only of the
# tokens that are read (`Encoder`).
_QUERY = {
  'standard': 1,
  'shared': 0,
  'symmetric': 0,
  'pairwise': 0,
  'tied': 0,
  'tied_kv': 1,
}

# TFLOP/s of dense matrix products in bfloat16 with float32 sums, of one JAX
# device. Names are looked for in `device.device_kind`, the first that is in it
# counts. None of these is a measurement.
_PEAK_TFLOPS = (
  # Google Cloud's pages on each TPU, "Peak compute per chip", by the names of
  # jax/_src/pallas/mosaic/tpu_info.py. A device of v2, v3 and TPU7x is one of
  # a chip's two cores; of the others, a chip.
  ('TPU v2', 45 / 2),
  ('TPU v3', 123 / 2),
  ('TPU v4 lite', 138),  # v4i: Jouppi et al. 2021, ISCA, table 1
  ('TPU v4', 275),
  ('TPU v5 lite', 197),
  ('TPU v5e', 197),
  ('TPU v5', 459),  # v5p, whose device_kind is "TPU v5"
  ('TPU v6', 918),
  ('TPU7', 2307 / 2),
  ('TPU v7', 2307 / 2),
  # NVIDIA's data sheets; where they count sparse matrices, half of it.
  ('GB200', 2500),
  ('B200', 2250),
  ('GH200', 989),
  ('H200', 989),
  ('H100 NVL', 835),
  ('H100 PCIe', 756),
  ('H100', 989),  # SXM5
  ('A100', 312),
  ('L40S', 362),
  ('L40', 181),
  ('L4', 121),
  ('A10G', 70),  # AWS's variant of the A10, as AWS and its users state it
  ('A10', 125),
  ('A6000', 155),
  ('RTX 4090', 165),  # Ada white paper, appendix A, with float32 sums
  ('RTX 3090', 71),  # Ampere GA102 white paper, appendix A, float32 sums
  # Without bfloat16 units: their float16 peak, which bfloat16 does not reach.
  ('V100', 125),  # SXM2
  ('T4', 65),
)


def _pairwise_flops(config: BertConfig) -> float:
  """Of Q·U, forward, a token and layer: H products with a [K, K] matrix."""
  if config.attention != 'pairwise':
    return 0.0
  return 2.0 * config.hidden_size * config.head_size


def _layers_of_queries(
  config: BertConfig, seq_len: int, masked_per_row: float, num_outputs: int
) -> float:
  """L, the last layer counted as the share of its tokens that are read."""
  read = masked_per_row + (1 if num_outputs else 0)
  return config.num_layers - 1 + (read / seq_len if read else 1.0)


def forward_flops_per_token(
  config: BertConfig,
  seq_len: int,
  masked_per_row: float = 0,
  num_outputs: int = 0,
) -> dict[str, float]:
  """Of a forward pass, by block, all L layers together.

  Args:
    config: of the model.
    seq_len: S, with the padding.
    masked_per_row: P, positions of a row that reach the vocabulary.
    num_outputs: C, outputs of a classifier on the pooled first token; 0 for
      neither pooler nor classifier.

  Returns:
    FLOPs a token of `embeddings` (none), each of `LAYER_BLOCKS`, `masked
    words` (transform and decoder) and `classifier` (with the pooler).
  """
  width, layers = config.hidden_size, config.num_layers
  square = 2.0 * width**2
  head = square + 2.0 * width * config.vocab_size
  pooled = square + 2.0 * width * num_outputs if num_outputs else 0.0
  # Of all tokens, and of those alone that are read of the last layer.
  for_all = (_MATRICES[config.attention] - _QUERY[config.attention]) * square
  for_queries = _QUERY[config.attention] * square + _pairwise_flops(config)
  # A role has two matrices [D, r].
  for_all += 8.0 * width * config.residual_rank
  for_queries += 4.0 * width * config.residual_rank
  times = _layers_of_queries(config, seq_len, masked_per_row, num_outputs)
  return {
    'embeddings': 0.0,
    'query/key/value': layers * for_all + times * for_queries,
    'scores and values': times * 4.0 * seq_len * width,
    'attention output': times * square,
    'feed-forward': times * 4.0 * width * config.intermediate_size,
    'masked words': head * masked_per_row / seq_len,
    'classifier': pooled / seq_len,
  }


def recomputed_flops_per_token(
  config: BertConfig,
  seq_len: int,
  masked_per_row: float = 0,
  num_outputs: int = 0,
) -> float:
  """What `model.remat` adds to a step: a part of the forward pass, again.

  Args:
    config: of the model. `full` repeats the layers; `dots` only products of
      two activations or within heads, whose results it does not keep.
    seq_len: S.
    masked_per_row: P.
    num_outputs: C, or 0.
  """
  if config.remat == 'none':
    return 0.0
  read = (seq_len, masked_per_row, num_outputs)
  forward = forward_flops_per_token(config, *read)
  if config.remat == 'full':
    return sum(forward[block] for block in LAYER_BLOCKS)
  repeated = _layers_of_queries(config, *read) * _pairwise_flops(config)
  return forward['scores and values'] + repeated


def train_flops_per_token(
  config: BertConfig,
  seq_len: int,
  masked_per_row: float,
  num_outputs: int = 0,
) -> float:
  """Of a training step: three times the forward pass, and what is repeated.

  The optimiser's arithmetic, which does not grow with the tokens, is left out.
  Repeated layers (`model.remat`) count: what the devices do is meant. For the
  utilisation of PaLM (appendix B), which does not count them, take
  `recomputed_flops_per_token` off.

  Args:
    config: of the model.
    seq_len: S, with the padding.
    masked_per_row: P.
    num_outputs: C, or 0.
  """
  forward = sum(
    forward_flops_per_token(
      config, seq_len, masked_per_row, num_outputs
    ).values()
  )
  return _FORWARD_AND_BACKWARD * forward + recomputed_flops_per_token(
    config, seq_len, masked_per_row, num_outputs
  )


def peak_flops(device_kind: str) -> float | None:
  """The most that a device does in a second, in bfloat16.

  Args:
    device_kind: as `jax.Device.device_kind` has it, or a part of it such as
      `H100`; upper and lower case are alike.

  Returns:
    FLOP/s of dense matrix products, or None for CPUs and unknown devices.
  """
  for name, tflops in _PEAK_TFLOPS:
    if name.lower() in device_kind.lower():
      return tflops * 1e12
  return None


def known_devices() -> list[str]:
  """Names that `peak_flops` knows."""
  return [name for name, _ in _PEAK_TFLOPS]
