"""Pre-training on masked words, from text to a checkpoint."""

import pathlib
from typing import Any

import jax
from ml_collections import ConfigDict

from shared_bert import config as config_lib
from shared_bert import plan as plan_lib
from shared_bert.data import batches as batches_lib
from shared_bert.data import corpus as corpus_lib
from shared_bert.data import toy
from shared_bert.data.corpus import Corpus
from shared_bert.errors import UserError
from shared_bert.masked_model import MaskedModel, arrays_of
from shared_bert.model import parameters
from shared_bert.training import mesh as mesh_lib
from shared_bert.training import optimizer as optimizer_lib
from shared_bert.training import run as run_lib
from shared_bert.training import workdir as workdir_lib
from shared_bert.training.checkpoint import open_checkpoint
from shared_bert.training.logging import say
from shared_bert.training.loop import LoopSettings
from shared_bert.training.run import Options
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
  finished = workdir_lib.claim(workdir, config.to_dict())
  if finished is not None:
    say(f'{workdir} is complete; nothing to do.')
    run_lib.show(workdir, finished)
    return finished

  # What can be known before text is prepared, which may take hours.
  start = open_checkpoint(config.init_from) if config.init_from else None
  mesh = mesh_lib.make_mesh()
  train = config.train
  mesh_lib.check_batch_size(
    'train.batch_size', train.batch_size, mesh, train.accumulation
  )

  # Data: rows of tokens, the same for every run on this corpus.
  corpus = open_corpus(config, start)
  tokenizer = corpus.tokenizer
  rows = batches_lib.Rows(
    arrays_of(corpus.train, corpus.train_labels),
    train.batch_size,
    config.seed,
  )

  # Model: its loss and metrics as compiled functions.
  model = config_lib.model_config(
    config, tokenizer.vocab_size, jax.default_backend()
  )
  heldout = config.data.heldout_rows or len(corpus.heldout)
  if options.dry_run:
    heldout = min(heldout, train.batch_size)
  labels = corpus.heldout_labels
  masked_model = MaskedModel(
    model,
    config,
    tokenizer,
    corpus.heldout[:heldout],
    mesh,
    None if labels is None else labels[:heldout],
  )

  def make_params():
    key = jax.random.fold_in(jax.random.key(config.seed), 0)
    return parameters.initialise(masked_model.make, key)

  # Plan and run.
  total = config_lib.total_steps(config, rows.num_rows)
  warmup = config_lib.warmup_steps(config, total)
  schedule = optimizer_lib.learning_rate_schedule(
    train.schedule, train.learning_rate, warmup, total
  )
  plan = plan_lib.describe(
    config,
    workdir,
    model,
    mesh,
    total_steps=total,
    warmup_steps=warmup,
    num_rows=rows.num_rows,
    data=[
      f'text        {rows.num_rows:,} rows of {corpus.seq_len} tokens, '
      f'{masked_model.num_heldout:,} held out; {tokenizer.vocab_size:,} '
      f'word pieces; {config.data.mask_ratio:.0%} masked'
      + (', whole words' if config.data.whole_word_mask else '')
      + ('' if labels is None else '; pairs: next sentences are predicted too')
    ],
  )
  say(plan)
  outcome = run_lib.run(
    config.to_dict(),
    workdir,
    mesh,
    LoopSettings(
      name='pre-train',
      total_steps=total,
      batch_size=train.batch_size,
      log_every=train.log_every,
      evaluate_every=train.eval_every,
      checkpoint_every=train.checkpoint_every,
    ),
    start=start,
    make_params=make_params,
    loss_function=masked_model.loss_sums,
    prepare=masked_model.prepare,
    metric_names=masked_model.metric_names,
    optimizer=optimizer_lib.of_config(train, schedule),
    learning_rate=schedule,
    batches=lambda start, stop: batches_lib.prefetch(
      rows, start, stop, masked_model.place
    ),
    evaluate=masked_model.evaluate,
    attention_entropy=masked_model.attention_entropy,
    identity={
      'data_fingerprint': corpus.fingerprint,
      'tokenizer_sha256': tokenizer.sha256,
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
      'parameters': parameters.count(outcome.params),
      **masked_model.report(outcome.evaluation),
      'data_fingerprint': corpus.fingerprint,
    },
    options,
  )


def open_corpus(config: ConfigDict, checkpoint: Checkpoint | None) -> Corpus:
  """The corpus that `data` names: embedded, prepared, or prepared now.

  Args:
    config: of a pre-training run.
    checkpoint: whose model will read it, or None.

  Raises:
    UserError: if there is none, it was made for another `data.seq_len`, or
      the checkpoint has another vocabulary.
  """
  corpus = _find_corpus(config.data)
  ours = corpus.tokenizer.sha256
  if checkpoint and checkpoint.metadata.get('tokenizer_sha256') != ours:
    raise UserError(
      f'init_from={config.init_from} has another vocabulary than the text: '
      f'prepare it with that one, --vocab={checkpoint.path / "vocab.txt"}.'
    )
  return corpus


def _find_corpus(data: ConfigDict) -> Corpus:
  if data.source == 'toy':
    return toy.toy_corpus(data.seq_len)
  folder = data.corpus
  if not folder:
    from shared_bert.prepare import prepare_text

    folder = prepare_text(
      data.text,
      data.dir,
      vocab=data.vocab,
      vocab_size=data.vocab_size,
      seq_len=data.seq_len,
    )
  return corpus_lib.open_corpus(folder, seq_len=data.seq_len)
