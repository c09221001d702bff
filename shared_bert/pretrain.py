"""Pre-training on masked words, from text to a checkpoint."""

import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

from shared_bert import config as config_lib
from shared_bert import plan as plan_lib
from shared_bert.data import batches as batches_lib
from shared_bert.data import corpus as corpus_lib
from shared_bert.data import masking, toy
from shared_bert.data.corpus import Corpus
from shared_bert.data.tokenizer import Tokenizer
from shared_bert.model import parameters
from shared_bert.model.heads import BertForMaskedLM
from shared_bert.training import evaluation as evaluation_lib
from shared_bert.training import mesh as mesh_lib
from shared_bert.training import optimizer as optimizer_lib
from shared_bert.training import run as run_lib
from shared_bert.training import workdir as workdir_lib
from shared_bert.training.logging import say
from shared_bert.training.loop import LoopSettings

# Held-out rows are masked alike in every run, whatever its seed.
_HELDOUT_MASK_SEED = 20_241_130


def pretrain(config: ConfigDict, workdir: pathlib.Path) -> dict[str, Any]:
  """Runs the job to its end, from where the workdir stands.

  Args:
    config: of `config.pretrain_defaults`, validated.
    workdir: of the run.

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

  # Data: rows of tokens, the same for every run on this corpus.
  corpus = _open_corpus(config)
  tokenizer = corpus.tokenizer
  mesh = mesh_lib.make_mesh()
  train = config.train
  mesh_lib.check_batch_size(
    'train.batch_size', train.batch_size, mesh, train.accumulation
  )
  rows = batches_lib.Rows(
    {'input_ids': corpus.train}, train.batch_size, config.seed
  )
  heldout = corpus.heldout[: config.data.heldout_rows or None]
  if not len(heldout):
    say('no document is held out: the corpus is too small to evaluate on.')

  # Model, and the function whose sums are trained on and evaluated.
  model = config_lib.model_config(
    config, tokenizer.vocab_size, jax.default_backend()
  )
  make = lambda rngs: BertForMaskedLM(model, rngs=rngs)  # noqa: E731
  sums_function = _masked_lm_sums(config, tokenizer, make)

  def make_params():
    key = jax.random.fold_in(jax.random.key(config.seed), 0)
    return parameters.initialise(make, key)

  def place(batch):
    """Marks the padding and puts a batch on the devices."""
    segments = (batch['input_ids'] != tokenizer.pad_id).astype(np.int32)
    return mesh_lib.place_batch(mesh, batch | {'segment_ids': segments})

  evaluate_batch = jax.jit(
    lambda params, batch: sums_function(
      params, batch, None, seed=_HELDOUT_MASK_SEED
    )
  )

  def heldout_batches():
    for batch in batches_lib.eval_batches(
      {'input_ids': heldout}, train.batch_size
    ):
      yield place(batch | {'epoch': np.zeros_like(batch['row_id'])})

  def evaluate(params):
    metrics = {}
    if len(heldout):
      sums = evaluation_lib.evaluate_sums(
        evaluate_batch, params, heldout_batches()
      )
      perplexity = float(np.exp(sums['loss']))
      metrics['heldout'] = sums | {'perplexity': perplexity}
    return evaluation_lib.Evaluation(metrics)

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
      f'{len(heldout):,} held out; {tokenizer.vocab_size:,} word pieces; '
      f'{config.data.mask_ratio:.0%} masked'
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
    make_params=make_params,
    loss_function=lambda params, batch, key: sums_function(
      params, batch, key, seed=config.seed
    ),
    metric_names=('loss', 'accuracy'),
    optimizer=optimizer_lib.of_config(train, schedule),
    learning_rate=schedule,
    batches=lambda start, stop: batches_lib.prefetch(rows, start, stop, place),
    evaluate=evaluate,
    # On the first held-out rows, nothing masked.
    attention_entropy=evaluation_lib.watch_attention(
      model, next(heldout_batches(), None)
    ),
    identity={
      'data_fingerprint': corpus.fingerprint,
      'tokenizer_sha256': tokenizer.sha256,
    },
    files=tokenizer.files(),
    plan=plan,
  )
  return run_lib.finish(
    workdir,
    {
      'job': 'pretrain',
      'attention': model.attention,
      'steps': total,
      'seconds': outcome.seconds,
      'parameters': parameters.count(outcome.params),
      'metrics': outcome.evaluation,
      'data_fingerprint': corpus.fingerprint,
    },
  )


def _open_corpus(config: ConfigDict) -> Corpus:
  """The corpus that `data` names: embedded, prepared, or prepared now."""
  data = config.data
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


def _masked_lm_sums(config: ConfigDict, tokenizer: Tokenizer, make):
  """The loss function: masks on the device, predicts only there."""
  apply = parameters.applier(make)
  ratio = config.data.mask_ratio
  num_predictions = masking.default_num_predictions(config.data.seq_len, ratio)

  def sums_function(params, batch, key, *, seed):
    """(params, batch of ids int32 [B, S], key or None) to (sum, weight)s."""
    input_ids = batch['input_ids']
    masked = masking.mask_tokens(
      masking.row_keys(seed, batch['epoch'], batch['row_id']),
      input_ids,
      masking.maskable_tokens(input_ids, tokenizer.special_ids),
      num_predictions=num_predictions,
      ratio=ratio,
      mask_id=tokenizer.mask_id,
      random_ids=tokenizer.random_ids,
    )
    logits = apply(
      params,
      masked['input_ids'],
      segment_ids=batch['segment_ids'],
      key=key,
      masked_positions=masked['masked_positions'],
    )
    labels, weights = masked['masked_labels'], masked['masked_weights']
    if 'weight' in batch:
      weights = weights * batch['weight'][:, None]
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    correct = (logits.argmax(-1) == labels).astype(jnp.float32)
    return {
      'loss': ((losses * weights).sum(), weights.sum()),
      'accuracy': ((correct * weights).sum(), weights.sum()),
    }

  return sums_function
