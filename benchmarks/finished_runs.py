"""What the benchmarks share: finished runs opened again, made-up words."""

import json
import pathlib

import jax
from ml_collections import ConfigDict

from shared_bert import config as config_lib
from shared_bert.data.corpus import Corpus, open_corpus
from shared_bert.data.tokenizer import SPECIAL_TOKENS, Tokenizer
from shared_bert.masked_model import MaskedModel
from shared_bert.training import mesh as mesh_lib


def read_metrics(run: pathlib.Path, split: str) -> list[dict]:
  """The lines of one split in a run's metrics.jsonl."""
  lines = (run / 'metrics.jsonl').read_text().splitlines()
  rows = [json.loads(line) for line in lines]
  return [row for row in rows if row['split'] == split]


def read_config(run: pathlib.Path) -> ConfigDict:
  """The settings of a run."""
  return ConfigDict(json.loads((run / 'config.json').read_text()))


def open_run(
  run: pathlib.Path, heldout_rows: int
) -> tuple[ConfigDict, Corpus, MaskedModel]:
  """A pre-training run's settings, its text and its model.

  Args:
    run: its workdir.
    heldout_rows: how many rows the model evaluates on.
  """
  config = read_config(run)
  corpus = open_corpus(config.data.corpus, seq_len=config.data.seq_len)
  labels = corpus.heldout_labels
  masked_model = MaskedModel(
    config_lib.model_config(
      config, corpus.tokenizer.vocab_size, jax.default_backend()
    ),
    config,
    corpus.tokenizer,
    corpus.heldout[:heldout_rows],
    mesh_lib.make_mesh(),
    None if labels is None else labels[:heldout_rows],
  )
  return config, corpus, masked_model


def tokenizer_of(vocab_size: int) -> Tokenizer:
  """One of so many made-up words."""
  words = [f'word{n}' for n in range(vocab_size - len(SPECIAL_TOKENS))]
  return Tokenizer.from_vocab([*SPECIAL_TOKENS, *words])
