"""What pre-trained models know: of words, of their company, of their order.

A model of masked words can come far by the frequency of words and by the
company they keep. How much it makes of their order is seen by shuffling them.
"""

import pathlib
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from shared_bert import config as config_lib
from shared_bert import pretrain
from shared_bert.data.corpus import Corpus
from shared_bert.masked_model import MaskedModel
from shared_bert.model import parameters
from shared_bert.training import mesh as mesh_lib
from shared_bert.training.checkpoint import open_checkpoint

_BATCH = 64
_FREQUENCY_ROWS = 200_000


def losses(config: ConfigDict, run: pathlib.Path, rows: int) -> dict[str, Any]:
  """Losses of a finished pre-training on held-out rows, changed and not.

  The masked words and their places are the same for all models of a corpus and
  a masking.

  Args:
    config: of the run.
    run: its workdir.
    rows: how many held-out rows to read.

  Returns:
    In nats a masked word: `as_is`; `shuffled`, where the words that are not
    masked change places within their segment, so that what is lost is what the
    model makes of order; `foreign`, where they are those of another row, so
    that it is what the model makes of any context; and `frequency`, the cross
    entropy of the words' frequencies in the text to train on, the best that a
    guess without context can do.
  """
  corpus = pretrain.open_corpora(config, None)[-1]
  model = MaskedModel(
    config_lib.model_config(
      config, corpus.tokenizer.vocab_size, jax.default_backend()
    ),
    # Masks are drawn from the seed: one for all.
    ConfigDict(config.to_dict() | {'seed': 0}),
    corpus.tokenizer,
    corpus.heldout[:1],
    mesh_lib.make_mesh(1, jax.devices()[:1]),
  )
  params = open_checkpoint(run).load_params(parameters.abstract(model.make))
  special = [int(i) for i in corpus.tokenizer.special_ids]
  sums = jax.jit(lambda params, batch: model.loss_sums(params, batch, None))
  prepare = jax.jit(model.prepare)
  rows = min(rows, len(corpus.heldout)) // _BATCH * _BATCH or len(
    corpus.heldout
  )
  totals = np.zeros((3, 2))
  for start in range(0, rows, _BATCH):
    ids = np.asarray(corpus.heldout[start : start + _BATCH], np.int32)
    batch = prepare(
      {
        'input_ids': ids,
        'row_id': np.arange(start, start + len(ids), dtype=np.int32),
        'epoch': np.zeros(len(ids), np.int32),
      }
    )
    inputs = (
      batch['input_ids'],
      shuffled(batch, special, start),
      foreign(batch, special),
    )
    for number, changed in enumerate(inputs):
      given = batch | {'input_ids': jax.numpy.asarray(changed)}
      totals[number] += jax.device_get(sums(params, given)['loss'])
  names = ('as_is', 'shuffled', 'foreign')
  means = (totals[:, 0] / totals[:, 1]).tolist()
  return dict(zip(names, means, strict=True)) | {
    'frequency': _frequency_loss(corpus, rows)
  }


def _frequency_loss(corpus: Corpus, rows: int) -> float:
  """Cross entropy of held-out words, guessed by how often words occur, nats."""
  size = corpus.tokenizer.vocab_size
  some = np.asarray(corpus.train[:_FREQUENCY_ROWS]).reshape(-1)
  counts = np.bincount(some, minlength=size) + 1.0
  met = np.bincount(
    np.asarray(corpus.heldout[:rows]).reshape(-1), minlength=size
  ).astype(float)
  special = list(corpus.tokenizer.special_ids)
  counts[special] = met[special] = 0.0
  words = met > 0
  shares = counts[words] / counts.sum()
  return float(-(met[words] * np.log(shares)).sum() / met.sum())


def shuffled(batch: dict, special: list[int], seed: int) -> np.ndarray:
  """The ids int32 [B, S] with words in other places of their segments.

  Args:
    batch: of `MaskedModel.prepare`; masked places and special ids stay.
    special: ids that are no words.
    seed: of the order.

  Returns:
    int32 [B, S].
  """
  ids, segments = (np.array(batch[k]) for k in ('input_ids', 'segment_ids'))
  fixed = np.isin(ids, special)
  np.put_along_axis(fixed, np.array(batch['masked_positions']), True, axis=1)
  random = np.random.default_rng(seed)
  for row in range(len(ids)):
    for segment in range(1, segments[row].max() + 1):
      places = np.flatnonzero((segments[row] == segment) & ~fixed[row])
      ids[row, places] = ids[row, random.permutation(places)]
  return ids


def foreign(batch: dict, special: list[int]) -> np.ndarray:
  """The ids with the words of the row before at places that are words in both.

  Args:
    batch: of `MaskedModel.prepare`; masked places and special ids stay.
    special: ids that are no words.

  Returns:
    int32 [B, S].
  """
  ids = np.array(batch['input_ids'])
  others = np.roll(ids, 1, axis=0)
  fixed = np.isin(ids, special) | np.isin(others, special)
  np.put_along_axis(fixed, np.array(batch['masked_positions']), True, axis=1)
  return np.where(fixed, ids, others)
