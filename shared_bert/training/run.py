"""From parameters and a loss to a finished run: what both jobs share."""

import contextlib
import dataclasses
import pathlib
import platform
import shlex
from collections.abc import Callable
from importlib import metadata as packages
from typing import Any

import jax
import optax
from jax.sharding import Mesh

import shared_bert
from shared_bert.errors import UserError
from shared_bert.model.flops import peak_flops
from shared_bert.training.checkpoint import Checkpoints
from shared_bert.training.evaluation import Evaluation
from shared_bert.training.logging import MetricLog, say
from shared_bert.training.loop import Batches, LoopSettings, train
from shared_bert.training.phases import Phase, Position
from shared_bert.training.seeds import Seeds, one_of
from shared_bert.training.step import (
  Batch,
  LossFunction,
  abstract_state,
  init_state,
  make_train_step,
)
from shared_bert.training.step_folders import Checkpoint, folders
from shared_bert.training.takeover import check_fit, take_over
from shared_bert.training.workdir import write_json


@dataclasses.dataclass(frozen=True)
class Options:
  """How a command is run, apart from what it computes.

  Attributes:
    dry_run: one step of everything, in a folder that is thrown away.
    profile: first and last training step to trace, counted from 1, or None.
  """

  dry_run: bool = False
  profile: tuple[int, int] | None = None

  @classmethod
  def of_flags(cls, dry_run: bool, profile: str | None) -> 'Options':
    """From the flags of a command.

    Args:
      dry_run: as the attribute.
      profile: `START:STOP`, or None.

    Raises:
      UserError: if `profile` is not two step numbers in order.
    """
    if profile is None:
      return cls(dry_run)
    first, colon, last = profile.partition(':')
    if not (
      colon
      and (first + last).isascii()
      and first.isdecimal()
      and last.isdecimal()
      and 1 <= int(first) <= int(last)
    ):
      raise UserError(
        f'--profile={profile} should be START:STOP, two training steps from 1 '
        'on, the first one first, such as 10:15.'
      )
    return cls(dry_run, (int(first), int(last)))


@dataclasses.dataclass
class Outcome:
  """What a run came to.

  Attributes:
    params: of the last step.
    steps: trained in all.
    evaluation: metrics by split, of the last step.
    best: `step` and `metrics` of the best checkpoint, or None.
    seconds: from start to end, evaluation included, over all its parts.
    training_seconds: of these, those of taking steps and waiting for rows.
  """

  params: Any
  steps: int
  evaluation: dict[str, dict[str, float]]
  best: dict[str, Any] | None
  seconds: float
  training_seconds: float


def run(
  config: dict,
  workdir: pathlib.Path,
  mesh: Mesh,
  settings: LoopSettings,
  *,
  start: Checkpoint | None,
  make_params: Callable[[], Any],
  loss_function: LossFunction,
  prepare: Callable[[Batch], Batch] = lambda batch: batch,
  frozen: tuple[Any, ...] = (),
  metric_names: tuple[str, ...],
  optimizer: optax.GradientTransformation,
  learning_rate: Callable[[float], float],
  batches: Batches,
  evaluate: Callable[[Any, Phase], Evaluation],
  evaluate_start: Callable[[Any, Phase], Evaluation] | None = None,
  attention_entropy: Callable[[Any], dict[str, float]],
  flops_per_token: Callable[[int], float],
  identity: dict[str, Any],
  files: dict[str, bytes],
  plan: str,
  derived: Callable[[dict[str, float]], dict[str, float]] = dict,
  best_metric: str | None = None,
  seeds: Seeds | None = None,
  options: Options = Options(),
) -> Outcome:
  """Trains, or goes on training, what the workdir is of.

  Args:
    config: plain nested dict, claimed for the workdir.
    workdir: of the run.
    mesh: of the devices.
    settings: when the loop does what.
    start: checkpoint whose parameters a new run begins with, or None.
    make_params: traced; the initial parameters.
    loss_function: as for `make_train_step`.
    prepare: as for `make_train_step`.
    frozen: as for `make_train_step`.
    metric_names: those it returns.
    optimizer: of optax; its updates are those of a learning rate of 1.
    learning_rate: of the share of the run that is done.
    batches: (phase, steps done, last step) to placed batches of these steps.
    evaluate: parameters and phase to metrics by split and pictures.
    evaluate_start: the same before the first step, where there is a start.
    attention_entropy: parameters to what is seen of their attention, by name;
      logged before the first step and at each evaluation.
    flops_per_token: of a training step, by the length of its rows.
    identity: fingerprints of data and tokenizer; a checkpoint of others is
      not resumed.
    files: kept in each checkpoint, by name.
    plan: text for TensorBoard.
    derived: means of the training metrics to what is logged of them.
    best_metric: `split/name` that chooses the best checkpoint.
    seeds: that are trained together. Parameters and batches then have a leading
      axis over them, `evaluate` and `attention_entropy` name numbers by
      `of_seed`, and `Seeds.apart` tells the outcome of each.
    options: of the command.

  Raises:
    UserError: if the data changed since the run began, or training fails.
  """
  if options.profile and not options.dry_run:
    first, total = options.profile[0], settings.course.steps
    if total is not None and first > total:
      raise UserError(
        f'--profile begins at step {first:,}, and the run has {total:,}: name '
        'steps of the run.'
      )
  kept_ones = {
    'keep_last': config['train']['keep_checkpoints'],
    'best_metric': best_metric,
  }
  if seeds:
    checkpoints = seeds.checkpoints(workdir, **kept_ones)
  else:
    checkpoints = Checkpoints(workdir / 'checkpoints', **kept_ones)
  settings = dataclasses.replace(
    settings,
    max_rewinds=config['train'].get('max_rewinds', 0),
    profile=options.profile,
    course=settings.course.shortened() if options.dry_run else settings.course,
  )
  skips = config['train'].get('on_nonfinite') == 'rewind'
  count = seeds.count if seeds else None
  parts = (make_params, optimizer, metric_names, mesh, skips, count)
  seconds, kept = 0.0, None
  if (saved := checkpoints.open_latest()) is not None:
    _check_identity(saved.metadata, identity, workdir)
    say(f'resuming from step {saved.step:,} in {checkpoints.directory}')
    state = saved.load(abstract_state(*parts))
    seconds, kept = saved.metadata['seconds'], saved.metadata['position']
  else:
    if any(
      found.suffix != '.saving' for found in folders(checkpoints.directory)
    ):
      raise UserError(
        f'no checkpoint in {checkpoints.directory} is intact: remove the '
        'folder to begin again, or use another --workdir; nothing was touched.'
      )
    if start is not None:
      shapes = jax.eval_shape(make_params)
      check_fit(one_of(shapes) if seeds else shapes, start)
    state = init_state(*parts)
    if start is not None:
      take = seeds.take_over if seeds else take_over
      state['params'] = take(state['params'], start)
  position = Position(settings.course, int(state['step']), kept)
  peak = peak_flops(mesh.devices.flat[0].device_kind)
  train_step = make_train_step(
    loss_function,
    optimizer,
    mesh,
    seed=seeds.numbers if seeds else config['seed'],
    log_every=config['train']['log_every'],
    prepare=prepare,
    skip_nonfinite=skips,
    frozen=frozen,
  )
  opened = {'resume_step': position.step, 'tensorboard': config['tensorboard']}
  if seeds:
    log = seeds.log(**opened)
  else:
    log = MetricLog(workdir, config, **opened)
  # The log goes first: a disk too full for it must not leave a save behind.
  with contextlib.closing(checkpoints), contextlib.closing(log):
    log.write_text(0, 'plan', plan)
    state, evaluation, seconds = train(
      settings,
      state,
      train_step,
      batches,
      position=position,
      evaluate=evaluate,
      evaluate_start=evaluate_start if start else None,
      attention_entropy=attention_entropy,
      learning_rate=learning_rate,
      flops_per_token=flops_per_token,
      peak_flops=None if peak is None else peak * mesh.size,
      derived=seeds.with_means if seeds else derived,
      checkpoints=checkpoints,
      metadata={'config': config, **identity},
      files=files,
      log=log,
      workdir=workdir,
      best_metric=best_metric,
      seconds=seconds,
    )
    log.finish()
  return Outcome(
    state['params'],
    position.step,
    evaluation,
    checkpoints.best_found(),
    seconds,
    position.seconds,
  )


