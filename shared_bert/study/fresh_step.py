"""The step of a run before anything is trained, to be timed."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from shared_bert.masked_model import MaskedModel
from shared_bert.model import parameters
from shared_bert.training import optimizer as optimizer_lib
from shared_bert.training.step import TrainStep, init_state, make_train_step

if TYPE_CHECKING:  # start-up is measured without it
  from shared_bert.task_model import TaskModel


def fresh_step(
  config: ConfigDict,
  trained: 'MaskedModel | TaskModel',
  mesh: Mesh,
  prepare: Callable[[Any], Any] | None = None,
) -> tuple[Any, TrainStep]:
  """Fresh parameters and the compiled step of a run.

  Args:
    config: of the run.
    trained: its model.
    mesh: of the devices.
    prepare: of a batch; None makes masks as a pre-training run does.

  Returns:
    The state before the first step, and the step.
  """
  optimizer = optimizer_lib.of_config(config.train)
  key = jax.random.key(config.seed)
  state = init_state(
    lambda: parameters.initialise(trained.make, key),
    optimizer,
    trained.metric_names,
    mesh,
  )
  if prepare is None:
    assert isinstance(trained, MaskedModel)
    prepare = trained.prepare
  step = make_train_step(
    trained.loss_sums,
    optimizer,
    mesh,
    seed=config.seed,
    log_every=2**30,
    prepare=prepare,
  )
  return state, step
