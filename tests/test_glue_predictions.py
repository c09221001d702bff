"""Leaderboard files are what the leaderboard takes; fingerprints differ."""

import numpy as np
import pytest

from shared_bert import errors
from shared_bert.data import glue


@pytest.mark.parametrize(
  ('task', 'split', 'file', 'predictions', 'written'),
  [
    ('cola', 'test', 'CoLA', [1, 0], ('0', '1')),
    ('sst2', 'test', 'SST-2', [1, 0], ('0', '1')),
    ('mrpc', 'test', 'MRPC', [1, 0], ('0', '1')),
    ('qqp', 'test', 'QQP', [1, 0], ('0', '1')),
    ('wnli', 'test', 'WNLI', [1, 0], ('0', '1')),
    ('stsb', 'test', 'STS-B', [5.5, 2.25], ('2.250000', '5.000000')),
    ('stsb', 'test', 'STS-B', [-0.5, 1 / 3], ('0.333333', '0.000000')),
    ('qnli', 'test', 'QNLI', [1, 0], ('entailment', 'not_entailment')),
    ('rte', 'test', 'RTE', [1, 0], ('entailment', 'not_entailment')),
    ('mnli', 'test_matched', 'MNLI-m', [2, 0], ('entailment', 'contradiction')),
    ('mnli', 'test_mismatched', 'MNLI-mm', [1, 0], ('entailment', 'neutral')),
    ('ax', 'test', 'AX', [1, 2], ('contradiction', 'neutral')),
  ],
)
def test_predictions_have_the_names_and_labels_of_the_leaderboard(
  tmp_path, task, split, file, predictions, written
):
  directory = tmp_path / 'predictions'
  # Ids out of order, and 9 before 10 as numbers.
  path = glue.write_predictions(task, split, [10, 9], predictions, directory)
  assert path == directory / f'{file}.tsv'
  expected = f'index\tprediction\n9\t{written[0]}\n10\t{written[1]}\n'
  assert path.read_bytes() == expected.encode()
  assert list(directory.iterdir()) == [path]


def test_predictions_that_do_not_fit_are_refused_before_writing(tmp_path):
  def write(task, ids, predictions, split='test'):
    glue.write_predictions(task, split, ids, predictions, tmp_path)

  with pytest.raises(ValueError, match='ids for'):
    write('cola', [0, 1], [1])
  with pytest.raises(ValueError, match='twice'):
    write('cola', [0, 0], [1, 1])
  with pytest.raises(ValueError, match='not one of 0'):
    write('cola', [0, 1], [0, 2])
  with pytest.raises(ValueError, match='integers'):
    write('cola', [0, 1], [0.2, 0.8])
  with pytest.raises(errors.UserError, match='diverged'):
    write('stsb', [0, 1], [0.2, np.nan])
  with pytest.raises(errors.UserError, match='takes no file'):
    write('cola', [0], [0], split='dev')
  assert not list(tmp_path.iterdir())
  (tmp_path / 'CoLA.tsv').mkdir()
  with pytest.raises(errors.UserError, match='Cannot write'):
    write('cola', [0], [0])
  assert [path.name for path in tmp_path.iterdir()] == ['CoLA.tsv']


def test_fingerprint_tells_apart_whatever_training_would():
  def examples(a=('x', 'yz'), b=None, labels=(0, 1), dtype=np.int32):
    labels = None if labels is None else np.asarray(labels, dtype)
    return glue.Examples(list(a), b and list(b), labels, [0, 1])

  variants = [
    {'train': examples()},
    {'dev': examples()},
    {'train': examples(('yz', 'x'))},
    {'train': examples(('xy', 'z'))},
    {'train': examples(('x',), ('yz',))},
    {'train': examples(labels=(1, 0))},
    {'train': examples(labels=None)},
    {'train': examples(dtype=np.float32)},
    {'train': examples(), 'dev': examples()},
  ]
  prints = [glue.fingerprint(variant) for variant in variants]
  assert len(set(prints)) == len(prints)
  assert prints[0] == glue.fingerprint({'test': None, 'train': examples()})
  both = {'dev': examples(), 'train': examples()}
  assert prints[-1] == glue.fingerprint(both)
  # The number itself: a fingerprint outlives the process and the release.
  assert prints[0].startswith('f819f07e6742a26a')
