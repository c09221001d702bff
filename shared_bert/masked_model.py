"""The model of masked words as compiled functions: its loss and metrics.

What pre-training and evaluating share, so that both report the same numbers.
"""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import AbstractMesh, Mesh
from ml_collections import ConfigDict

from shared_bert import config as config_lib
from shared_bert.data import batches as batches_lib
from shared_bert.data import masking, segments
from shared_bert.data.row_files import RowFiles
from shared_bert.data.tokenizer import Tokenizer
from shared_bert.distillation import Teacher
from shared_bert.model import parameters
from shared_bert.model.config import BertConfig
from shared_bert.model.heads import BertForMaskedLM, BertForPreTraining
from shared_bert.training import evaluation as evaluation_lib
from shared_bert.training import mesh as mesh_lib
from shared_bert.training.evaluation import Evaluation
from shared_bert.training.logging import say

# Held-out rows are masked alike in every run, whatever its seed.
_HELDOUT_MASK_SEED = 20_241_130


class MaskedModel:
  """Masks rows on the device and predicts what was there.

  Rows that are pairs of texts train the next-sentence prediction as well.
  Their loss is BERT's: the mean over the masked tokens plus the mean over the
  rows.

  Attributes:
    make: `make(rngs)` builds the module, as `parameters` wants it.
    metric_names: of the sums that `loss_sums` gives.
    num_heldout: rows to evaluate on.
  """

  def __init__(
    self,
    model: BertConfig,
    config: ConfigDict,
    tokenizer: Tokenizer,
    heldout: np.ndarray,
    mesh: Mesh | AbstractMesh,
    heldout_labels: np.ndarray | None = None,
    has_next_sentence: bool | None = None,
    teacher: Teacher | None = None,
  ):
    """Compiles nothing yet.

    Args:
      model: what to build.
      config: of the run.
      tokenizer: of the corpus.
      heldout: the rows to evaluate on, ids [N, S].
      mesh: of the devices; for shapes alone an abstract one will do.
      heldout_labels: uint8 [N] if each row is a pair: 0 if its second text
        follows the first, 1 if it is a random one; else None.
      has_next_sentence: whether the model has parameters for that prediction;
        by default if the rows are pairs. Without it labels are not used.
      teacher: whose predictions are learnt besides, or None.
    """
    self._model, self._config = model, config
    self._tokenizer, self._mesh = tokenizer, mesh
    self.num_heldout = len(heldout)
    self._heldout = arrays_of(heldout, heldout_labels)
    if has_next_sentence is None:
      has_next_sentence = heldout_labels is not None
    self._has_next_sentence = has_next_sentence
    self._is_paired = has_next_sentence and heldout_labels is not None
    self._teacher = teacher
    head = BertForPreTraining if has_next_sentence else BertForMaskedLM
    self.make = lambda rngs: head(model, rngs=rngs)
    self._apply = parameters.applier(self.make)
    self._evaluated: tuple[str, ...] = ('accuracy',)
    if self._is_paired:
      self._evaluated += (
        'masked_loss',
        'next_sentence_loss',
        'next_sentence_accuracy',
      )
    learnt = () if teacher is None else ('masked_loss', 'distill_loss')
    names = ('loss', *self._evaluated, *learnt)
    self.metric_names = tuple(dict.fromkeys(names))

  def place(self, batch: dict[str, np.ndarray]) -> dict:
    """Puts a batch on the devices."""
    return mesh_lib.place_batch(self._mesh, batch)

  def prepare(self, batch: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """Masks a batch, and finds its segments.

    Args:
      batch: `input_ids` int32 [B, S], `row_id` and `epoch` int32 [B], and for
        pairs `next_sentence_labels` int32 [B]. The whole batch of a step: the
        rows' weights depend on all of it.

    Returns:
      What `loss_sums` takes.
    """
    batch = self._masked(batch, self._config.seed)
    if self._is_paired:
      # The sum of all losses is divided by the number of masked tokens of the
      # whole batch, so that of B rows is scaled to come out as their mean.
      rows = batch['next_sentence_weights']
      scale = batch['masked_weights'].sum() / rows.sum()
      batch['next_sentence_weights'] = rows * scale
    return batch

  def unmasked(self, input_ids: jax.typing.ArrayLike) -> dict[str, jax.Array]:
    """Rows int32 [B, S] as the encoder takes them, with their segments."""
    ids, input_ids = self._tokenizer, jnp.asarray(input_ids, jnp.int32)
    return {
      'input_ids': input_ids,
      'segment_ids': segments.segment_ids(
        input_ids, cls_id=ids.cls_id, pad_id=ids.pad_id
      ),
      'token_type_ids': segments.token_type_ids(
        input_ids, cls_id=ids.cls_id, sep_id=ids.sep_id, pad_id=ids.pad_id
      ),
    }

  def _masked(self, batch: dict, seed: int) -> dict:
    tokenizer, input_ids = self._tokenizer, batch['input_ids']
    data = self._config.data
    maskable = masking.maskable_tokens(input_ids, tokenizer.special_ids)
    continues = None
    if data.whole_word_mask:
      continues = masking.word_continuations(
        input_ids, maskable, tokenizer.is_continuation
      )
    masked = masking.mask_tokens(
      masking.row_keys(seed, batch['epoch'], batch['row_id']),
      input_ids,
      maskable,
      num_predictions=masking.default_num_predictions(
        input_ids.shape[1], data.mask_ratio
      ),
      ratio=data.mask_ratio,
      mask_id=tokenizer.mask_id,
      random_ids=tokenizer.random_ids,
      continues=continues,
    )
    masked = self.unmasked(input_ids) | masked
    weight = batch.get('weight', jnp.ones(len(input_ids), jnp.float32))
    masked['masked_weights'] *= weight[:, None]
    if self._is_paired:
      masked['next_sentence_labels'] = batch['next_sentence_labels']
      masked['next_sentence_weights'] = weight
    return masked

  def _sums(self, params: Any, batch: dict, key: Any, *frozen: Any) -> dict:
    outputs = self._apply(
      params,
      batch['input_ids'],
      batch['token_type_ids'],
      batch['segment_ids'],
      key,
      masked_positions=batch['masked_positions'],
    )
    words = outputs[0] if self._has_next_sentence else outputs
    loss, accuracy = _loss_and_accuracy(
      words, batch['masked_labels'], batch['masked_weights']
    )
    sums = {'masked_loss': loss, 'accuracy': accuracy}
    if self._teacher and frozen:
      (theirs,) = frozen
      sums['distill_loss'] = self._teacher.divergence(theirs, batch, words)
    if self._is_paired:
      loss, accuracy = _loss_and_accuracy(
        outputs[1],
        batch['next_sentence_labels'],
        batch['next_sentence_weights'],
      )
      sums |= {'next_sentence_loss': loss, 'next_sentence_accuracy': accuracy}
    return sums

  def loss_sums(self, params: Any, batch: dict, key: Any, *frozen: Any) -> dict:
    """Cross entropy and accuracy at the masked positions, and of pairs.

    Args:
      params: of the model.
      batch: as `prepare` gives it, or some of its rows.
      key: of the dropout, or None.
      *frozen: the teacher's parameters, if there is one.

    Returns:
      (sum, weight) by name of `metric_names`. `loss` is of masked tokens, with
      a teacher (1 - w)·`masked_loss` + w·`distill_loss`, w being
      `train.distill_weight`; of pairs `next_sentence_loss` is added.
    """
    sums = self._sums(params, batch, key, *frozen)
    loss, weight = sums['masked_loss']
    if self._teacher:
      share = self._config.train.distill_weight
      loss = (1 - share) * loss + share * sums['distill_loss'][0]
    if self._is_paired:
      loss = loss + sums['next_sentence_loss'][0]
    sums['loss'] = loss, weight
    return {name: sums[name] for name in self.metric_names}

  def _heldout_batches(self) -> Iterator[dict]:
    for batch in batches_lib.eval_batches(
      self._heldout,
      config_lib.evaluation_rows(self._config),
      part_of=mesh_lib.part_of(self._mesh),
    ):
      yield self.place(batch | {'epoch': np.zeros_like(batch['row_id'])})

  @functools.cached_property
  def _evaluate_batch(self) -> Callable[[Any, dict], dict]:
    return mesh_lib.on_mesh(
      self._mesh,
      lambda params, batch: self._sums(
        params, self._masked(batch, _HELDOUT_MASK_SEED), None
      ),
    )

  def evaluate(self, params: Any) -> Evaluation:
    """Loss, accuracy and perplexity of the held-out rows, if there are any.

    Perplexity is of the masked words; of pairs there are also the parts of
    the loss and the accuracy of the next-sentence prediction.
    """
    if not self.num_heldout:
      say('no document is held out, so there is nothing to evaluate on.')
      return Evaluation({})
    means = evaluation_lib.evaluate_sums(
      self._evaluate_batch, params, self._heldout_batches()
    )
    loss = means['masked_loss']
    metrics = {'loss': loss + means.get('next_sentence_loss', 0.0)}
    metrics |= {name: means[name] for name in self._evaluated}
    metrics['perplexity'] = float(np.exp(loss))
    return Evaluation({'heldout': metrics})

  def report(self, metrics: dict[str, dict[str, float]]) -> dict[str, Any]:
    """What `results.json` says of a model with these metrics."""
    return {'metrics': metrics}

  @functools.cached_property
  def attention_entropy(self) -> Callable[[Any], dict[str, float]]:
    """Parameters to numbers about attention on held-out rows, unmasked."""
    sample = next(self._heldout_batches(), None)
    if sample is not None:
      sample |= jax.jit(self.unmasked)(sample['input_ids'])
    return evaluation_lib.watch_attention(self._model, self._mesh, sample)


def arrays_of(
  rows: np.ndarray | RowFiles, labels: np.ndarray | None
) -> dict[str, Any]:
  """What batches of a corpus are gathered from.

  Args:
    rows: ids [N, S].
    labels: of pairs, uint8 [N]: 0 if the second text follows; else None.

  Returns:
    `input_ids`, and of pairs `next_sentence_labels`.
  """
  arrays: dict[str, Any] = {'input_ids': rows}
  if labels is not None:
    arrays['next_sentence_labels'] = labels
  return arrays


def _loss_and_accuracy(
  logits: jax.Array, labels: jax.Array, weights: jax.Array
) -> tuple[tuple[jax.Array, jax.Array], tuple[jax.Array, jax.Array]]:
  """(sum, weight) of both, from [..., C] and twice [...]."""
  losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
  correct = (logits.argmax(-1) == labels).astype(jnp.float32)
  weight = weights.sum()
  return (
    ((losses * weights).sum(), weight),
    ((correct * weights).sum(), weight),
  )
