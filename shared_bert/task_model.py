"""The model of a task as compiled functions: its loss, outputs and metrics.

What fine-tuning and evaluating share, so that both report the same numbers.
"""

import functools
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import AbstractMesh, Mesh
from ml_collections import ConfigDict

from shared_bert.data import batches as batches_lib
from shared_bert.data import glue, packed_batches
from shared_bert.data.glue import Task
from shared_bert.model import parameters
from shared_bert.model.config import BertConfig
from shared_bert.model.heads import BertForSequenceClassification
from shared_bert.task_data import TaskData
from shared_bert.training import evaluation as evaluation_lib
from shared_bert.training import mesh as mesh_lib
from shared_bert.training import metrics as metrics_lib
from shared_bert.training import pictures as pictures_lib
from shared_bert.training import processes
from shared_bert.training.evaluation import Evaluation


class TaskModel:
  """A sentence (pair) classifier or regressor on the splits of a task.

  Attributes:
    make: `make(rngs)` builds the module, as `parameters` wants it.
    metric_names: of the sums that `loss_sums` gives.
  """

  def __init__(
    self,
    model: BertConfig,
    data: TaskData,
    config: ConfigDict,
    mesh: Mesh | AbstractMesh,
  ):
    """Compiles nothing yet.

    Args:
      model: what to build.
      data: encoded.
      config: of the run, for the sizes of evaluation batches.
      mesh: of the devices; for shapes alone an abstract one will do.
    """
    self._model, self._data = model, data
    self._config, self._mesh = config.data, mesh
    self.make = lambda rngs: BertForSequenceClassification(
      model, data.task.num_outputs, rngs=rngs
    )
    self._apply = parameters.applier(self.make)
    self.metric_names = (
      ('loss',) if data.task.is_regression else ('loss', 'accuracy')
    )

  def _forward(self, params: Any, batch: dict, key: Any = None) -> jax.Array:
    return self._apply(
      params,
      batch['input_ids'],
      batch['token_type_ids'],
      batch['segment_ids'],
      key,
      first_positions=batch.get('first_positions'),
    )

  def loss_sums(self, params: Any, batch: dict, key: Any) -> dict:
    """Squared error for scores, cross entropy and accuracy for classes.

    Args:
      params: of the model.
      batch: of `Rows`, ids int32 [B, S] and `labels` [B]; or of `PackedRows`.
      key: of the dropout, or None.

    Returns:
      (sum, weight) by name of `metric_names`.
    """
    outputs, labels = self._forward(params, batch, key), batch['labels']
    weights = batch.get('weight', jnp.ones(labels.shape, jnp.float32))

    def summed(values: jax.Array) -> tuple[jax.Array, jax.Array]:
      return (values * weights).sum(), weights.sum()

    if self._data.task.is_regression:
      return {'loss': summed(jnp.square(outputs[..., 0] - labels))}
    losses = optax.softmax_cross_entropy_with_integer_labels(outputs, labels)
    correct = outputs.argmax(-1) == labels
    return {'loss': summed(losses), 'accuracy': summed(correct)}

  @functools.cached_property
  def _outputs(self) -> Callable[[Any, dict], tuple[jax.Array, ...]]:
    return mesh_lib.on_mesh(
      self._mesh,
      lambda params, batch: (
        self._forward(params, batch).reshape(-1, self._data.task.num_outputs),
        batch['row_id'].reshape(-1),
        batch['weight'].reshape(-1),
      ),
    )

  @functools.cached_property
  def _packed_shape(self) -> packed_batches.Shape:
    """One for all splits, so that they share a compilation."""
    arrays = [a for a in self._data.arrays.values() if len(a['lengths'])]
    return packed_batches.Shape.of(arrays, self._config.length_buckets)

  def _eval_batches(self, split: str) -> Iterator[dict[str, np.ndarray]]:
    config = self._config
    # Without labels, which not every split has: one compilation for all.
    arrays = {
      name: array
      for name, array in self._data.arrays[split].items()
      if name != 'labels'
    }
    part_of = mesh_lib.part_of(self._mesh)
    if config.packing and len(arrays['lengths']):
      return packed_batches.packed_eval_batches(
        arrays, config.eval_batch_size, self._packed_shape, part_of
      )
    return batches_lib.eval_batches(
      arrays,
      config.eval_batch_size,
      buckets=config.length_buckets,
      lengths=arrays['lengths'],
      part_of=part_of,
    )

  def outputs_of(self, params: Any, split: str) -> np.ndarray:
    """The model's outputs on a split, float32 [N, C], C classes or 1."""
    placed = (
      mesh_lib.place_batch(self._mesh, batch)
      for batch in self._eval_batches(split)
    )
    num_rows = len(self._data.arrays[split]['lengths'])
    return evaluation_lib.predict(self._outputs, params, placed, num_rows)

  def evaluate(self, params: Any) -> Evaluation:
    """The metrics and confusions of every split to evaluate."""
    task, metrics, pictures = self._data.task, {}, {}
    for split, gold in self._data.labels.items():
      outputs = self.outputs_of(params, split)
      predictions = predictions_of(task, outputs)
      metrics[split] = metrics_lib.evaluate_metrics(
        self._data.metrics_of(split), predictions, gold
      ) | {'loss': metrics_lib.mean_loss(outputs, gold)}
      if not task.is_regression:
        pictures[f'{split}/confusion'] = functools.partial(
          pictures_lib.confusion_matrix,
          metrics_lib.confusion_counts(predictions, gold, task.num_outputs),
          task.label_names,
        )
    return Evaluation(metrics, pictures)

  def report(self, metrics: dict[str, dict[str, float]]) -> dict[str, Any]:
    """What `results.json` says of a model with these metrics.

    Args:
      metrics: by split, from `evaluate`.

    Returns:
      The task, the metrics, how many examples each split has, the share of
      the commonest class and the splits that the model does no better on.
    """
    data = self._data
    majority = metrics_lib.majority_rates(data.labels, data.task.is_regression)
    sizes = {split: len(examples) for split, examples in data.splits.items()}
    return {
      'task': data.task.name,
      'metrics': metrics,
      'examples': sizes,
      'majority': majority,
      'collapsed': metrics_lib.collapsed_splits(metrics, majority, sizes),
    }

  @functools.cached_property
  def attention_entropy(self) -> Callable[[Any], dict[str, float]]:
    """Parameters to numbers about attention on the first rows to evaluate."""
    sample = next(
      batches_lib.eval_batches(
        self._data.arrays[next(iter(self._data.labels))],
        self._config.eval_batch_size,
        self._config.length_buckets,
        part_of=mesh_lib.part_of(self._mesh),
      )
    )
    return evaluation_lib.watch_attention(
      self._model, self._mesh, mesh_lib.place_batch(self._mesh, sample)
    )

  def write_predictions(
    self, params: Any, folder: pathlib.Path
  ) -> list[pathlib.Path]:
    """Writes the file of every split that can only be predicted.

    Args:
      params: of the model.
      folder: made where there is a file to write.

    Returns:
      The files: for GLUE those of the leaderboard.
    """
    data, files = self._data, []
    for split in data.unlabelled:
      predictions = predictions_of(data.task, self.outputs_of(params, split))
      owner, theirs = data.borrowed.get(split, (data.task, split))
      ids = data.splits[split].ids
      write = functools.partial(
        glue.write_predictions, owner, theirs, ids, predictions, folder
      )
      written = processes.on_first(lambda write=write: str(write()))
      files.append(pathlib.Path(written))
    return files


def predictions_of(task: Task, outputs: np.ndarray) -> np.ndarray:
  """Class ids int [N] or scores float [N] from outputs float32 [N, C]."""
  return outputs[:, 0] if task.is_regression else outputs.argmax(-1)
