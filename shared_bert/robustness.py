"""How a fine-tuned model holds under noise and in other domains."""

import copy
import pathlib
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from shared_bert import evaluate as evaluate_lib
from shared_bert import robustness_config, robustness_results, span_robustness
from shared_bert.data import noise as noise_lib
from shared_bert.data import outside as outside_lib
from shared_bert.data.encoding import encode_examples
from shared_bert.data.glue_tasks import Task
from shared_bert.data.packed_batches import Shape
from shared_bert.errors import UserError
from shared_bert.interop.opening import is_foreign, open_model
from shared_bert.interop.saved import SavedModel
from shared_bert.model.perturbation import WordNoise
from shared_bert.robustness_config import EMBEDDING
from shared_bert.span_data import SpanData
from shared_bert.span_model import SpanModel
from shared_bert.task_data import TaskData
from shared_bert.task_model import TaskModel, predictions_of
from shared_bert.training import bootstrap, processes
from shared_bert.training import mesh as mesh_lib
from shared_bert.training import metrics as metrics_lib
from shared_bert.training import run as run_lib
from shared_bert.training import workdir as workdir_lib
from shared_bert.training.logging import say
from shared_bert.training.run import Options

# Rows with noise that are in memory at once: 100 MB at 128 tokens.
_ROWS = 2**16

Arrays = dict[str, np.ndarray]


@workdir_lib.alone_in_workdir
def robustness(
  config: ConfigDict, workdir: pathlib.Path, options: Options = Options()
) -> dict[str, Any]:
  """Measures the model `init_from` and shows what came out.

  Args:
    config: of `robustness_defaults`, validated.
    workdir: where the results go.
    options: of the command.

  Returns:
    The results, as in `results.json`.

  Raises:
    UserError: for what the user can mend.
  """
  recorded = config.to_dict()
  if not is_foreign(config.init_from):  # which brings the length of its rows
    del recorded['data']['seq_len']
  finished = workdir_lib.claim(workdir, recorded)
  if finished is not None:
    say(f'{workdir} is complete; nothing to do.')
    robustness_results.show(finished)
    return finished
  results = measure(config, workdir, options)
  if not options.dry_run:
    robustness_results.show(results)
  results = run_lib.finish(workdir, results, options)
  for name, what in (
    (robustness_results.PREDICTIONS, 'by example'),
    (robustness_results.PICTURE, 'curves'),
  ):
    if (workdir / name).exists():
      say(f'{what:12}{workdir / name}')
  return results


def measure(
  config: ConfigDict, workdir: pathlib.Path, options: Options = Options()
) -> dict[str, Any]:
  """Scores a model at every level of every kind of noise, and outside.

  Writes `robustness.npz`, every prediction, and `robustness.png`, the curves.
  All of it computes with one compiled shape of rows, twice where embeddings get
  noise (without `data.packing`, and of questions, with one for each of
  `data.length_buckets`).

  Args:
    config: of `robustness_defaults`, validated.
    workdir: a folder that is there.
    options: of a command.

  Returns:
    What `results.json` says: of the model and its metrics without noise as of
    `job='eval'`; `noise` by split and kind; and `outside` by set.

  Raises:
    UserError: for a model of masked words, for data that nobody names, and for
      files that are missing or hold what they should not.
  """
  started = time.monotonic()
  config = copy.deepcopy(config)
  saved = open_model(config.init_from).cut_to_vocabulary()
  if is_of_questions := saved.head == 'question_answering':
    robustness_config.with_questions_of(config, saved.run)
  model_config, mesh, config = evaluate_lib.set_up(saved, config)
  if not is_of_questions:
    robustness_config.with_data_of(config, saved.run)
  saved, data = evaluate_lib.task_rows(
    config, saved, mesh, options, only_dev=True
  )
  params = mesh_lib.place(mesh, saved.params)
  outside: dict[str, Any] = {}
  if isinstance(data, SpanData):
    model = SpanModel(model_config, data, config, mesh)
    metrics = model.evaluate(params).metrics
    by_split, kept = span_robustness.under_noise(
      config, saved, data, model, params
    )
  else:
    if not data.labels:
      raise UserError(
        f'{data.task.name} has no labelled split here to measure on: name one '
        'in data.splits, or a labelled file in data.dev_file.'
      )
    sets = outside_sets(config, data.task)
    shape = Shape.of_any(config.data.seq_len)
    model = TaskModel(model_config, data, config, mesh, packed_shape=shape)
    metrics, by_split, kept = _under_noise(config, saved, data, model, params)
    outside, arrays = _outside(
      config, saved, data, model, params, sets, options
    )
    kept |= arrays

  levels = tuple(config.noise.levels)
  kept = {'levels': np.array(levels)} | kept
  processes.on_first(
    lambda: robustness_results.write(workdir, levels, by_split, kept)
  )
  return {
    'job': 'robustness',
    'seconds': time.monotonic() - started,
    **evaluate_lib.facts_of(saved),
    **model.report(metrics),
    'noise': {
      'levels': list(config.noise.levels),
      'seed': config.noise.seed,
      'resamples': config.noise.resamples,
      'curves': by_split,
    },
    'outside': outside,
  }


