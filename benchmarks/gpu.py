"""All that is to be known of an accelerator, in one call of a few minutes.

  python benchmarks/gpu.py OUTPUT.json [--minutes=9] [--compile]
    [--sections=ceilings,attention,steps,packing,peers]
    [--cases=base-128,large-512]

Compares first and times what agrees, contestants in turns, each warmed up and
waited for; medians with the least and the most of seven rounds. In this order:

  ceilings   a product of two matrices of 8192 in bfloat16, TFLOP/s, and a copy,
             GB/s
  attention  each backend of `BACKENDS` that the device has, forward and with
             gradients, of 32,768 tokens of 12 heads of 64, S of 128 and 512:
             packed rows, rows of one segment, padded rows; of queries, keys and
             values, and of the same S and diagonals; against XLA's
  steps      training steps of masked words, masks made on the device, without
             dropout, of 32,768 tokens: standard and shared, each backend, on
             packed rows, on rows of one segment where it cannot pack. --cases
             are SIZE-LENGTH, with -unrolled for layers that are not scanned, or
             with -both: base-128,large-512 unless it says others, which are
             base-512, large-128, base-128-both and so on
  packing    the same segments packed, and padded to 512 each. Their lengths
             have the mean of Wikipedia's in MLPerf: `gpu_rows.py`
  peers      Hugging Face's BertForMaskedLM on PyTorch, by autocast to bfloat16,
             SDPA and fused AdamW: as it is, with its head at masked positions
             only, and with --compile these by torch.compile's max-autotune,
             which takes minutes; --cases as for steps, of full rows

TFLOP/s are by the formula of `shared_bert.model.flops`; `of product` is their
share of the product that was measured, `of peak` of the data sheet's. `GiB` is
what XLA says that a program holds; `peak_bytes` in the JSON what the process
held of the device so far. Losses agree to 1e-2; attention and its gradients
to 2e-2 of their largest value, with XLA's in float32. What does not, or fails,
is told of and not timed.

When --minutes are over, the process ends with what it has. A section begins
nothing past its share of them; what was left out is told. OUTPUT.json and
OUTPUT.md are written anew after each case. With JAX_COMPILATION_CACHE_DIR set,
a second call compiles less, and gets further.

--reduced does everything with tiny sizes in float32 and simulated kernels, on a
CPU: a test of this file, no measurement.

Needs JAX for the accelerator, flax, optax, orbax-checkpoint, numpy,
ml_collections with absl-py and PyYAML, and tokenizers and safetensors, which
transformers brings; for peers torch and transformers. On a machine with the
others, wheels of ml_collections and absl-py are all that is to be carried in.
Neither TensorFlow, clu, TFDS nor Grain is imported. Where shared_bert is not
installed, PYTHONPATH=. in the root of the repository finds it.
"""

import argparse
import os
import pathlib
import sys

from gpu_report import (
  REDUCED,
  Clock,
  Report,
  Scale,
  clocks,
  facts,
  tried,
  watch,
)

# By which share of the minutes each begins nothing more.
_SHARES = {
  'ceilings': 0.1,
  'attention': 0.3,
  'steps': 0.65,
  'packing': 0.78,
  'peers': 0.97,
}


def _parse() -> argparse.Namespace:
  parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
  parser.add_argument('output', type=pathlib.Path)
  parser.add_argument('--minutes', type=float, default=9.0)
  parser.add_argument('--sections', default=','.join(_SHARES))
  parser.add_argument('--cases', help='such as base-128,large-512-both')
  parser.add_argument('--compile', action='store_true')
  parser.add_argument('--reduced', action='store_true')
  given = parser.parse_args()
  given.sections = given.sections.split(',')
  for name in given.sections:
    if name not in _SHARES:
      raise SystemExit(
        f'--sections={name} is not known: use some of {", ".join(_SHARES)}.'
      )
  if given.minutes <= 0:
    raise SystemExit('--minutes must be above 0.')
  return given


def _shares(chosen: list[str]) -> dict[str, float]:
  """Those of the chosen sections; the last has all that is left."""
  widths, before = {}, 0.0
  for name, until in _SHARES.items():
    widths[name], before = until - before, until
  taken = [name for name in _SHARES if name in chosen]
  total, shares, done = sum(widths[name] for name in taken), {}, 0.0
  for name in taken:
    done += widths[name]
    shares[name] = _SHARES['peers'] * done / total
  return shares


def _measure(
  given: argparse.Namespace, scale: Scale, report: Report, clock: Clock
) -> None:
  # Late: these import JAX, whose environment is set by then, and may take long.
  import gpu_kernels
  import gpu_steps
  import jax

  device = jax.devices()[0]
  report.fact('device', f'{device.device_kind} ({device.platform})')
  cases = gpu_steps.cases_of(
    given.cases or ('tiny-32' if given.reduced else 'base-128,large-512')
  )
  product = None

  def ceilings() -> None:
    nonlocal product
    product = gpu_kernels.ceilings(scale, report)

  def peers() -> None:
    import gpu_peers  # needs PyTorch, which the others do not

    gpu_peers.peers(scale, report, cases, given.compile)

  sections = {
    'ceilings': ceilings,
    'attention': lambda: gpu_kernels.attention(scale, report),
    'steps': lambda: gpu_steps.steps(scale, report, cases, product),
    'packing': lambda: gpu_steps.packing(scale, report, product),
    'peers': peers,
  }
  failed: dict[str, str] = {}
  for name, share in _shares(given.sections).items():
    clock.give_until(share)
    tried(sections[name], name, failed)
    report.fact('failed', dict(failed))


def main() -> None:
  """Measures, prints and writes."""
  given = _parse()
  clock = Clock(given.minutes)
  scale = REDUCED if given.reduced else Scale()
  # PyTorch wants memory as well. Before JAX is imported: it reads it once.
  os.environ.setdefault('XLA_PYTHON_CLIENT_PREALLOCATE', 'false')
  if given.reduced:
    os.environ['JAX_PLATFORMS'] = 'cpu'
  report = Report(
    given.output,
    clock,
    facts() | {'arguments': sys.argv[1:], 'reduced': given.reduced},
  )
  timer = watch(report, clock)
  _measure(given, scale, report, clock)
  report.fact('clocks_after', clocks())
  timer.cancel()
  report.finish(in_time=True)


if __name__ == '__main__':
  main()