def _check_identity(
  saved: dict, identity: dict[str, Any], workdir: pathlib.Path
) -> None:
  for name, value in identity.items():
    if saved.get(name) != value:
      raise UserError(
        f'{workdir} was trained with another {name.replace("_", " ")} than '
        'is there now: bring the old data back, or start in another '
        '--workdir.'
      )


def versions() -> dict[str, str]:
  """Of Python and the libraries that decide the numbers."""
  names = ('jax', 'jaxlib', 'flax', 'optax', 'orbax-checkpoint', 'numpy')
  return {
    'shared_bert': shared_bert.__version__,
    'python': platform.python_version(),
    **{name: packages.version(name) for name in names},
  }


def finish(
  workdir: pathlib.Path, results: dict[str, Any], options: Options
) -> dict[str, Any]:
  """Writes `results.json`, prints the result table, says where things lie.

  Args:
    workdir: of the run.
    results: with `metrics` by split among them.
    options: of the command; a dry run has no results to print.

  Returns:
    The results with versions and hardware added.
  """
  results = results | {
    'versions': versions(),
    'hardware': {
      'devices': jax.device_count(),
      'kind': jax.devices()[0].device_kind,
      'backend': jax.default_backend(),
      'host': platform.machine(),
    },
  }
  write_json(workdir / 'results.json', results)
  if not options.dry_run:
    show(workdir, results)
  return results


def show(workdir: pathlib.Path, results: dict[str, Any]) -> None:
  """Prints the result table of a finished run and where everything lies."""
  say()
  for split, values in results['metrics'].items():
    for name, value in values.items():
      say(f'{split + " " + name:36}{value:>12.4f}')
  for split in results.get('collapsed', ()):
    chance = results['majority'].get(split)
    share = '' if chance is None else f' ({chance:.1%})'
    say(
      f'{split}: no better than one answer for all{share}: this run cannot '
      'tell one model from another.'
    )
  if results.get('best'):
    best = results['best']
    shown = ', '.join(f'{k} {v:.4f}' for k, v in best['metrics'].items())
    say(f'best checkpoint, for comparison: step {best["step"]:,}: {shown}')
  say(f'{"seconds":36}{results["seconds"]:>12.1f}')
  say()
  for name, what in (
    ('results.json', 'results'),
    ('metrics.jsonl', 'metrics'),
    ('checkpoints', 'checkpoints'),
    ('predictions', 'predictions'),
    ('predictions.json', 'predictions'),
  ):
    if (workdir / name).exists():
      say(f'{what:12}{workdir / name}')
  if results['job'] not in ('eval', 'robustness'):
    say(f'TensorBoard tensorboard --logdir {shlex.quote(str(workdir))}')