def _under_noise(
  config: ConfigDict,
  saved: SavedModel,
  data: TaskData,
  model: TaskModel,
  params: Any,
) -> tuple[dict[str, dict[str, float]], dict[str, Any], Arrays]:
  """Metrics without noise, curves, and predictions to be kept, by split."""
  metrics, by_split, kept = {}, {}, {}
  for split, labels in data.labels.items():
    outputs = model.outputs_of(params, split)
    metrics[split] = model.metrics_of(split, outputs)
    found = {}
    for kind in config.noise.kinds:
      noisy = _noisy_outputs(kind, config, saved, data, split, model, params)
      found[kind] = np.stack(
        [predictions_of(data.task, each) for each in (outputs, *noisy)]
      )
    by_split[split] = _curves(config, data, split, found)
    kept |= {f'{split}/{kind}': each for kind, each in found.items()}
    kept[f'{split}/labels'] = labels
    kept[f'{split}/ids'] = np.array(data.splits[split].ids)
  return metrics, by_split, kept


def _noisy_outputs(
  kind: str,
  config: ConfigDict,
  saved: SavedModel,
  data: TaskData,
  split: str,
  model: TaskModel,
  params: Any,
) -> list[np.ndarray]:
  """Outputs float32 [N, C] at each level but the first."""
  levels, seed = list(config.noise.levels[1:]), config.noise.seed
  examples, tokenizer = data.splits[split], saved.tokenizer
  if kind == EMBEDDING:
    # On the device, where ids have 32 bits.
    ids = (np.array(examples.ids) % 2**31).astype(np.int32)
    spared = (tokenizer.cls_id, tokenizer.sep_id)
    arrays = data.arrays[split] | {'example_id': ids}
    return [
      model.outputs_of_rows(params, arrays, WordNoise(seed, level, spared))
      for level in levels
    ]
  found: list[np.ndarray] = []
  # Levels share batches, of which only the last is not full.
  together = max(1, _ROWS // len(examples))
  for start in range(0, len(levels), together):
    some = levels[start : start + together]
    arrays = noise_lib.noisy_rows(
      kind, examples, some, seed, tokenizer, config.data.seq_len
    )
    outputs = model.outputs_of_rows(params, arrays)
    found += np.split(outputs, len(some))
  return found


def _curves(
  config: ConfigDict,
  data: TaskData,
  split: str,
  predictions: Mapping[str, np.ndarray],
) -> dict[str, Any]:
  """The primary metric by level and its area, by kind, with intervals.

  Args:
    config: of the job.
    data: of the task.
    split: one with labels.
    predictions: [K, N] by kind, at K levels.
  """
  if not predictions:
    return {}
  noise, labels = config.noise, data.labels[split]
  metric = data.metrics_of(split)[0]
  samples = bootstrap.metric_samples(
    metric,
    np.concatenate(list(predictions.values())),
    labels,
    count=noise.resamples,
    seed=noise.seed,
  )
  score = metrics_lib.METRICS[metric]
  return robustness_results.curves_of(
    metric,
    noise.levels,
    {
      kind: np.array([score(one, labels) for one in each])
      for kind, each in predictions.items()
    },
    samples,
  )


def outside_sets(
  config: ConfigDict, task: Task
) -> list[tuple[outside_lib.OutsideSet, pathlib.Path, Any]]:
  """Every set to score, with its file and examples; says what is not there.

  Args:
    config: of `robustness_defaults`, validated; of its `data` what the files of
      `outside.files` are like is read.
    task: of the model.

  Raises:
    UserError: as `data/outside.py` for a folder, a set or a file.
  """
  outside, sets = config.outside, []
  if outside.dir:
    found = outside_lib.find(outside.dir, task.name, outside.sets)
    if not found:
      say(f'outside     nothing in {outside.dir} is for a model of {task.name}')
    for row, path in found:
      sets.append((path, *outside_lib.load(row, path)))
  for file in outside.files:
    row = outside_lib.own_set(
      file,
      task,
      config.data.text_columns,
      config.data.label_column,
      config.data.label_names,
    )
    sets.append(
      (pathlib.Path(file), *outside_lib.load(row, file, 'outside.files'))
    )
  names = [row.name for _, row, _ in sets]
  for name in names:
    if names.count(name) > 1:
      raise UserError(
        f'outside.files: two sets would be called {name!r}: rename a file.'
      )
  return [(row, path, examples) for path, row, examples in sets]


def _outside(
  config: ConfigDict,
  saved: SavedModel,
  data: TaskData,
  model: TaskModel,
  params: Any,
  sets: list[tuple[outside_lib.OutsideSet, pathlib.Path, Any]],
  options: Options,
) -> tuple[dict[str, Any], Arrays]:
  """What is said of each set, and predictions to be kept."""
  outside, kept = {}, {}
  for row, path, examples in sets:
    arrays = encode_examples(
      saved.tokenizer, examples.text_a, examples.text_b, config.data.seq_len
    ) | {'labels': examples.labels, 'ids': np.array(examples.ids)}
    if options.dry_run:
      few = config.data.eval_batch_size
      arrays = {name: array[:few] for name, array in arrays.items()}
    labels, ids = arrays.pop('labels'), arrays.pop('ids')
    folded = outside_lib.fold(row, model.outputs_of_rows(params, arrays))
    predictions = predictions_of(data.task, folded)
    outside[row.name] = _scores(config, row, path, predictions, labels)
    kept[f'outside/{row.name}'] = predictions[None]
    kept[f'outside/{row.name}/labels'] = labels
    kept[f'outside/{row.name}/ids'] = ids
  return outside, kept


def _scores(
  config: ConfigDict,
  row: outside_lib.OutsideSet,
  path: pathlib.Path,
  predictions: np.ndarray,
  labels: np.ndarray,
) -> dict[str, Any]:
  """What is said of a set."""
  samples = bootstrap.metric_samples(
    row.metrics[0],
    predictions[None],
    labels,
    count=config.noise.resamples,
    seed=config.noise.seed,
  )
  majority = metrics_lib.majority_rates({'set': labels}, not row.labels)
  return {
    'metric': row.metrics[0],
    'metrics': metrics_lib.evaluate_metrics(row.metrics, predictions, labels),
    'interval': list(bootstrap.interval(samples[:, 0])),
    'majority': majority.get('set'),
    'examples': len(labels),
    'classes': len(row.labels) or 1,
    'file': str(path),
  }
