"""Bytes of one device: what is counted, and what is an estimate.

Parameters, gradients and the optimiser's state are counted: they are the real
state of the step, as shapes. Activations are an estimate, `activation_bytes`.
"""

import dataclasses
import functools
import math
from typing import Any

import jax
from jax.sharding import AbstractMesh

from shared_bert import run_plan
from shared_bert.errors import UserError
from shared_bert.model import parameters
from shared_bert.model.config import BertConfig
from shared_bert.planning.subject import Subject
from shared_bert.planning.tables import table
from shared_bert.training import optimizer as optimizer_lib
from shared_bert.training.phases import Part
from shared_bert.training.step import abstract_state

REMATS = ('none', 'dots', 'full')
GB = 1e9
# What the backward pass of a layer works with, as multiples of what a layer
# keeps without remat. Fitted: `activation_bytes`.
_WORKING = {'none': 0.2, 'dots': 1.2, 'full': 1.35}


@dataclasses.dataclass(frozen=True)
class Need:
  """Bytes of one device while it trains.

  Attributes:
    parameters: float32.
    gradients: as many again, of a batch or the sum of its micro-batches.
    optimizer: its state.
    teacher: parameters of the model whose predictions are learnt.
    activations: the estimate; or the bytes of the optimiser's updates, as
      many as of the parameters, if these are more: they come when the
      activations are gone. With them what `whole_bytes` counts.
  """

  parameters: int
  gradients: int
  optimizer: int
  teacher: int
  activations: int

  @property
  def state(self) -> int:
    """What does not depend on the rows."""
    return self.parameters + self.gradients + self.optimizer + self.teacher

  @property
  def total(self) -> int:
    """All of it."""
    return self.state + self.activations


def _size(leaf: Any) -> int:
  """Bytes of an array's shape, of one device's share if it is sharded."""
  sharding = getattr(leaf, 'sharding', None)
  shape = sharding.shard_shape(leaf.shape) if sharding else leaf.shape
  return math.prod(shape) * leaf.dtype.itemsize


def _bytes(tree: Any) -> int:
  return sum(_size(leaf) for leaf in jax.tree.leaves(tree))


def state_bytes(subject: Subject, mesh: AbstractMesh) -> tuple[int, int]:
  """Of the parameters and of the optimiser's state, of one device.

  Args:
    subject: what is planned.
    mesh: of the devices.
  """
  trained = subject.build(subject.model)
  state = abstract_state(
    lambda: parameters.initialise(trained.make, jax.random.key(0)),
    optimizer_lib.of_config(subject.config.train),
    trained.metric_names,
    mesh,
  )
  return _bytes(state['params']), _bytes(state['opt_state'])


def whole_bytes(subject: Subject, mesh: AbstractMesh) -> int:
  """Of matrices that devices share, while they are whole.

  What is outside of the layers and one layer, with their gradients; layers in
  the compute dtype (`model.sharding`).

  Args:
    subject: what is planned.
    mesh: of the devices.
  """
  if mesh.shape['fsdp'] == 1:
    return 0
  params = parameters.abstract(subject.build(subject.model).make)
  model, total = subject.model, 0
  for name, leaf in parameters.named_leaves(params):
    if '/layers/' in name:
      itemsize = jax.numpy.dtype(model.compute_dtype).itemsize
      total += leaf.size // model.num_layers * itemsize
    else:
      total += _size(leaf)
  return 2 * total


