"""What pre-trained models know: of words, of their company, of their order.

  python benchmarks/context.py RUN [RUN ...] [--rows=1024]

Masks the held-out rows of each RUN's corpus, the same for all, and prints the
loss of its last checkpoint on them

  as they are
  shuffled   the words that are not masked change places within their segment:
             what is lost is what the model makes of order
  foreign    the words that are not masked are those of another row: what is
             lost is what the model makes of any context

beside the cross entropy of the words' frequencies in the rows to train on, the
best that a guess without any context can do. A model on the plateau of that
guess has the three losses alike, and about that number.
"""

import argparse
import pathlib

import jax
import numpy as np
from finished_runs import open_run

from shared_bert.data.corpus import Corpus
from shared_bert.model import parameters
from shared_bert.training.checkpoint import open_checkpoint

_BATCH = 64
_FREQUENCY_ROWS = 200_000


def frequency_loss(corpus: Corpus, rows: int) -> float:
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
  """The ids with words in other places of their segments.

  Args:
    batch: of `MaskedModel.prepare`; masked places and special ids stay.
    special: ids that are no words.
    seed: of the order.
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
  """
  ids = np.array(batch['input_ids'])
  others = np.roll(ids, 1, axis=0)
  fixed = np.isin(ids, special) | np.isin(others, special)
  np.put_along_axis(fixed, np.array(batch['masked_positions']), True, axis=1)
  return np.where(fixed, ids, others)


def losses(run: pathlib.Path, rows: int) -> tuple[float, list[float]]:
  """The guess by frequency, and a run's three losses, in nats."""
  _, corpus, model = open_run(run, rows)
  params = open_checkpoint(run).load_params(parameters.abstract(model.make))
  special = [int(i) for i in corpus.tokenizer.special_ids]
  sums = jax.jit(lambda params, batch: model.loss_sums(params, batch, None))
  prepare = jax.jit(model.prepare)
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
  return frequency_loss(corpus, rows), (totals[:, 0] / totals[:, 1]).tolist()


def main() -> None:
  """Evaluates and prints."""
  parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
  parser.add_argument('runs', type=pathlib.Path, nargs='+')
  parser.add_argument('--rows', type=int, default=1024)
  arguments = parser.parse_args()
  print('| run | as they are | shuffled | foreign | by frequency |')
  print('|---|---:|---:|---:|---:|')
  for run in arguments.runs:
    by_frequency, values = losses(run, arguments.rows)
    columns = ' | '.join(f'{value:.3f}' for value in (*values, by_frequency))
    print(f'| {run.name} | {columns} |')


if __name__ == '__main__':
  main()
