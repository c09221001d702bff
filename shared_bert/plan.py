"""What a run is going to do, in lines a person reads before it starts."""

import collections
import pathlib

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict

import shared_bert
from shared_bert.model.config import BertConfig
from shared_bert.model.parameters import beside_standard


def parameter_lines(model: BertConfig) -> list[str]:
  """`BertModel`'s parameters by block, standard BERT's of that size beside.

  Returns:
    Lines of a table.
  """
  name = model.attention
  lines = [f'{"parameters":24}{name:>14}{"standard BERT":>16}{"":4}difference']
  for block, (ours, theirs) in beside_standard(model).items():
    change = f'{ours / theirs - 1:+.2%}' if ours != theirs else '='
    lines.append(f'  {block:22}{ours:>14,}{theirs:>16,}{"":4}{change:>10}')
  return lines


def model_line(size: str, model: BertConfig) -> str:
  """A model in a line; `size` is what its config calls it."""
  return (
    f'{size}, {model.attention} attention, {model.dtype}: {model.num_layers} '
    f'layers of width {model.hidden_size}, {model.num_heads} heads; XLA '
    'attention'
  )


def describe(
  config: ConfigDict,
  workdir: pathlib.Path,
  model: BertConfig,
  mesh: Mesh,
  *,
  total_steps: int,
  warmup_steps: int,
  num_rows: int,
  data: list[str],
) -> str:
  """The plan of a run.

  Args:
    config: of the run.
    workdir: where it writes.
    model: what it trains.
    mesh: of the devices.
    total_steps: optimiser steps.
    warmup_steps: of them.
    num_rows: training rows.
    data: lines that say what the data is.

  Returns:
    Several lines, without a final newline.
  """
  train = config.train
  kinds = collections.Counter(d.device_kind for d in mesh.devices.flat)
  devices = ', '.join(f'{count} × {kind}' for kind, count in kinds.items())
  axes = ' '.join(f'{axis}={size}' for axis, size in mesh.shape.items())
  epochs = total_steps * train.batch_size / num_rows
  cut = (
    f' in {train.accumulation} micro-batches' if train.accumulation > 1 else ''
  )
  lines = [
    f'shared_bert {shared_bert.__version__} · {config.job} · seed '
    f'{config.seed} · {workdir}',
    f'devices     {devices} ({jax.default_backend()}), mesh {axes}',
    f'model       {model_line(config.model.size, model)}',
    *parameter_lines(model),
    *data,
    f'steps       {total_steps:,} of {train.batch_size} rows{cut}, '
    f'{epochs:,.2f} epochs of {num_rows:,} rows',
    f'optimiser   AdamW, {train.schedule} from {train.learning_rate:g} after '
    f'{warmup_steps:,} steps of warm-up, decay {train.weight_decay:g}, '
    + (f'clipped at {train.clip_norm:g}' if train.clip_norm else 'unclipped'),
  ]
  return '\n'.join(lines)