@functools.cache
def kept_bytes(
  subject: Subject, model: BertConfig, rows: int, seq_len: int
) -> int:
  """What the forward pass keeps for the backward pass, as JAX traces it.

  Attention by cuDNN counts as by XLA, which keeps all probabilities besides.

  Args:
    subject: what is planned.
    model: that model, or one with other layers or remat.
    rows: of a micro-batch, of one device.
    seq_len: S.
  """
  if model.attention_backend == 'cudnn':  # traced where there is one alone
    model = dataclasses.replace(model, attention_backend='xla')
  trained = subject.build(model)

  def kept(params: Any, batch: dict, frozen: tuple) -> list:
    def objective(params):
      sums = trained.loss_sums(params, batch, jax.random.key(0), *frozen)
      return sums['loss'][0], sums

    _, backward, _ = jax.vjp(objective, params, has_aux=True)
    given = {id(leaf) for leaf in jax.tree.leaves((params, batch, frozen))}
    arrays = {
      id(leaf): leaf
      for leaf in jax.tree.leaves(backward)
      if isinstance(leaf, jax.Array) and id(leaf) not in given
    }
    return list(arrays.values())

  params = parameters.abstract(trained.make)
  frozen = subject.frozen()
  return _bytes(
    jax.eval_shape(kept, params, subject.batch(rows, seq_len), frozen)
  )


def activation_bytes(
  subject: Subject, model: BertConfig, rows: int, seq_len: int
) -> int:
  """An estimate of what a step holds beside its state and gradients.

  It is what the forward pass keeps (`kept_bytes`), and what a layer's backward
  pass works with, as a multiple of what a layer keeps, the more where that is
  computed again first. The factors are fitted.

  Seen beside `memory_analysis().temp_size_in_bytes` of the real step, compiled
  for one CPU in float32 (JAX 0.10.2) at 128 tokens, gradients and what `Need`
  makes of the estimate were from 11 % too low to 22 % too high: without remat
  +2 % (tiny, 32 rows), +16 % (tiny, 8), +1 % (mini, 64), +19 % (mini, 1) and
  +3 % (small, 16); with `dots` -6 % (tiny, 32) and +11 % (mini, 64); with
  `full` -11 % (tiny, 32), +19 % (mini, 64) and +22 % (small, 16). On an NVIDIA
  H200 in bfloat16 (JAX 0.11.2) it was measured before the last layer was
  narrowed to what is read, and with greater factors: +4 to +9 % without remat.
  What `whole_bytes` adds was not measured on accelerators.

  Args:
    subject: what is planned.
    model: that model, or one with another remat.
    rows: of a micro-batch, of one device.
    seq_len: S.
  """

  def plain(num_layers: int) -> BertConfig:
    return dataclasses.replace(model, num_layers=num_layers, remat='none')

  one, two = (kept_bytes(subject, plain(n), rows, seq_len) for n in (1, 2))
  kept = (
    # Every layer keeps the same, and a trace takes a while.
    one + (model.num_layers - 1) * (two - one)
    if model.remat == 'none'
    else kept_bytes(subject, model, rows, seq_len)
  )
  return kept + round(_WORKING[model.remat] * (two - one))


