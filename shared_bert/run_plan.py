"""What a run is going to do, in lines a person reads before it starts."""

import collections
import pathlib

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict

import shared_bert
from shared_bert import config as config_lib
from shared_bert.model.backends import BACKENDS
from shared_bert.model.config import SIZES, BertConfig
from shared_bert.model.parameters import beside_standard
from shared_bert.training.phases import Course

OPTIMIZER_NAMES = {
  'adamw': 'AdamW',
  'lamb': 'LAMB',
  'lion': 'Lion',
  'muon': 'Muon',
}


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


def model_line(model: BertConfig) -> str:
  """A model in a line, with the name of its size if that is a published one."""
  sizes = tuple(
    getattr(model, key)
    for key in ('num_layers', 'hidden_size', 'num_heads', 'intermediate_size')
  )
  names = [f'{name}, ' for name, its in SIZES.items() if its == sizes]
  more = ' with a bias for each role' if model.role_bias else ''
  if model.residual_rank:
    more = f' with a residual of rank {model.residual_rank} for each role'
  return (
    f'{"".join(names)}{model.attention} attention{more}, {model.dtype}: '
    f'{model.num_layers} layers of width {model.hidden_size}, '
    f'{model.num_heads} heads; '
    f'{BACKENDS[model.attention_backend].title} attention'
  )


def describe(
  config: ConfigDict,
  workdir: pathlib.Path,
  model: BertConfig,
  mesh: Mesh,
  *,
  course: Course,
  num_rows: int,
  data: list[str],
) -> str:
  """The plan of a run.

  Args:
    config: of the run.
    workdir: where it writes.
    model: what it trains.
    mesh: of the devices.
    course: of the run.
    num_rows: training rows of the first stage.
    data: lines that say what the data is.

  Returns:
    Several lines, without a final newline.
  """
  kinds = collections.Counter(d.device_kind for d in mesh.devices.flat)
  devices = ', '.join(f'{count} × {kind}' for kind, count in kinds.items())
  axes = ' '.join(f'{axis}={size}' for axis, size in mesh.shape.items())
  lines = [
    f'shared_bert {shared_bert.__version__} · {config.job} · seed '
    f'{config.seed} · {workdir}',
    f'devices     {devices} ({jax.default_backend()}), mesh {axes}',
    f'model       {model_line(model)}',
    *parameter_lines(model),
    *data,
    f'starts from {config.init_from or "fresh parameters"}',
    *course_lines(course, num_rows),
    optimizer_line(config, course),
  ]
  return '\n'.join(lines)


def optimizer_line(config: ConfigDict, course: Course) -> str:
  """How parameters are moved, in a line."""
  train = config.train
  return (
    f'optimiser   {OPTIMIZER_NAMES[train.optimizer]}, {train.schedule} from '
    f'{train.learning_rate:g} after {_warmup(config, course)} of warm-up, '
    f'decay {train.weight_decay:g}, '
    + (f'clipped at {train.clip_norm:g}' if train.clip_norm else 'unclipped')
  )


def course_lines(course: Course, num_rows: int | None) -> list[str]:
  """What is done when: a line, or one for each phase.

  Args:
    course: of the run.
    num_rows: training rows of the first stage, where they are known.
  """

  def rows_of(part):
    cut = part.accumulation
    return f'{part.batch_size} rows' + (
      f' in {cut} micro-batches' if cut > 1 else ''
    )

  if course.steps is None:
    hours = (course.seconds or 0) / 3600
    lines = [f'{hours:g} hours of training']
    if len(course.parts) == 1:
      return [f'budget      {lines[0]}, {rows_of(course.parts[0])} a step']
    lines += [
      f'until {part.until:.1%}: steps of {rows_of(part)} of '
      f'{course.seq_lens[part.stage]} tokens'
      for part in course.parts
    ]
    return [f'{"" if n else "budget":12}{line}' for n, line in enumerate(lines)]
  phases = course.phases()
  if len(phases) == 1:
    line = f'steps       {course.steps:,} of {rows_of(phases[0])}'
    if num_rows is None:
      return [line]
    epochs = course.steps * phases[0].batch_size / num_rows
    return [f'{line}, {epochs:,.2f} epochs of {num_rows:,} rows']
  return [
    f'{"" if n else "steps":12}to {course.last_step(phase):,}: '
    f'{rows_of(phase)} of {phase.seq_len} tokens'
    for n, phase in enumerate(phases)
  ]


def _warmup(config: ConfigDict, course: Course) -> str:
  share = config_lib.warmup_of(config, course.steps)
  if course.steps is None:
    return f'{share:.0%}'
  return f'{round(share * course.steps):,} steps'
