"""What the benchmarks share: finished runs opened again, fresh steps, words."""

import json
import pathlib
from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from shared_bert import config as config_lib
from shared_bert.data.corpus import Corpus, open_corpus
from shared_bert.data.tokenizer import SPECIAL_TOKENS, Tokenizer
from shared_bert.masked_model import MaskedModel
from shared_bert.model import parameters
from shared_bert.training import mesh as mesh_lib
from shared_bert.training import optimizer as optimizer_lib
from shared_bert.training.step import TrainStep, init_state, make_train_step


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


def fresh_step(
  config: ConfigDict,
  masked: MaskedModel,
  mesh: Mesh,
  prepare: Callable[[Any], Any] | None = None,
) -> tuple[Any, TrainStep]:
  """Fresh parameters and the compiled step of a pre-training run.

  Args:
    config: of the run.
    masked: its model.
    mesh: of the devices.
    prepare: of a batch; None makes masks as the run does.

  Returns:
    The state before the first step, and the step.
  """
  optimizer = optimizer_lib.of_config(config.train)
  key = jax.random.key(config.seed)
  state = init_state(
    lambda: parameters.initialise(masked.make, key),
    optimizer,
    masked.metric_names,
    mesh,
  )
  step = make_train_step(
    masked.loss_sums,
    optimizer,
    mesh,
    seed=config.seed,
    log_every=2**30,
    prepare=prepare or masked.prepare,
  )
  return state, step
