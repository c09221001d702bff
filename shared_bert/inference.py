"""Using a trained model: texts in, answers out.

  predict = shared_bert.load('runs/mnli')
  predict([('A man sleeps.', 'A person sleeps.')])

Shared attention is folded first: one projection, and keys and values that are
one array. Texts are sorted by length and computed in batches of few shapes, so
that a long list compiles a handful of times.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from shared_bert.data.encoding import rows_of
from shared_bert.errors import UserError
from shared_bert.interop.saved import SavedModel
from shared_bert.model.encoder import Encoder
from shared_bert.model.parameters import applier

# A text, or two that belong together.
Text = str | tuple[str, str]
TASKS = ('fill-mask', 'classify', 'embed')
POOLINGS = ('cls', 'mean')
_TASKS_OF = {
  'masked_lm': ('fill-mask', 'embed'),
  'pretraining': ('fill-mask', 'embed'),
  'classification': ('classify', 'embed'),
  'question_answering': ('embed',),
  'encoder': ('embed',),
}
_SHORTEST = 16


class Predictor:
  """A model that answers.

  Attributes:
    task: `fill-mask`, `classify` (scores as well) or `embed`.
    cut: how many texts of the calls so far were too long and lost their end.
  """

  def __init__(
    self,
    saved: SavedModel,
    task: str | None = None,
    *,
    top_k: int = 5,
    pooling: str = 'cls',
    batch_size: int = 32,
  ):
    """Puts the parameters onto the default device; compiles nothing yet.

    Args:
      saved: the model.
      task: one of `TASKS` that it was trained for, or `embed`, which every
        model does; None for the first.
      top_k: words for a mask, or classes, most likely first.
      pooling: what an embedding is: the vector of `cls`, or the `mean` of the
        vectors of all tokens, as sentence-transformers has it.
      batch_size: texts at once.

    Raises:
      UserError: for a task that the model was not trained for, or an option
        that cannot be.
    """
    able = _TASKS_OF[saved.head]
    self.task = task or able[0]
    if self.task not in able:
      raise UserError(
        f'{saved.path} was not trained for task={self.task}: it does '
        f'{" and ".join(able)}.'
      )
    if pooling not in POOLINGS:
      raise UserError(f'pooling={pooling} should be one of cls, mean.')
    for name, value in (('top_k', top_k), ('batch_size', batch_size)):
      if value < 1:
        raise UserError(f'{name}={value} should be at least 1.')
    self.cut = 0
    self._saved, self._top_k, self._batch_size = saved, top_k, batch_size
    folded = saved.folded()
    make, params = folded.make, folded.params
    if self.task == 'embed':
      make = functools.partial(_make_encoder, folded.config)
      params = params['encoder']
    self._params = jax.device_put(params)
    apply = applier(make)
    if self.task == 'fill-mask':
      self._compute = jax.jit(functools.partial(_words, apply))
    elif self.task == 'classify':
      self._compute = jax.jit(apply)
    else:
      self._compute = jax.jit(functools.partial(_pooled, apply, pooling))

  def __call__(
    self,
    texts: Text | list[Text],
    progress: Callable[[int, int], None] | None = None,
  ) -> Any:
    """Answers for each text.

    Args:
      texts: one, or a list of them; a pair is a tuple of two.
      progress: called with how many are done, of how many.

    Returns:
      A dict for one text, else a list of them in the order of the texts:
      `fill-mask`: `masks`, for each `[MASK]` of the text a list of `token`
      and `probability`; `classify`: `label`, `probability` and, for the best
      classes, `probabilities` by label, or `score` of a regression; `embed`:
      `embedding`, float32 [D].

    Raises:
      UserError: for a text without a mask where one is to be filled, or
        singles among pairs.
    """
    if not isinstance(texts, list):
      return self([texts], progress)[0]
    rows = self._encode(list(texts))
    lengths = rows['lengths']
    order = np.argsort(lengths, kind='stable')
    answers: list[dict[str, Any]] = [{}] * len(lengths)
    for start in range(0, len(order), self._batch_size):
      chosen = order[start : start + self._batch_size]
      length = int(lengths[chosen].max())
      outputs = self._run(
        {k: v[chosen] for k, v in rows.items()},
        1 if len(order) == 1 else self._batch_size,
        self._bucket(length),
      )
      for number, output in zip(chosen, outputs, strict=True):
        answers[number] = self._answer(rows, number, output)
      if progress:
        progress(min(start + self._batch_size, len(order)), len(order))
    return answers

  def _bucket(self, length: int) -> int:
    """The length that rows of this length are padded to."""
    bucket = _SHORTEST
    while bucket < length:
      bucket *= 2
    return min(bucket, self._saved.seq_len)

  def _encode(self, texts: list[Text]) -> dict[str, np.ndarray]:
    """Rows as long as the model was trained on."""
    tokenizer, seq_len = self._saved.tokenizer, self._saved.seq_len
    pairs = [not isinstance(text, str) for text in texts]
    if any(pairs) and not all(pairs):
      raise UserError(
        f'text {pairs.index(False) + 1} is a single one among pairs: give all '
        'texts alike.'
      )
    first = [text if isinstance(text, str) else text[0] for text in texts]
    second = [text[1] for text in texts] if any(pairs) else None
    if self.task == 'fill-mask':
      ids_a = [tokenizer.encode_masked(text) for text in first]
    else:
      ids_a = tokenizer.encode_batch(first)
    ids_b = None if second is None else tokenizer.encode_batch(second)
    taken = [len(ids) + 2 for ids in ids_a]
    if ids_b is not None:
      taken = [n + len(ids) + 1 for n, ids in zip(taken, ids_b, strict=True)]
    self.cut += sum(n > seq_len for n in taken)
    rows = rows_of(tokenizer, ids_a, ids_b, seq_len)
    has_mask = (rows['input_ids'] == tokenizer.mask_id).any(axis=1)
    if self.task == 'fill-mask' and not has_mask.all():
      number = int(np.argmin(has_mask))
      raise UserError(
        f'text {number + 1} has no [MASK] to fill within the {seq_len} tokens '
        f'that the model reads: {first[number][:60]!r}'
      )
    return rows

  def _run(
    self, rows: dict[str, np.ndarray], size: int, length: int
  ) -> list[Any]:
    """The outputs of a batch, one a row, filled up to [size, length]."""
    count = len(rows['lengths'])
    filled = {
      name: np.concatenate([value, np.repeat(value[-1:], size - count, axis=0)])
      for name, value in rows.items()
    }
    inputs = [
      filled[name][:, :length]
      for name in ('input_ids', 'token_type_ids', 'segment_ids')
    ]
    if self.task != 'fill-mask':
      return list(np.asarray(self._compute(self._params, *inputs))[:count])
    is_mask = inputs[0] == self._saved.tokenizer.mask_id
    most = 1
    while most < is_mask.sum(axis=1).max():
      most *= 2
    # The places of the masks first, in their order.
    places = np.argsort(~is_mask, axis=1, kind='stable')[:, :most]
    words = np.asarray(
      self._compute(self._params, *inputs, places.astype(np.int32))
    )
    return [words[row, : is_mask[row].sum()] for row in range(count)]

  def _answer(
    self, rows: dict[str, np.ndarray], number: int, output: np.ndarray
  ) -> dict[str, Any]:
    if self.task == 'embed':
      return {'embedding': output}
    if self.task == 'fill-mask':
      return {
        'masks': [self._best(p, self._saved.tokenizer.vocab) for p in output]
      }
    names = self._saved.label_names
    if not names:
      return {'score': float(output[0])}
    probabilities = np.asarray(jax.nn.softmax(output))
    best = self._best(probabilities, names)
    return {
      'label': best[0]['token'],
      'probability': best[0]['probability'],
      'probabilities': {b['token']: b['probability'] for b in best},
    }

  def _best(
    self, probabilities: np.ndarray, names: Sequence[str]
  ) -> list[dict[str, Any]]:
    order = np.argsort(-probabilities, kind='stable')[: self._top_k]
    return [
      {'token': names[i], 'probability': float(probabilities[i])}
      for i in order
      if i < len(names)
    ]


def _make_encoder(config: Any, rngs: nnx.Rngs) -> nnx.Module:
  return Encoder(config, rngs=rngs)


def _words(
  apply: Callable[..., Any],
  params: Any,
  input_ids: jax.Array,
  token_type_ids: jax.Array,
  segment_ids: jax.Array,
  masked_positions: jax.Array,
) -> jax.Array:
  """Probabilities of the words at places int32 [B, P]: float32 [B, P, V]."""
  outputs = apply(
    params,
    input_ids,
    token_type_ids,
    segment_ids,
    masked_positions=masked_positions,
  )
  # With a next-sentence head there are two outputs.
  return jax.nn.softmax(outputs[0] if isinstance(outputs, tuple) else outputs)


def _pooled(
  apply: Callable[..., Any],
  pooling: str,
  params: Any,
  input_ids: jax.Array,
  token_type_ids: jax.Array,
  segment_ids: jax.Array,
) -> jax.Array:
  """One vector a row, float32 [B, D]."""
  x = apply(params, input_ids, token_type_ids, segment_ids)
  x = x.astype(jnp.float32)
  if pooling == 'cls':
    return x[:, 0]
  weights = (segment_ids > 0).astype(jnp.float32)
  return jnp.einsum('BSD,BS->BD', x, weights) / weights.sum(1, keepdims=True)
