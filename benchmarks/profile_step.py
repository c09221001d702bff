"""Where the time of a pre-training step goes, on whatever device is there.

  python benchmarks/profile_step.py [--size=base] [--rows=256] [--seq_len=128]

Times the whole step, and it without dropout, without making masks, its gradient
and its forward pass alone, as medians of several runs; then profiles the whole
step and prints the kernels that take longest. Random tokens; one device.
"""

import argparse
import ast
import collections
import glob
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from finished_runs import tokenizer_of

from shared_bert import config as config_lib
from shared_bert.data import masking
from shared_bert.masked_model import MaskedModel
from shared_bert.model import flops, parameters
from shared_bert.study.fresh_step import fresh_step
from shared_bert.training import mesh as mesh_lib

_VOCABULARY = 30_522  # BERT's


def seconds_of(function: Callable[[], Any], repeats: int) -> float:
  """The median of `repeats` runs, each waited for, after two others."""
  times = []
  for _ in range(repeats + 2):
    start = time.perf_counter()
    jax.block_until_ready(function())
    times.append(time.perf_counter() - start)
  return statistics.median(times[2:])


def build(arguments: argparse.Namespace, dropout: float):
  """A model, its step and a batch, made as a run makes them."""
  config = config_lib.pretrain_defaults()
  config.model.size, config.model.attention = (
    arguments.size,
    arguments.attention,
  )
  for setting in arguments.model:
    key, _, value = setting.partition('=')
    config.model[key] = ast.literal_eval(value)
  config.model.hidden_dropout = config.model.attention_dropout = dropout
  config.data.seq_len = arguments.seq_len
  tokenizer = tokenizer_of(_VOCABULARY)
  model = config_lib.model_config(
    config, tokenizer.vocab_size, jax.default_backend()
  )
  mesh = mesh_lib.make_mesh(devices=jax.devices()[:1])
  shape = (arguments.rows, arguments.seq_len)
  masked = MaskedModel(
    model, config, tokenizer, np.zeros((0, shape[1]), np.int32), mesh
  )
  ids = np.random.default_rng(0).integers(10, _VOCABULARY, shape)
  ids[:, 0], ids[:, -1] = tokenizer.cls_id, tokenizer.sep_id
  batch = mesh_lib.place_batch(
    mesh,
    {
      'input_ids': ids.astype(np.int32),
      'row_id': np.arange(shape[0], dtype=np.int32),
      'epoch': np.zeros(shape[0], np.int32),
    },
  )
  return config, model, masked, mesh, batch


def stepper(config, masked, mesh, batch, prepare) -> Callable[[], Any]:
  """A function that does the next training step."""
  state, step = fresh_step(config, masked, mesh, prepare)

  def do() -> Any:
    nonlocal state
    state, sums = step(state, batch, 1e-4, 1)
    return sums

  return do


def kernels(trace: str) -> dict[str, tuple[float, int]]:
  """Seconds and calls of each kernel in a trace, the device's if it has any."""
  found: dict[str, list[float]] = collections.defaultdict(list)
  for path in glob.glob(f'{trace}/**/*.xplane.pb', recursive=True):
    planes = list(jax.profiler.ProfileData.from_file(path).planes)
    devices = [p for p in planes if p.name.startswith('/device:')]
    for plane in devices or planes:
      for line in plane.lines:
        if devices and not line.name.startswith('Stream'):
          continue
        for event in line.events:
          found[event.name].append(event.duration_ns / 1e9)
  return {name: (sum(times), len(times)) for name, times in found.items()}


def main() -> None:
  """Times, profiles and prints."""
  parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
  parser.add_argument('--size', default='base')
  parser.add_argument('--attention', default='shared')
  parser.add_argument(
    '--model', nargs='*', default=[], help='such as scan_layers=False'
  )
  parser.add_argument('--rows', type=int, default=256)
  parser.add_argument('--seq_len', type=int, default=128)
  parser.add_argument('--repeats', type=int, default=10)
  parser.add_argument('--top', type=int, default=30)
  given = parser.parse_args()
  tokens = given.rows * given.seq_len
  config, model, masked, mesh, batch = build(given, dropout=0.1)
  print(
    f'{jax.devices()[0].device_kind}, JAX {jax.__version__}: {given.size}, '
    f'{given.attention}, {model.dtype}, {given.rows} rows of {given.seq_len} '
    f'{" ".join(given.model)}; '
    f'load {os.getloadavg()[0]:.1f}'
  )
  predictions = masking.default_num_predictions(given.seq_len, 0.15)
  whole_flops = tokens * flops.train_flops_per_token(
    model, given.seq_len, predictions, 0
  )
  prepared = jax.jit(masked.prepare)(batch)
  params = jax.device_put(parameters.initialise(masked.make, jax.random.key(0)))
  key = jax.random.key(1)
  loss = lambda p, b, k: masked.loss_sums(p, b, k)['loss'][0]  # noqa: E731
  gradient, forward = jax.jit(jax.grad(loss)), jax.jit(loss)
  whole = stepper(config, masked, mesh, batch, masked.prepare)
  plain = build(given, dropout=0.0)
  parts = {
    'whole step': whole,
    'masks made before': stepper(
      config, masked, mesh, prepared, lambda batch: batch
    ),
    'no dropout': stepper(
      plain[0], plain[2], plain[3], batch, plain[2].prepare
    ),
    'gradient alone': lambda: gradient(params, prepared, key),
    'gradient, no dropout': lambda: gradient(params, prepared, None),
    'forward alone': lambda: forward(params, prepared, key),
    'forward, no dropout': lambda: forward(params, prepared, None),
  }
  print(f'{"":24}{"ms":>9}{"tokens/s":>12}{"TFLOP/s":>9}')
  for name, part in parts.items():
    seconds = seconds_of(part, given.repeats)
    teraflops = whole_flops / seconds / 1e12
    rate = f'{teraflops:9.1f}' if 'forward' not in name else ''
    print(f'{name:24}{seconds * 1e3:9.2f}{tokens / seconds:12,.0f}{rate}')
  with tempfile.TemporaryDirectory() as trace:
    with jax.profiler.trace(trace):
      for _ in range(3):
        jax.block_until_ready(whole())
    found = kernels(trace)
  total = sum(seconds for seconds, _ in found.values())
  print(f'kernels of a step: {total / 3 * 1e3:.2f} ms in all')
  ranked = sorted(found.items(), key=lambda item: -item[1][0])
  for name, (seconds, calls) in ranked[: given.top]:
    print(f'{seconds / 3 * 1e3:9.3f} ms {calls / 3:6.0f}x  {name[:90]}')


if __name__ == '__main__':
  main()
