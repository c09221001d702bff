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
from jax.sharding import Mesh
from ml_collections import ConfigDict

from shared_bert import config as config_lib
from shared_bert.data import batches as batches_lib
from shared_bert.data import masking
from shared_bert.data.tokenizer import Tokenizer
from shared_bert.model import parameters
from shared_bert.model.config import BertConfig
from shared_bert.model.heads import BertForMaskedLM
from shared_bert.training import evaluation as evaluation_lib
from shared_bert.training import mesh as mesh_lib
from shared_bert.training.evaluation import Evaluation
from shared_bert.training.logging import say

# Held-out rows are masked alike in every run, whatever its seed.
_HELDOUT_MASK_SEED = 20_241_130


class MaskedModel:
  """Masks rows on the device and predicts what was there.

  Attributes:
    make: `make(rngs)` builds the module, as `parameters` wants it.
    metric_names: of the sums that `loss_sums` gives.
    num_heldout: rows to evaluate on.
  """

  metric_names = ('loss', 'accuracy')

  def __init__(
    self,
    model: BertConfig,
    config: ConfigDict,
    tokenizer: Tokenizer,
    heldout: np.ndarray,
    mesh: Mesh,
  ):
    """Compiles nothing yet.

    Args:
      model: what to build.
      config: of the run.
      tokenizer: of the corpus.
      heldout: the rows to evaluate on, ids [N, S].
      mesh: of the devices.
    """
    self._model, self._heldout = model, heldout
    self._config, self._tokenizer, self._mesh = config, tokenizer, mesh
    self.num_heldout = len(heldout)
    self.make = lambda rngs: BertForMaskedLM(model, rngs=rngs)
    self._apply = parameters.applier(self.make)
    self._evaluate_batch = jax.jit(
      lambda params, batch: self._sums(params, batch, None, _HELDOUT_MASK_SEED)
    )

  def place(self, batch: dict[str, np.ndarray]) -> dict:
    """Marks the padding of a batch and puts it on the devices."""
    segments = batch['input_ids'] != self._tokenizer.pad_id
    return mesh_lib.place_batch(
      self._mesh, batch | {'segment_ids': segments.astype(np.int32)}
    )

  def _sums(self, params: Any, batch: dict, key: Any, seed: int) -> dict:
    tokenizer, input_ids = self._tokenizer, batch['input_ids']
    masked = masking.mask_tokens(
      masking.row_keys(seed, batch['epoch'], batch['row_id']),
      input_ids,
      masking.maskable_tokens(input_ids, tokenizer.special_ids),
      num_predictions=masking.default_num_predictions(
        input_ids.shape[1], self._config.data.mask_ratio
      ),
      ratio=self._config.data.mask_ratio,
      mask_id=tokenizer.mask_id,
      random_ids=tokenizer.random_ids,
    )
    logits = self._apply(
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

  def loss_sums(self, params: Any, batch: dict, key: Any) -> dict:
    """Cross entropy and accuracy at the masked positions.

    Args:
      params: of the model.
      batch: ids int32 [B, S], with `segment_ids`, `row_id` and `epoch`.
      key: of the dropout, or None.

    Returns:
      (sum, weight) by name of `metric_names`.
    """
    return self._sums(params, batch, key, self._config.seed)

  def _heldout_batches(self) -> Iterator[dict]:
    for batch in batches_lib.eval_batches(
      {'input_ids': self._heldout}, config_lib.evaluation_rows(self._config)
    ):
      yield self.place(batch | {'epoch': np.zeros_like(batch['row_id'])})

  def evaluate(self, params: Any) -> Evaluation:
    """Loss, accuracy and perplexity of the held-out rows, if there are any."""
    if not self.num_heldout:
      say('no document is held out, so there is nothing to evaluate on.')
      return Evaluation({})
    sums = evaluation_lib.evaluate_sums(
      self._evaluate_batch, params, self._heldout_batches()
    )
    perplexity = float(np.exp(sums['loss']))
    return Evaluation({'heldout': sums | {'perplexity': perplexity}})

  def report(self, metrics: dict[str, dict[str, float]]) -> dict[str, Any]:
    """What `results.json` says of a model with these metrics."""
    return {'metrics': metrics}

  @functools.cached_property
  def attention_entropy(self) -> Callable[[Any], dict[str, float]]:
    """Parameters to numbers about attention on held-out rows, unmasked."""
    return evaluation_lib.watch_attention(
      self._model, next(self._heldout_batches(), None)
    )
