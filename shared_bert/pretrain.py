"""Pre-training on masked words, from text to a checkpoint."""

import dataclasses
import math
import pathlib
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from shared_bert import config as config_lib
from shared_bert import run_plan, train_validation
from shared_bert.data import batches as batches_lib
from shared_bert.data import corpus as corpus_lib
from shared_bert.data import masking, toy
from shared_bert.data.corpus import Corpus
from shared_bert.data.tokenizer import Tokenizer
from shared_bert.distillation import open_teacher
from shared_bert.errors import UserError
from shared_bert.interop.saved import SavedModel
from shared_bert.interop.starting import Imported, open_start, weighted_by
from shared_bert.masked_model import MaskedModel, arrays_of
from shared_bert.model import flops, parameters
from shared_bert.model.config import BertConfig
from shared_bert.training import mesh as mesh_lib
from shared_bert.training import optimizer as optimizer_lib
from shared_bert.training import processes
from shared_bert.training import run as run_lib
from shared_bert.training import workdir as workdir_lib
from shared_bert.training.evaluation import Evaluation
from shared_bert.training.logging import say
from shared_bert.training.loop import LoopSettings
from shared_bert.training.run import Options
from shared_bert.training.schedules import schedule_of_config
from shared_bert.training.step_folders import Checkpoint


