"""The model of questions as compiled functions: loss, answers and metrics."""

import pathlib
import weakref
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from shared_bert.data.spans import Windows
from shared_bert.model.heads import BertForQuestionAnswering
from shared_bert.model.perturbation import WordNoise
from shared_bert.span_data import Answers, answers_of
from shared_bert.task_model import TaskModel
from shared_bert.training import answer_metrics
from shared_bert.training import metrics as metrics_lib
from shared_bert.training.evaluation import Evaluation
from shared_bert.training.workdir import write_json


class SpanModel(TaskModel):
  """A model of first and last tokens of answers, on the splits of SQuAD."""

  # The answers of the newest evaluation, and which parameters they are of.
  _newest: tuple[Any, dict[str, Answers]] | None = None

  def _make(self, rngs: nnx.Rngs) -> nnx.Module:
    return BertForQuestionAnswering(self._model, rngs=rngs)

  @property
  def metric_names(self) -> tuple[str, ...]:
    """Of the sums that `loss_sums` gives."""
    return ('loss', 'accuracy')

  def loss_sums(self, params: Any, batch: dict, key: Any) -> dict:
    """The mean of two cross entropies, and how many spans are right.

    Source: run_squad.py, `model_fn_builder`. There the softmax is over the
    padding too; here it is not, so that the loss does not depend on how much
    of it a batch has.

    Args:
      params: of the model.
      batch: of `Rows`, ids int32 [B, S], `start_positions` and
        `end_positions` int32 [B].
      key: of the dropout, or None.

    Returns:
      (sum, weight) by name of `metric_names`.
    """
    losses, correct = [], []
    names = ('start_positions', 'end_positions')
    is_real = batch['segment_ids'] > 0
    for logits, name in zip(
      self._forward(params, batch, key), names, strict=True
    ):
      logits = jnp.where(is_real, logits, -1e30)
      losses.append(
        optax.softmax_cross_entropy_with_integer_labels(logits, batch[name])
      )
      correct.append(logits.argmax(-1) == batch[name])
    weight = jnp.float32(len(losses[0]))
    both = (correct[0] & correct[1]).sum().astype(jnp.float32)
    return {
      'loss': ((losses[0] + losses[1]).sum() / 2, weight),
      'accuracy': (both, weight),
    }

  def _outputs_and_rows(
    self, params: Any, batch: dict
  ) -> tuple[jax.Array, ...]:
    both = jnp.stack(self._forward(params, batch), axis=1)
    # As wide as the longest rows, whatever the batch was cut to.
    width = max(a['input_ids'].shape[1] for a in self._data.arrays.values())
    missing = width - both.shape[-1]
    both = jnp.pad(both, ((0, 0), (0, 0), (0, missing)))
    return both.reshape(len(both), -1), batch['row_id'], batch['weight']

  def answers(self, params: Any) -> dict[str, Answers]:
    """What the model says, by split to evaluate.

    Those of the newest parameters are kept, for the files are of these.
    """
    leaf = jax.tree.leaves(params)[0]
    if self._newest is not None and self._newest[0]() is leaf:
      return self._newest[1]
    found = {
      split: self.answers_in(params, split, self._data.windows[split])
      for split in self._data.scored
    }
    self._newest = weakref.ref(leaf), found
    return found

  def answers_in(
    self,
    params: Any,
    split: str,
    windows: Windows,
    word_noise: WordNoise | None = None,
  ) -> Answers:
    """What the model says to the questions of a split, however asked.

    Args:
      params: of the model.
      split: one to evaluate.
      windows: of its questions, from `SpanData`.
      word_noise: as for `outputs_of_rows`; all windows of a question get the
        same at the same place.
    """
    questions, rows = self._data.splits[split], windows.rows
    if word_noise is not None:
      numbers = np.array(questions.numbers, np.int32)
      rows = rows | {'example_id': numbers[windows.question]}
    outputs = self.outputs_of_rows(params, rows, word_noise)
    starts, ends = outputs.reshape(len(outputs), 2, -1).swapaxes(0, 1)
    return answers_of(questions, windows, starts, ends, self._config)

  def evaluate(self, params: Any) -> Evaluation:
    """The metrics of every split to evaluate."""
    return Evaluation(
      {
        split: answer_metrics.evaluate(
          answers.predictions,
          self._data.splits[split].gold_texts,
          answers.null_odds,
        )
        for split, answers in self.answers(params).items()
      }
    )

  def report(self, metrics: dict[str, dict[str, float]]) -> dict[str, Any]:
    """What `results.json` says of a model with these metrics.

    Args:
      metrics: by split, from `evaluate`.

    Returns:
      The task, the metrics, how many questions and windows each split has,
      and the splits of which not a word was found.
    """
    data = self._data
    sizes = {split: len(questions) for split, questions in data.splits.items()}
    return {
      'task': data.name,
      'metrics': metrics,
      'examples': sizes,
      'windows': {s: len(a['lengths']) for s, a in data.arrays.items()},
      'majority': {},
      'collapsed': metrics_lib.collapsed_splits(metrics, {}, sizes),
    }

  def leave_predictions(self, params: Any, workdir: pathlib.Path) -> None:
    """Writes what run_squad.py leaves.

    Args:
      params: of the model.
      workdir: `predictions.json` goes there, which the official scripts read,
        `nbest_predictions.json`, and of version 2.0 `null_odds.json`.
    """
    for answers in self.answers(params).values():
      write_json(workdir / 'predictions.json', answers.predictions)
      write_json(workdir / 'nbest_predictions.json', answers.nbest)
      if answers.null_odds is not None:
        write_json(workdir / 'null_odds.json', answers.null_odds)
