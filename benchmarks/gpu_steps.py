"""Training steps of masked words: two sections of `gpu.py`."""

import dataclasses
import gc
import re
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from contest import Contestant
from finished_runs import tokenizer_of
from gpu_report import Report, Scale, agreed, timed, tried
from gpu_rows import (
  MASK_RATIO,
  layout,
  lengths_like_wikipedia,
  masked_rows,
)

from shared_bert import config as config_lib
from shared_bert.data import masking
from shared_bert.data.tokenizer import Tokenizer
from shared_bert.errors import UserError
from shared_bert.masked_model import MaskedModel
from shared_bert.model import backends, flops
from shared_bert.model.config import SIZES, BertConfig
from shared_bert.study.fresh_step import fresh_step
from shared_bert.training import mesh as mesh_lib

_RATE = 1e-4


@dataclasses.dataclass(frozen=True)
class Case:
  """A model's size and the length of its rows.

  Attributes:
    size: of `SIZES`.
    length: S.
    layers: values of `model.scan_layers` that take part.
  """

  size: str
  length: int
  layers: tuple[bool, ...] = (True,)

  def __str__(self) -> str:
    return f'{self.size}, rows of {self.length}'


def cases_of(names: str) -> list[Case]:
  """Cases by their names, with commas between.

  Args:
    names: such as `base-128`, `base-128-unrolled` for layers that are not
      scanned, `base-128-both` for both in turns.
  """
  layers = {None: (True,), 'unrolled': (False,), 'both': (True, False)}
  cases = []
  for name in names.split(','):
    found = re.fullmatch(r'(\w+)-(\d+)(?:-(unrolled|both))?', name)
    if not found or found[1] not in SIZES:
      raise SystemExit(
        f'--cases={name} is not known: write SIZE-LENGTH, such as base-128, '
        'with -unrolled or -both behind it for layers that are not scanned.'
      )
    cases.append(Case(found[1], int(found[2]), layers[found[3]]))
  return cases


class Trainer:
  """A fresh model and its compiled step."""

  def __init__(
    self,
    model: BertConfig,
    tokenizer: Tokenizer,
    batch: dict[str, np.ndarray],
    masked: bool = False,
  ):
    """Makes parameters and compiles.

    Args:
      model: what is trained.
      tokenizer: of the words.
      batch: whose shapes the step is compiled for.
      masked: whether batches come with their masks; else making them is part
        of the step, as it is in a run.
    """
    config = config_lib.pretrain_defaults()
    config.data.seq_len = length = batch['input_ids'].shape[1]
    mesh = mesh_lib.make_mesh(devices=jax.devices()[:1])
    self._model = MaskedModel(
      model, config, tokenizer, np.zeros((0, length), np.int32), mesh
    )
    prepare: Callable | None = (lambda batch: batch) if masked else None
    self._state, self._step = fresh_step(config, self._model, mesh, prepare)
    self._total = 0.0, 0.0
    lowered = self._step.lower(self._state, self._model.place(batch))
    self.bytes = _bytes_of(lowered.compile())

  def losses(self, batch: dict[str, np.ndarray], steps: int) -> np.ndarray:
    """The mean loss of each of some steps on a batch."""
    placed, losses = self._model.place(batch), []
    for _ in range(steps):
      window = self._take(placed)
      total = tuple(float(x) for x in window['loss'])
      loss, weight = (a - b for a, b in zip(total, self._total, strict=True))
      self._total = total
      losses.append(loss / weight)
    return np.array(losses)

  def contestant(self, batch: dict[str, np.ndarray]) -> Contestant:
    """Takes steps on a batch, and waits for the last of a turn."""
    placed = self._model.place(batch)
    return Contestant(lambda: self._take(placed), wait=jax.block_until_ready)

  def _take(self, placed: dict) -> Any:
    self._state, window = self._step(self._state, placed, _RATE)
    return window


def _bytes_of(compiled: jax.stages.Compiled) -> int | None:
  """What a program holds at most, by XLA."""
  found: Any = compiled.memory_analysis()
  if found is None:
    return None
  return (
    found.argument_size_in_bytes
    + found.output_size_in_bytes
    + found.temp_size_in_bytes
    - found.alias_size_in_bytes
  )


