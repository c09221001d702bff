"""Several seeds as one run: their state stacked, everything else apart.

The loop knows nothing of them. A number of one seed is called
`seed-3/loss` (`of_seed`), one of all of them has no such name, and what is
written goes into the folder of each seed: the log, the checkpoints and the
results that a run of this seed alone would leave. So a run that was begun with
others can be gone on with alone, evaluated and started from.
"""

import contextlib
import dataclasses
import pathlib
import re
import statistics
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from shared_bert.errors import UserError
from shared_bert.training import manifest, step_folders
from shared_bert.training.checkpoint import Checkpoints
from shared_bert.training.evaluation import Evaluation
from shared_bert.training.logging import MetricLog, say
from shared_bert.training.step import TrainState, of_seed
from shared_bert.training.takeover import take_over

if TYPE_CHECKING:
  from shared_bert.training.run import Outcome

_OF_A_SEED = re.compile(r'seed-\d+/')
# What may differ between checkpoints of one step.
_OF_A_RUN = ('config', 'seconds', 'position')


@jax.jit
def _at(tree: Any, number: int) -> Any:
  return jax.tree.map(lambda x: x[number], tree)


def one_of(stacked: Any, number: int = 0) -> Any:
  """What one seed has of a tree of arrays [N, ...], or of their shapes."""
  if all(isinstance(x, jax.Array) for x in jax.tree.leaves(stacked)):
    return _at(stacked, number)
  return jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), stacked
  )


def _state_of_one(state: TrainState, number: int = 0) -> TrainState:
  rest = {name: value for name, value in state.items() if name != 'step'}
  return TrainState(step=state['step'], **one_of(rest, number))


def _own(prefix: str, values: Mapping[str, Any]) -> dict[str, Any]:
  """What is of one seed, by its name alone, and what is of all of them."""
  own = {
    name.removeprefix(prefix): value
    for name, value in values.items()
    if name.startswith(prefix)
  }
  return own | {
    name: value
    for name, value in values.items()
    if name not in own and not _OF_A_SEED.match(name)
  }