@workdir_lib.alone_in_workdir
def pretrain(
  config: ConfigDict, workdir: pathlib.Path, options: Options = Options()
) -> dict[str, Any]:
  """Runs the job to its end, from where the workdir stands.

  Args:
    config: of `config.pretrain_defaults`, validated.
    workdir: of the run.
    options: of the command, apart from what is computed.

  Returns:
    The results, as in `results.json`.

  Raises:
    UserError: for what the user can mend.
    Preempted: after a signal, once the state is saved.
  """
  finished = workdir_lib.claim(
    workdir, config_lib.recorded(config), usual=config_lib.usual_model()
  )
  if finished is not None:
    say(f'{workdir} is complete; nothing to do.')
    run_lib.show(workdir, finished)
    return finished

  # What can be known before text is prepared, which may take hours.
  start = None
  if config.init_from:
    start = open_start(config.init_from, config.model)
  devices = mesh_lib.find_devices()
  train = config.train
  train_validation.check_shares(config, len(devices))
  platform = jax.default_backend()
  train_validation.check_backend(config, platform)

  # Data: rows of tokens, the same for every run on these corpora.
  corpora = open_corpora(config, start)
  tokenizer = corpora[-1].tokenizer
  train_validation.check_backend(config, platform, corpora)

  # Model: its loss and metrics as compiled functions, on each stage's rows.
  model = config_lib.model_config(config, tokenizer.vocab_size, platform)
  mesh = mesh_lib.mesh_for(config.mesh.fsdp, model, devices)
  rows = [
    batches_lib.Rows(
      arrays_of(corpus.train, corpus.train_labels),
      train.batch_size,
      config.seed,
      part_of=mesh_lib.part_of(mesh),
    )
    for corpus in corpora
  ]
  longest = max(corpus.seq_len for corpus in corpora)
  teacher = open_teacher(config, model, tokenizer, longest)
  masked_models = [
    MaskedModel(
      model,
      config,
      tokenizer,
      heldout,
      mesh,
      heldout_labels,
      teacher=teacher,
    )
    for heldout, heldout_labels in (
      _heldout(config, corpus, options) for corpus in corpora
    )
  ]
  masked_model = masked_models[0]
  start = weighted_by(
    start,
    len(corpora[0].train),
    lambda chosen: masked_model.unmasked(corpora[0].train[chosen]),
  )

  def make_params():
    key = jax.random.fold_in(jax.random.key(config.seed), 0)
    return parameters.initialise(masked_model.make, key)

  def batches(phase, first, last):
    of_stage = rows[phase.stage]
    return batches_lib.prefetch(
      lambda step: of_stage.examples(phase.example(step), phase.batch_size),
      first,
      last,
      masked_model.place,
    )

  def evaluate(params, phase):
    """Of every stage begun: its rows have a length the model has seen."""
    if len(corpora) == 1:
      return masked_model.evaluate(params)
    begun = list(zip(corpora, masked_models, strict=True))[: phase.stage + 1]
    return Evaluation(
      {
        f'{split}_{corpus.seq_len}': values
        for corpus, of_stage in begun
        for split, values in of_stage.evaluate(params).metrics.items()
      }
    )

  def evaluate_start(params, phase):
    """What is trained on, beside what it was fitted to."""
    found = evaluate(params, phase).metrics
    if isinstance(start, Imported) and start.saved.predicts_words:
      as_ours = dataclasses.replace(start.saved.config, dtype=model.dtype)
      original = on_heldout(
        as_ours, start.saved, config, corpora[0], mesh, options
      )
      placed = mesh_lib.place(mesh, start.saved.params)
      for values in original.evaluate(placed).metrics.values():
        found['original'] = values
    return Evaluation(found)

  # Plan and run.
  course = config_lib.course_of(
    config, [corpus.seq_len for corpus in corpora], rows[0].num_rows
  )
  schedule = schedule_of_config(
    train, config_lib.warmup_of(config, course.steps)
  )
  told = [
    f'text        {of_stage.num_rows:,} rows of {corpus.seq_len} tokens, '
    f'{its_model.num_heldout:,} held out; {tokenizer.vocab_size:,} '
    f'word pieces; {config.data.mask_ratio:.0%} masked'
    + (', whole words' if config.data.whole_word_mask else '')
    + ('; pairs: next sentences too' if corpus.has_pairs else '')
    for corpus, of_stage, its_model in zip(
      corpora, rows, masked_models, strict=True
    )
  ]
  if teacher is not None:
    told.append(
      f'taught by   {config.init_from}: {train.distill_weight:.0%} of the '
      f'loss, at temperature {train.distill_temperature:g}'
    )
  plan = run_plan.describe(
    config,
    workdir,
    model,
    mesh,
    course=course,
    num_rows=rows[0].num_rows,
    data=told,
  )
  say(plan)
  fingerprint = '+'.join(corpus.fingerprint for corpus in corpora)
  outcome = run_lib.run(
    config.to_dict(),
    workdir,
    mesh,
    LoopSettings(
      name='pre-train',
      course=course,
      log_every=train.log_every,
      evaluate_every=train.eval_every,
      checkpoint_every=train.checkpoint_every,
    ),
    start=start,
    make_params=make_params,
    loss_function=masked_model.loss_sums,
    prepare=masked_model.prepare,
    frozen=() if teacher is None else (teacher.placed(mesh),),
    metric_names=masked_model.metric_names,
    optimizer=optimizer_lib.of_config(train),
    learning_rate=schedule,
    batches=batches,
    evaluate=evaluate,
    evaluate_start=evaluate_start,
    attention_entropy=masked_model.attention_entropy,
    flops_per_token=lambda length: flops.train_flops_per_token(
      model,
      length,
      masking.default_num_predictions(length, config.data.mask_ratio),
    ),
    derived=_with_perplexity,
    identity={
      'data_fingerprint': fingerprint,
      'tokenizer_sha256': tokenizer.sha256,
      **({} if teacher is None else {'teacher': teacher.fingerprint}),
    },
    files=tokenizer.files(),
    plan=plan,
    options=options,
  )
  return run_lib.finish(
    workdir,
    {
      'job': 'pretrain',
      'attention': model.attention,
      'steps': outcome.steps,
      'seconds': outcome.seconds,
      'training_seconds': outcome.training_seconds,
      'parameters': parameters.count(outcome.params),
      **masked_model.report(outcome.evaluation),
      'data_fingerprint': fingerprint,
    },
    options,
  )


def _with_perplexity(means: dict[str, float]) -> dict[str, float]:
  """Means of the training metrics, and the perplexity of masked words."""
  loss = means.get('masked_loss', means['loss'])
  return means | {'perplexity': math.exp(min(loss, 700.0))}