def _model(scale: Scale, size: str, length: int, **keys: Any) -> BertConfig:
  return BertConfig.of_size(
    size,
    vocab_size=scale.vocab_size,
    hidden_dropout=0.0,
    attention_dropout=0.0,
    max_positions=max(512, length),
    dtype=scale.dtype,
    **keys,
  )


def _entrants(scale: Scale, case: Case) -> dict[str, tuple[BertConfig, bool]]:
  """Models by name, and whether their rows are packed, XLA's first."""
  platform, found = jax.default_backend(), {}
  for scan in case.layers:
    for backend in backends.BACKENDS:
      for attention in ('standard', 'shared'):
        try:
          model = _model(
            scale,
            case.size,
            case.length,
            attention=attention,
            attention_backend=backend,
            scan_layers=scan,
          )
          backends.check(model, platform, packed=False)
        except UserError:  # which is what the backend says that it cannot
          continue
        packs = backends.BACKENDS[backend].packs
        rows = 'packed' if packs else 'one segment'
        layers = 'scanned' if scan else 'unrolled'
        found[f'{attention}, {backend}, {layers}, {rows}'] = model, packs
  return found


class _Lineup:
  """Trainers of one case that agree with XLA's, and what is told of them."""

  def __init__(self, scale: Scale, report: Report, what: str):
    self._scale, self._report, self._what = scale, report, what
    self._tokenizer = tokenizer_of(scale.vocab_size)
    self._parity: list[dict[str, Any]] = []
    self._errors: dict[str, str] = {}
    self._expected: dict[Any, np.ndarray] = {}
    self._trainers: dict[str, Trainer] = {}
    self._contestants: dict[str, Contestant] = {}
    self._arithmetic: dict[str, float] = {}

  @property
  def names(self) -> list[str]:
    """Of those that are timed."""
    return list(self._trainers)

  def enter(
    self,
    name: str,
    model: BertConfig,
    batch: dict[str, np.ndarray],
    alike: Any,
    masked: bool = False,
  ) -> None:
    """Compiles a step and compares it, if there is time.

    Args:
      name: of the contestant.
      model: its own.
      batch: its rows.
      alike: the same for all whose losses must be the same.
      masked: whether the rows come with their masks.
    """
    if not self._report.begin(f'{self._what}: {name}'):
      return

    def losses_of(model: BertConfig) -> tuple[Trainer, np.ndarray]:
      trainer = Trainer(model, self._tokenizer, batch, masked)
      # Twice: the second loss is that after an update.
      return trainer, trainer.losses(batch, 2)

    def compare() -> None:
      if alike not in self._expected:
        plain = dataclasses.replace(model, attention_backend='xla')
        trainer, losses = losses_of(plain)
        if not np.isfinite(losses).all():
          raise RuntimeError(f'the losses are {losses} with XLA.')
        self._expected[alike] = losses
        if model == plain:
          self._take(name, trainer, model, batch)
          return
        del trainer
      trainer, losses = losses_of(model)
      apart = float(np.abs(losses - self._expected[alike]).max())
      if agreed(self._parity, name, apart, self._scale.loss_tolerance):
        self._take(name, trainer, model, batch)

    tried(compare, name, self._errors)

  def _take(
    self,
    name: str,
    trainer: Trainer,
    model: BertConfig,
    batch: dict[str, np.ndarray],
  ) -> None:
    self._trainers[name] = trainer
    self._contestants[name] = trainer.contestant(batch)
    rows, length = batch['input_ids'].shape
    masked = masking.default_num_predictions(length, MASK_RATIO)
    per_token = flops.train_flops_per_token(model, length, masked)
    self._arithmetic[name] = rows * length * per_token

  def compete(
    self,
    tokens: int,
    product: float | None,
    pairs: list[tuple[str, str]] | None = None,
  ) -> dict[str, Any]:
    """Times all that entered.

    Args:
      tokens: real ones of a step.
      product: FLOP/s that were measured of a product of matrices, or None.
      pairs: who is compared; by default as `contest.pairs_of` has it.

    Returns:
      What a report takes.
    """
    scale = self._scale
    told = timed(self._contestants, scale.rounds, scale.turn, pairs)
    peak = flops.peak_flops(jax.devices()[0].device_kind)
    rates = {}
    for name, clock in told['seconds'].items():
      seconds = clock['wall']['median']
      speed = self._arithmetic[name] / seconds
      size = self._trainers[name].bytes
      rates[name] = {
        'tokens': tokens / seconds,
        'tflops': speed / 1e12,
        'of_product': speed / product if product else None,
        'of_peak': speed / peak if peak else None,
        'gib': size / 2**30 if size else None,
      }
    memory = jax.devices()[0].memory_stats() or {}
    return told | {
      'rates': rates,
      'parity': self._parity,
      'errors': self._errors,
      # Of the process so far, where the device says.
      'peak_bytes': memory.get('peak_bytes_in_use'),
    }