class Budget:
  """What a device needs, by remat, at the part of the run that needs most.

  Attributes:
    part: of the course.
    rows: of its micro-batch, of one device.
    needs: by `REMATS`.
  """

  def __init__(
    self, subject: Subject, parts: tuple[Part, ...], mesh: AbstractMesh
  ):
    """Traces the step.

    Args:
      subject: what is planned.
      parts: of the course, whose batches the devices share equally.
      mesh: of the devices.
    """
    self._subject, self._mesh = subject, mesh
    self._state = state_bytes(subject, mesh)
    self._whole = whole_bytes(subject, mesh)
    self._teacher = _bytes(subject.frozen(mesh))
    shapes = {(self._rows_of(p), subject.seq_lens[p.stage]): p for p in parts}
    largest = {}  # of each length, the micro-batch with most rows
    for rows, seq_len in sorted(shapes):
      largest[seq_len] = rows
    remat = subject.model.remat
    found = {
      (rows, seq_len): self.need(remat, shapes[rows, seq_len])
      for seq_len, rows in largest.items()
    }
    rows, seq_len = max(found, key=lambda shape: found[shape].total)
    self.rows, self.part = rows, shapes[rows, seq_len]
    self.needs = {
      name: found[rows, seq_len]
      if name == remat
      else self.need(name, self.part)
      for name in REMATS
    }

  def _rows_of(self, part: Part) -> int:
    return part.batch_size // part.accumulation // self._mesh.size

  @property
  def seq_len(self) -> int:
    """S of the part."""
    return self._subject.seq_lens[self.part.stage]

  def need(self, remat: str, part: Part) -> Need:
    """What a part needs, computed another way.

    Args:
      remat: as `model.remat`.
      part: of a course.
    """
    model = dataclasses.replace(self._subject.model, remat=remat)
    params, optimizer = self._state
    activations = activation_bytes(
      self._subject,
      model,
      self._rows_of(part),
      self._subject.seq_lens[part.stage],
    )
    return Need(
      parameters=params,
      gradients=params,
      optimizer=optimizer,
      teacher=self._teacher,
      activations=max(params, activations + self._whole),
    )

  def lines(self) -> list[str]:
    """The table of needs, in GB."""
    fields = [field.name for field in dataclasses.fields(Need)]
    if not self._teacher:
      fields.remove('teacher')
    name = run_plan.OPTIMIZER_NAMES[self._subject.config.train.optimizer]
    named = {
      'optimizer': f'state of {name}',
      'activations': 'activations, estimated',
    }
    rows = {
      named.get(name, name): [
        f'{getattr(need, name) / GB:.2f}' for need in self.needs.values()
      ]
      for name in (*fields, 'total')
    }
    marked = f'remat={self._subject.model.remat}'
    return [
      *table(
        'GB of each device',
        [f'remat={name}' for name in REMATS],
        rows,
        marked,
      ),
      f'  at micro-batches of {self.rows:,} rows of {self.seq_len} tokens on '
      'each device',
    ]

  def check(self, memory: float) -> None:
    """Refuses a run that a device has no room for.

    Args:
      memory: GB of each device.

    Raises:
      UserError: with what would fit.
    """
    model = self._subject.model
    need = self.needs[model.remat]
    if need.total <= memory * GB:
      return
    said = (
      f'a device of --memory={memory:g} GB is too small: a step needs about '
      f'{need.total / GB:.1f} GB, of which {need.state / GB:.1f} GB are '
      'parameters, gradients and optimiser state'
    )
    ways = self._ways(memory)
    if not ways:
      raise UserError(
        f'{said}, and neither model.remat=full nor a larger '
        'train.accumulation makes enough room: take a smaller model.size or '
        'shorter rows (data.seq_len), or devices with more memory.'
      )
    raise UserError(f'{said}: set {", or ".join(ways)}.')

  def _ways(self, memory: float) -> list[str]:
    """Settings that fit, the ones that change least first."""
    ways = []
    here = self._subject.model.remat
    if here != 'full' and self.needs['full'].total <= memory * GB:
      ways.append(f'model.remat=full ({self.needs["full"].total / GB:.1f} GB)')
    for remat in dict.fromkeys((here, 'full')):
      if remat == 'full' != here and ways:
        break
      part = self.part
      while True:
        part = dataclasses.replace(part, accumulation=2 * part.accumulation)
        if part.batch_size % (part.accumulation * self._mesh.size):
          break
        total = self.need(remat, part).total
        if total <= memory * GB:
          also = f'model.remat={remat} and ' if remat != here else ''
          ways.append(f'{also}{self._cut(part)} ({total / GB:.1f} GB)')
          break
    return ways

  def _cut(self, part: Part) -> str:
    """The key and value that cut a part's steps so."""
    cuts = list(self._subject.config.train.get('stage_accumulations') or ())
    if not cuts:
      return f'train.accumulation={part.accumulation}'
    cuts[part.stage] = part.accumulation
    return f'train.stage_accumulations={",".join(map(str, cuts))}'
