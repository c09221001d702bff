"""The model of a task as compiled functions: its loss, outputs and metrics.

What fine-tuning and evaluating share, so that both report the same numbers.
"""

import functools
import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import AbstractMesh, Mesh
from ml_collections import ConfigDict

from shared_bert import recipes
from shared_bert.data import batches as batches_lib
from shared_bert.data import glue, packed_batches
from shared_bert.data.glue import Task
from shared_bert.model import parameters
from shared_bert.model.config import BertConfig
from shared_bert.model.heads import BertForSequenceClassification
from shared_bert.model.perturbation import WordNoise, noisy_words
from shared_bert.span_data import SpanData
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
  """

  def __init__(
    self,
    model: BertConfig,
    data: TaskData | SpanData,
    config: ConfigDict,
    mesh: Mesh | AbstractMesh,
    *,
    packed_shape: packed_batches.Shape | None = None,
  ):
    """Compiles nothing yet.

    Args:
      model: what to build.
      data: encoded.
      config: of the run, for the sizes of evaluation batches.
      mesh: of the devices; for shapes alone an abstract one will do.
      packed_shape: of packed rows to evaluate, where there will be others than
        those of `data`; otherwise the one that suits these best.
    """
    self._model = model
    self._data: Any = data  # of the kind that the class is for
    self._config, self._mesh = config.data, mesh
    self._shape = packed_shape
    self.make: Callable[[nnx.Rngs], nnx.Module] = self._make
    self._apply = parameters.applier(self.make)

  def _make(self, rngs: nnx.Rngs) -> nnx.Module:
    return BertForSequenceClassification(
      self._model, self._data.task.num_outputs, rngs=rngs
    )

  @property
  def metric_names(self) -> tuple[str, ...]:
    """Of the sums that `loss_sums` gives."""
    return ('loss',) if self._data.task.is_regression else ('loss', 'accuracy')

  def _forward(self, params: Any, batch: dict, key: Any = None) -> Any:
    packed = {k: batch[k] for k in ('first_positions',) if k in batch}
    return self._apply(
      params,
      batch['input_ids'],
      batch['token_type_ids'],
      batch['segment_ids'],
      key,
      **packed,
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
      self._mesh, lambda params, batch: self._outputs_and_rows(params, batch)
    )

  def _outputs_and_rows(
    self, params: Any, batch: dict
  ) -> tuple[jax.Array, ...]:
    return (
      self._forward(params, batch).reshape(-1, self._data.task.num_outputs),
      batch['row_id'].reshape(-1),
      batch['weight'].reshape(-1),
    )

  @functools.cached_property
  def _noisy_outputs(self) -> Callable[..., tuple[jax.Array, ...]]:
    def outputs(noise: tuple, params: Any, batch: dict) -> tuple:
      params, input_ids = noisy_words(
        params,
        batch['input_ids'],
        batch['segment_ids'],
        batch['example_id'],
        *noise,
      )
      return self._outputs_and_rows(params, batch | {'input_ids': input_ids})

    return mesh_lib.on_mesh(self._mesh, outputs)

  @functools.cached_property
  def _packed_shape(self) -> packed_batches.Shape:
    """One for all splits, so that they share a compilation."""
    if self._shape is not None:
      return self._shape
    arrays = [a for a in self._data.arrays.values() if len(a['lengths'])]
    return packed_batches.Shape.of(arrays, self._config.length_buckets)

  @functools.cached_property
  def _packed_eval_rows(self) -> int:
    """Rows of a packed batch: fewer where no split that is read fills one."""
    data, size = self._data, self._mesh.size
    most = max(
      packed_batches.rows_for(arrays['lengths'], self._packed_shape)
      for split, arrays in data.arrays.items()
      if split != 'train' or data.scores_train
    )
    return min(self._config.eval_batch_size, -(-most // size) * size)

  def _eval_batches(
    self, arrays: Mapping[str, np.ndarray]
  ) -> Iterator[dict[str, np.ndarray]]:
    config = self._config
    # Without labels, which not every split has: one compilation for all.
    arrays = {name: a for name, a in arrays.items() if name != 'labels'}
    part_of = mesh_lib.part_of(self._mesh)
    if recipes.packs(config) and len(arrays['lengths']):
      return packed_batches.packed_eval_batches(
        arrays, self._packed_eval_rows, self._packed_shape, part_of
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
    return self.outputs_of_rows(params, self._data.arrays[split])

  def outputs_of_rows(
    self,
    params: Any,
    arrays: Mapping[str, np.ndarray],
    word_noise: WordNoise | None = None,
  ) -> np.ndarray:
    """The model's outputs on rows of its task, whatever split they are of.

    Args:
      params: of the model.
      arrays: of N examples, as `TaskData.arrays` has them, no longer than
        `packed_shape` has room for; with noise also `example_id`, int32 [N].
      word_noise: what is added to the embeddings of words; another compilation
        for all levels of it.

    Returns:
      float32 [N, C], C classes or 1.
    """
    placed = (
      mesh_lib.place_batch(self._mesh, batch)
      for batch in self._eval_batches(arrays)
    )
    outputs = self._outputs
    if word_noise is not None:
      outputs = functools.partial(self._noisy_outputs, word_noise.arrays())
    num_rows = len(arrays['lengths'])
    return evaluation_lib.predict(outputs, params, placed, num_rows)

  def evaluate(self, params: Any) -> Evaluation:
    """The metrics and confusions of every split to evaluate."""
    task, metrics, pictures = self._data.task, {}, {}
    for split, gold in self._data.labels.items():
      outputs = self.outputs_of(params, split)
      predictions = predictions_of(task, outputs)
      metrics[split] = self.metrics_of(split, outputs)
      if not task.is_regression:
        pictures[f'{split}/confusion'] = functools.partial(
          pictures_lib.confusion_matrix,
          metrics_lib.confusion_counts(predictions, gold, task.num_outputs),
          task.label_names,
        )
    return Evaluation(metrics, pictures)

  def metrics_of(self, split: str, outputs: np.ndarray) -> dict[str, float]:
    """The metrics of a split, and the loss, from outputs float32 [N, C]."""
    gold = self._data.labels[split]
    return metrics_lib.evaluate_metrics(
      self._data.metrics_of(split),
      predictions_of(self._data.task, outputs),
      gold,
    ) | {'loss': metrics_lib.mean_loss(outputs, gold)}

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
        self._data.arrays[self._data.scored[0]],
        self._config.eval_batch_size,
        self._config.length_buckets,
        part_of=mesh_lib.part_of(self._mesh),
      )
    )
    return evaluation_lib.watch_attention(
      self._model, self._mesh, mesh_lib.place_batch(self._mesh, sample)
    )

  def leave_predictions(self, params: Any, workdir: pathlib.Path) -> None:
    """Writes what the config wants to be written, into `predictions`.

    Args:
      params: of the model.
      workdir: of the run.
    """
    if self._config.predict_test:
      self.write_predictions(params, workdir / 'predictions')

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
