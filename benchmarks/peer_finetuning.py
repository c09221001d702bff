"""Fine-tuning on MNLI, ours and Hugging Face's: a case of `peers.py`.

Everyone trains on the same examples in a step, in the rows that it would train
on, and goes on to the next batch.
"""

import itertools
import pathlib
from typing import Any

import jax
import numpy as np
import torch
import transformers
from contest import Case, Contestant
from ml_collections import ConfigDict
from peer_models import (
  LEARNING_RATE,
  Models,
  Rows,
  Step,
  adamw,
  difference,
  twice,
)

from shared_bert import config as config_lib
from shared_bert.data import glue
from shared_bert.data.batches import Rows as PaddedRows
from shared_bert.data.encoding import encode_examples
from shared_bert.data.packed_batches import PackedRows
from shared_bert.data.tokenizer import Tokenizer
from shared_bert.errors import UserError
from shared_bert.interop.saved import SavedModel
from shared_bert.study.fresh_step import fresh_step
from shared_bert.task_data import TaskData
from shared_bert.task_model import TaskModel
from shared_bert.training import mesh as mesh_lib

# Batches that are gone through again and again; all shapes are in them.
_BATCHES = 16
_TASK = glue.get_task('mnli')


class FineTuning(Models):
  """Models that classify pairs of sentences, and the pairs."""

  label_names = _TASK.label_names

  def __init__(
    self,
    size: str,
    glue_dir: pathlib.Path,
    vocab: pathlib.Path,
    cores: int,
    folder: pathlib.Path,
  ):
    """Reads the examples; makes no model yet.

    Args:
      size: of `shared_bert.model.config.SIZES`.
      glue_dir: holds MNLI/train.tsv.
      vocab: of the models.
      cores: threads that PyTorch gets.
      folder: an empty one, to export into.
    """
    try:
      examples = glue.load_split(_TASK, glue_dir, 'train')
      tokenizer = Tokenizer.load(vocab)
    except UserError as error:
      raise SystemExit(str(error)) from None
    super().__init__(size, tokenizer, cores, folder)
    assert examples is not None  # a split for training is never optional
    self._examples = examples

  def enter(
    self, case: Case, *, compiled: bool, flax_python: str | None
  ) -> tuple[dict[str, Contestant], list[dict[str, Any]]]:
    """As that of others; `compiled` changes nothing."""
    arrays = encode_examples(
      self._tokenizer,
      self._examples.text_a,
      self._examples.text_b,
      case.seq_len,
    ) | {'labels': self._examples.labels}
    config = config_lib.finetune_defaults()
    config.train.clip_norm = 0.0
    buckets = config.data.length_buckets
    made = {
      'packed': PackedRows(arrays, case.rows, 0, buckets=buckets),
      'padded': PaddedRows(arrays, case.rows, 0, buckets),
      # To the longest of the batch, whatever that is.
      'Hugging Face': PaddedRows(arrays, case.rows, 0, range(case.seq_len)),
      'FlaxBert': PaddedRows(arrays, case.rows, 0),
    }
    batches = {
      name: [rows(step) for step in range(_BATCHES)]
      for name, rows in made.items()
    }
    self.padding = {name: _padding(rows) for name, rows in batches.items()}

    saved, steps = self._exported(case), {}
    data = TaskData(_TASK, {'train': self._examples}, {'train': arrays})
    for name, model in saved.items():
      for kind in ('packed', 'padded'):
        steps[f'{name}, {kind}'] = _ours(
          model, data, config, batches[kind], case.rows
        )
    ours = tuple(steps)
    theirs = batches['Hugging Face']
    steps['Hugging Face'] = _hugging_face(self._folder / 'standard', theirs)
    contestants = {name: Contestant(step) for name, step in steps.items()}
    if flax_python:
      of_all = [_with_mask(batch) for batch in batches['FlaxBert']]
      contestants['FlaxBert'] = self._flax(
        flax_python,
        case,
        {name: np.stack([b[name] for b in of_all]) for name in of_all[0]},
      )
    else:
      del self.padding['FlaxBert']
    outputs = twice(contestants)
    parity = [
      difference(outputs, 'standard, packed', name)
      for name in contestants
      if name not in ours or name == 'standard, padded'
    ]
    parity.append(difference(outputs, 'shared, packed', 'shared, padded'))
    twin = _hugging_face(self._folder / 'shared', theirs)
    outputs['its export'] = np.array([twin()])
    first = 'shared, packed'
    outputs[first] = outputs[first][:1]  # then the two train apart
    parity.append(difference(outputs, first, 'its export'))
    return contestants, parity


def _padding(batches: list[Rows]) -> float:
  """The share of places in rows that are padding."""
  rows = [batch['segment_ids'] for batch in batches]
  return 1 - sum(map(np.count_nonzero, rows)) / sum(ids.size for ids in rows)


def _with_mask(batch: Rows) -> Rows:
  """A padded batch as Hugging Face's models take it."""
  names = {'segment_ids': 'attention_mask'} | {
    name: name for name in ('input_ids', 'token_type_ids', 'labels')
  }
  return {new: batch[old].astype(np.int64) for old, new in names.items()}


def _ours(
  saved: SavedModel,
  data: TaskData,
  config: ConfigDict,
  batches: list[Rows],
  examples: int,
) -> Step:
  mesh = mesh_lib.make_mesh(devices=jax.devices()[:1])
  model = TaskModel(saved.config, data, config, mesh)
  state, step = fresh_step(config, model, mesh, prepare=lambda batch: batch)
  state['params'] = jax.device_put(
    saved.params, jax.tree.map(lambda x: x.sharding, state['params'])
  )
  placed = [mesh_lib.place_batch(mesh, batch) for batch in batches]
  # Each shape is compiled by a step that is then undone.
  shardings = jax.tree.map(lambda x: x.sharding, state)
  first = jax.tree.map(np.array, jax.device_get(state))
  for batch in {b['input_ids'].shape: b for b in placed}.values():
    state, _ = step(state, batch, LEARNING_RATE)
  state, total = jax.device_put(first, shardings), 0.0
  coming = itertools.cycle(placed)

  def do() -> float:
    nonlocal state, total
    state, window = step(state, next(coming), LEARNING_RATE)
    jax.block_until_ready(state)
    before, total = total, float(window['loss'][0])
    return (total - before) / examples

  return do


def _hugging_face(folder: pathlib.Path, batches: list[Rows]) -> Step:
  model = transformers.BertForSequenceClassification.from_pretrained(
    folder, attn_implementation='sdpa'
  ).train()
  optimizer = adamw(model)
  coming = itertools.cycle(
    {name: torch.tensor(x) for name, x in _with_mask(batch).items()}
    for batch in batches
  )

  def do() -> float:
    loss = model(**next(coming)).loss
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    return loss.item()

  return do