@dataclasses.dataclass(frozen=True)
class Seeds:
  """Runs that differ in their seed alone, N of them.

  Attributes:
    numbers: the seeds.
    workdirs: of each.
    configs: of each, plain nested dicts.
  """

  numbers: tuple[int, ...]
  workdirs: tuple[pathlib.Path, ...]
  configs: tuple[dict, ...]

  @property
  def count(self) -> int:
    """N."""
    return len(self.numbers)

  @property
  def _prefixes(self) -> list[str]:
    return [of_seed(seed, '') for seed in self.numbers]

  def keys(self) -> jax.Array:
    """A random key of each, [N]."""
    return jnp.stack([jax.random.key(seed) for seed in self.numbers])

  def each(self, stacked: Any) -> Iterator[tuple[int, Any]]:
    """Seed by seed, what it has of a tree of arrays [N, ...]."""
    for number, seed in enumerate(self.numbers):
      yield seed, one_of(stacked, number)

  def take_over(self, params: Any, start: step_folders.Checkpoint) -> Any:
    """`takeover.take_over` for all of them; what stays fresh, does so in each.

    Args:
      params: nested dict of arrays [N, ...] on their devices.
      start: checkpoint that all of them start from.

    Raises:
      UserError: as there.
    """
    fresh = one_of(params)
    chosen = take_over(fresh, start)
    return jax.tree.map(
      lambda ours, first, taken: (
        ours
        if taken is first
        else jax.device_put(
          jnp.broadcast_to(taken, ours.shape).astype(ours.dtype), ours.sharding
        )
      ),
      params,
      fresh,
      chosen,
    )

  def evaluate(
    self, evaluate: Callable[[Any], Evaluation]
  ) -> Callable[[Any], Evaluation]:
    """The evaluation of each, as what it would be alone.

    Seed by seed, by the program of a lone run: an evaluation's batches are
    large enough to keep devices busy, and as large as memory is to allow.

    Args:
      evaluate: parameters of one to its evaluation.
    """

    def of_each(params: Any) -> Evaluation:
      found = Evaluation({})
      for seed, its_params in self.each(params):
        one = evaluate(its_params)
        for kind in ('metrics', 'pictures'):
          getattr(found, kind).update(
            {of_seed(seed, k): v for k, v in getattr(one, kind).items()}
          )
      return found

    return of_each

  def watch(
    self, watch: Callable[[Any], dict[str, float]]
  ) -> Callable[[Any], dict[str, float]]:
    """The numbers of each, from a function of the parameters of one."""
    return lambda params: {
      of_seed(seed, name): value
      for seed, its_params in self.each(params)
      for name, value in watch(its_params).items()
    }

  def with_means(self, values: dict[str, float]) -> dict[str, float]:
    """Numbers of each, and for the line of progress their means."""
    first, *_ = self._prefixes
    names = [n.removeprefix(first) for n in values if n.startswith(first)]
    return values | {
      name: statistics.fmean(values[p + name] for p in self._prefixes)
      for name in names
    }

  # What is annotated as Any stands for what it is named after; the loop knows
  # no other.
  def log(self, **how: Any) -> Any:
    """`MetricLog`s in the folder of each, opened alike."""
    return _Logs(
      {
        prefix: MetricLog(workdir, config, **how)
        for prefix, workdir, config in zip(
          self._prefixes, self.workdirs, self.configs, strict=True
        )
      }
    )

  def checkpoints(
    self, workdir: pathlib.Path, *, keep_last: int, best_metric: str | None
  ) -> Any:
    """`Checkpoints` in the folder of each.

    Args:
      workdir: that all of them are in.
      keep_last: as there; but two at least, so that a kill between the saves
        of two seeds leaves a step that both have.
      best_metric: as there.
    """
    return _Checkpoints(
      self,
      workdir,
      {
        prefix: Checkpoints(
          folder / 'checkpoints', max(2, keep_last), best_metric
        )
        for prefix, folder in zip(self._prefixes, self.workdirs, strict=True)
      },
    )

  def apart(self, outcome: 'Outcome') -> 'list[Outcome]':
    """The outcome of each; of the seconds, all have an equal share."""
    return [
      dataclasses.replace(
        outcome,
        params=one_of(outcome.params, number),
        evaluation=_own(prefix, outcome.evaluation),
        best=_own(prefix, outcome.best or {}).get('best'),
        seconds=outcome.seconds / self.count,
        training_seconds=outcome.training_seconds / self.count,
      )
      for number, prefix in enumerate(self._prefixes)
    ]


class _Logs:
  """As a `MetricLog`, into those of several seeds."""

  def __init__(self, logs: dict[str, MetricLog]):
    self._logs = logs

  def write(self, step: int, split: str, values: dict[str, float]) -> None:
    for prefix, log in self._logs.items():
      if split.startswith(prefix):
        log.write(step, split.removeprefix(prefix), values)
      elif not _OF_A_SEED.match(split):
        log.write(step, split, _own(prefix, values))

  def write_text(self, step: int, name: str, text: str) -> None:
    for log in self._logs.values():
      log.write_text(step, name, text)

  def write_pictures(
    self, step: int, pictures: dict[str, Callable[[], np.ndarray]]
  ) -> None:
    for prefix, log in self._logs.items():
      log.write_pictures(step, _own(prefix, pictures))

  def write_layers(self, step: int, values: dict[str, jax.Array]) -> None:
    for number, log in enumerate(self._logs.values()):
      log.write_layers(step, one_of(values, number))

  def finish(self) -> None:
    for log in self._logs.values():
      log.finish()

  def close(self) -> None:
    with contextlib.ExitStack() as closing:
      for log in self._logs.values():
        closing.callback(log.close)


