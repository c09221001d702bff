"""Which data and which model a fine-tuning config means.

There are two kinds: texts with classes or scores, and questions whose answers
are spans. What `finetune`, `evaluate` and a plan ask of them is the same.
"""

from collections.abc import Sequence

from jax.sharding import AbstractMesh, Mesh
from ml_collections import ConfigDict

from shared_bert import span_config, span_data, task_data
from shared_bert.model.config import BertConfig
from shared_bert.span_data import SpanData
from shared_bert.span_model import SpanModel
from shared_bert.task_data import TaskData
from shared_bert.task_model import TaskModel


def load(
  data: ConfigDict,
  *,
  evaluating: bool = False,
  only_dev: bool = False,
  label_names: Sequence[str] | None = None,
) -> TaskData | SpanData:
  """The splits that the `data` keys of a config name, not yet encoded.

  Args:
    data: of a fine-tuning config.
    evaluating: as for `task_data.load_task`.
    only_dev: as for `task_data.load_task`; of spans it does not count.
    label_names: as for `task_data.load_task`; of spans it does not count.

  Raises:
    UserError: for files that are missing or hold what they should not.
  """
  if span_config.asks_for_spans(data):
    return span_data.load(data, evaluating=evaluating)
  return task_data.load_task(
    data, evaluating=evaluating, only_dev=only_dev, label_names=label_names
  )


def model_of(
  model: BertConfig,
  data: TaskData | SpanData,
  config: ConfigDict,
  mesh: Mesh | AbstractMesh,
) -> TaskModel | SpanModel:
  """The model that is for data of its kind; arguments as of `TaskModel`."""
  if isinstance(data, SpanData):
    return SpanModel(model, data, config, mesh)
  return TaskModel(model, data, config, mesh)