def _heldout(
  config: ConfigDict, corpus: Corpus, options: Options
) -> tuple[np.ndarray, np.ndarray | None]:
  """The held-out rows to evaluate on, ids [N, S], and labels [N] of pairs."""
  count = config.data.heldout_rows or len(corpus.heldout)
  if options.dry_run:
    count = min(count, config.train.batch_size)
  labels = corpus.heldout_labels
  return corpus.heldout[:count], None if labels is None else labels[:count]


def on_heldout(
  model: BertConfig,
  saved: SavedModel,
  config: ConfigDict,
  corpus: Corpus,
  mesh: Mesh,
  options: Options,
) -> MaskedModel:
  """A model that is there, to be evaluated on the held-out rows of a corpus.

  Args:
    model: how to compute it.
    saved: with a head for words, and for next sentences if it has one.
    config: of the run.
    corpus: with the model's vocabulary.
    mesh: of the devices.
    options: of the command; a dry run takes few rows.
  """
  heldout, labels = _heldout(config, corpus, options)
  return MaskedModel(
    model,
    config,
    saved.tokenizer,
    heldout,
    mesh,
    labels,
    has_next_sentence=saved.head == 'pretraining',
  )


def open_corpora(
  config: ConfigDict, start: Checkpoint | SavedModel | None
) -> list[Corpus]:
  """The corpora that `data` names, one a stage, of one vocabulary.

  Args:
    config: of a pre-training run.
    start: the model that will read them, or None.

  Raises:
    UserError: if one is not there, the last was made for another
      `data.seq_len`, the vocabularies differ, or rows are longer than the
      positions there are.
  """
  *earlier, last = config_lib.corpora_of(config)
  corpora = [corpus_lib.open_corpus(folder) for folder in earlier]
  corpora.append(open_corpus(config, start, last))
  for folder, corpus in zip(earlier, corpora, strict=False):
    if corpus.tokenizer.sha256 != corpora[-1].tokenizer.sha256:
      raise UserError(
        f'{folder} and {last} have different vocabularies: prepare the one '
        'with that of the other, --vocab=….'
      )
    if corpus.has_pairs != corpora[-1].has_pairs:
      raise UserError(
        f'of {folder} and {last} one has rows of sentence pairs and the other '
        'has not: prepare both with --pairs, or neither.'
      )
    if corpus.seq_len > config.model.max_positions:
      raise UserError(
        f'the rows of {folder} have {corpus.seq_len} tokens, and '
        f'model.max_positions={config.model.max_positions}: raise it.'
      )
  return corpora


def open_corpus(
  config: ConfigDict, start: Checkpoint | SavedModel | None, folder: str
) -> Corpus:
  """One corpus: embedded, prepared, or prepared now.

  Args:
    config: of a pre-training run.
    start: the model that will read it, or None.
    folder: of the corpus; empty to prepare `data.text`.

  Raises:
    UserError: if there is none, it was made for another `data.seq_len`, or
      the model has another vocabulary.
  """
  # An evaluation takes rows as they are.
  seq_len = None if config.job == 'eval' else config.data.seq_len
  corpus = _find_corpus(config.data, folder, seq_len)
  ours = corpus.tokenizer.sha256
  if start and Tokenizer.load(start.path).sha256 != ours:
    raise UserError(
      f'init_from={config.init_from} has another vocabulary than the text: '
      f'prepare it with that one, --vocab={start.path}.'
    )
  return corpus


def _find_corpus(data: ConfigDict, folder: str, seq_len: int | None) -> Corpus:
  if data.source == 'toy':
    return toy.toy_corpus(data.seq_len)
  if folder:
    return corpus_lib.open_corpus(folder, seq_len=seq_len)
  from shared_bert.prepare import prepare_text

  prepared = processes.on_first(
    lambda: str(
      prepare_text(
        data.text,
        data.dir,
        vocab=data.vocab,
        vocab_size=data.vocab_size,
        seq_len=data.seq_len,
        text_key=data.text_key,
      )
    )
  )
  return corpus_lib.open_corpus(prepared, seq_len=data.seq_len)