def steps(
  scale: Scale, report: Report, cases: list[Case], product: float | None
) -> None:
  """Standard and shared attention, by each backend, in turns.

  Args:
    scale: of all.
    report: gets speed, utilisation and memory.
    cases: what to do.
    product: FLOP/s that were measured of a product of matrices, or None.
  """
  tokenizer = tokenizer_of(scale.vocab_size)
  for case in cases:
    if not report.begin(f'steps of {case}'):
      continue
    rows = scale.tokens // case.length
    batches = {}
    for packed in (False, True):
      parts = (case.length // 2, case.length - case.length // 2)
      lengths = np.array((parts if packed else (case.length,)) * rows)
      batches[packed] = {
        'input_ids': layout(tokenizer, lengths, case.length, packed)[0],
        'row_id': np.arange(rows, dtype=np.int32),
        'epoch': np.zeros(rows, np.int32),
      }
    lineup = _Lineup(scale, report, f'steps of {case}')
    for name, (model, packed) in _entrants(scale, case).items():
      alike = model.attention, packed
      lineup.enter(name, model, batches[packed], alike)
    report.add('steps', str(case), lineup.compete(rows * case.length, product))
    del lineup
    gc.collect()  # their states, before the next


def packing(scale: Scale, report: Report, product: float | None) -> None:
  """The same segments in packed rows and in rows of their own.

  Each backend takes what rows it can, but for the padded ones of our kernel,
  which has no use for padding. The losses of a mechanism must be the same,
  before and after an update.

  Args:
    scale: of all.
    report: gets real tokens a second.
    product: FLOP/s that were measured of a product of matrices, or None.
  """
  case = Case(scale.packed_size, scale.packed_length)
  what = f'packed and padded rows of {case}'
  if not report.begin(what):
    return
  tokenizer = tokenizer_of(scale.vocab_size)
  lengths = lengths_like_wikipedia(scale.tokens, case.length)
  batches = {
    rows: masked_rows(tokenizer, lengths, case.length, rows == 'packed')
    for rows in ('packed', 'padded')
  }
  lineup = _Lineup(scale, report, what)
  # By mechanism and rows.
  entered: dict[tuple[str, str], list[str]] = {}
  for model, packs in _entrants(scale, case).values():
    backend = model.attention_backend
    for rows in ('packed', 'padded') if packs else ('padded',):
      if rows == 'padded' and backend == 'pallas_shared':
        continue
      name = f'{model.attention}, {backend}, {rows}'
      lineup.enter(name, model, batches[rows], model.attention, masked=True)
      if name in lineup.names:
        entered.setdefault((model.attention, rows), []).append(name)
  pairs = [
    (padded, packed)
    for (attention, rows), names in entered.items()
    if rows == 'padded'
    for padded in names
    for packed in entered.get((attention, 'packed'), [])
  ]
  real = int(lengths.sum())
  found = lineup.compete(real, product, pairs)
  padding = {
    rows: 1 - real / batch['input_ids'].size for rows, batch in batches.items()
  }
  report.add('packing', str(case), found | {'padding': padding})