@dataclasses.dataclass(frozen=True)
class _Checkpoint:
  """As a `Checkpoint`, of those that several seeds have of a step."""

  each: list[step_folders.Checkpoint]

  @property
  def step(self) -> int:
    return self.each[0].step

  @property
  def metadata(self) -> dict[str, Any]:
    """That of the first, with the seconds of all.

    Raises:
      UserError: if they are not of the same data.
    """
    first = dict(self.each[0].metadata)
    for other in self.each[1:]:
      for name, value in first.items():
        if name not in _OF_A_RUN and other.metadata.get(name) != value:
          raise UserError(
            f'{other.path} and {self.each[0].path} were trained with another '
            f'{name.replace("_", " ")} each: go on with seeds_together=False.'
          )
    first['seconds'] = sum(c.metadata['seconds'] for c in self.each)
    first['position'] = first['position'] | {
      'seconds': sum(c.metadata['position']['seconds'] for c in self.each)
    }
    return first

  def load(self, abstract_state: Any) -> Any:
    states = [c.load(_state_of_one(abstract_state)) for c in self.each]
    step = abstract_state['step']
    return jax.tree.map(
      lambda like, *leaves: jax.device_put(np.stack(leaves), like.sharding),
      abstract_state | {'step': ()},
      *[state | {'step': ()} for state in states],
    ) | {'step': jax.device_put(states[0]['step'], step.sharding)}


class _Checkpoints:
  """As `Checkpoints`, those of several seeds, of which all have each step."""

  def __init__(
    self, seeds: Seeds, workdir: pathlib.Path, each: dict[str, Checkpoints]
  ):
    self.directory = workdir
    self._seeds, self._each = seeds, each

  def open_latest(self) -> _Checkpoint | None:
    self.wait()
    found = [step_folders.published(c.directory) for c in self._each.values()]
    for step in sorted(set.intersection(*map(set, found)), reverse=True):
      opened = []
      for by_step in found:
        try:
          opened.append(step_folders.open_intact(by_step[step].path))
        except manifest.Damaged as error:
          step_folders.pass_over(by_step[step].path, error)
      if len(opened) == self._seeds.count:
        return _Checkpoint(opened)
    left = [
      {
        f.step
        for f in step_folders.folders(c.directory)
        if f.suffix != '.saving'
      }
      for c in self._each.values()
    ]
    there = set.union(*left)
    # Killed while the first step was saved, which some have and some have not.
    is_first = len(there) == 1 and not all(left)
    if there and not is_first:
      raise UserError(
        f'the runs in {self.directory} have no intact checkpoint of the same '
        'step: seeds_together=False goes on with each from its own; nothing '
        'was touched.'
      )
    if there:
      say(
        f'not all seeds in {self.directory} were saved yet, at step '
        f'{there.pop():,}: they begin again'
      )
    return None

  def save(
    self,
    step: int,
    state: TrainState,
    metadata: Mapping[str, Any],
    metrics: Mapping[str, float],
    files: Mapping[str, bytes],
  ) -> None:
    count, position = self._seeds.count, metadata['position']
    share = {
      'seconds': metadata['seconds'] / count,
      'position': position | {'seconds': position['seconds'] / count},
    }
    for number, (prefix, checkpoints) in enumerate(self._each.items()):
      checkpoints.save(
        step,
        _state_of_one(state, number),
        {**metadata, **share, 'config': self._seeds.configs[number]},
        _own(prefix, metrics),
        files,
      )

  def wait(self) -> None:
    for checkpoints in self._each.values():
      checkpoints.wait()

  def close(self) -> None:
    with contextlib.ExitStack() as closing:
      for checkpoints in self._each.values():
        closing.callback(checkpoints.close)

  def latest(self) -> int | None:
    newest = self.open_latest()
    return newest.step if newest else None

  def best_found(self) -> dict[str, Any]:
    return {
      f'{prefix}best': checkpoints.best_found()
      for prefix, checkpoints in self._each.items()
    }
