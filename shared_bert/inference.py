"""Using a trained model: texts in, answers out.

  predict = shared_bert.load('runs/mnli')
  predict([('A man sleeps.', 'A person sleeps.')])

Shared attention is folded first: one projection, and keys and values that are
one array. The last layer computes what is read alone. Texts are sorted by
length and computed in batches of few shapes, so that a long list compiles a
handful of times.
"""

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from shared_bert.data import spans
from shared_bert.data.encoding import rows_of
from shared_bert.errors import UserError
from shared_bert.interop.pooling import POOLINGS, Pooling
from shared_bert.interop.saved import SavedModel
from shared_bert.model.encoder import Encoder
from shared_bert.model.heads import first_tokens
from shared_bert.model.parameters import applier
from shared_bert.texts import Place, Text, as_list, is_one, numbered

# A task, and the class of Hugging Face's that a model of it has.
TASKS = {
  'fill-mask': 'BertForMaskedLM',
  'classify': 'BertForSequenceClassification',
  'answer': 'BertForQuestionAnswering',
  'embed': 'BertModel',
}
# Of `Predictor`, and so of `shared_bert.load`.
OPTIONS = ('top_k', 'pooling', 'no_answer', 'batch_size')
_TASKS_OF = {
  'masked_lm': ('fill-mask', 'embed'),
  'pretraining': ('fill-mask', 'embed'),
  'classification': ('classify', 'embed'),
  'question_answering': ('answer', 'embed'),
  'encoder': ('embed',),
}
_SHORTEST = 16
_INPUTS = ('input_ids', 'token_type_ids', 'segment_ids')


class Predictor:
  """A model that answers.

  Attributes:
    task: `fill-mask`, `classify` (scores as well), `answer` or `embed`.
    cut: how many texts of the calls so far were too long and lost their end;
      of `answer` the questions, since contexts are read whole.
  """

  def __init__(
    self,
    saved: SavedModel,
    task: str | None = None,
    *,
    top_k: int = 5,
    pooling: str | None = None,
    no_answer: bool = False,
    batch_size: int = 32,
  ):
    """Puts the parameters onto the default device; compiles nothing yet.

    Args:
      saved: the model.
      task: one of `TASKS` that it was trained for, or `embed`, which every
        model does; None for the first.
      top_k: words for a mask, classes or answers, most likely first.
      pooling: what an embedding is: the vector of `cls`, or the `mean` of the
        vectors of all tokens. None for what a folder of sentence-transformers
        says, its Normalize module as well, so that vectors are those of
        theirs; `cls` for every other model.
      no_answer: whether that a context has no answer is one of the answers,
        an empty one; for models that were trained so, as on SQuAD 2.0.
      batch_size: rows at once: texts, or windows of contexts.

    Raises:
      UserError: for a task that the model was not trained for, or an option
        that cannot be.
    """
    able = _TASKS_OF[saved.head]
    self.task = task or able[0]
    if self.task not in TASKS:
      raise UserError(f'task={task} should be one of {", ".join(TASKS)}.')
    if self.task not in able:
      raise UserError(
        f'{saved.path} was not trained for task={self.task}, which needs a '
        f'{TASKS[self.task]}: it does {" and ".join(able)}.'
      )
    if pooling not in (None, *POOLINGS):
      raise UserError(f'pooling={pooling} should be one of cls, mean.')
    for name, value in (('top_k', top_k), ('batch_size', batch_size)):
      if not isinstance(value, int | np.integer) or value < 1:
        raise UserError(f'{name}={value} should be a whole number from 1 on.')
    self.cut = 0
    self._saved, self._top_k, self._batch_size = saved, top_k, batch_size
    self._no_answer = no_answer
    how = _pooling(saved, pooling) if self.task == 'embed' else Pooling('cls')
    folded = saved.folded()
    if self.task != 'answer' and how.mode == 'cls':  # which read few tokens
      folded = folded.with_last_apart()
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
    elif self.task == 'answer':
      self._compute = jax.jit(functools.partial(_span_logits, apply))
    else:
      self._compute = jax.jit(functools.partial(_pooled, apply, how))

  def __call__(
    self,
    texts: Text | Iterable[Text],
    progress: Callable[[int, int], None] | None = None,
    place: Place = numbered,
    **unknown: Any,
  ) -> Any:
    """Answers for each text; an empty one is a text like others.

    Args:
      texts: one, or any iterable of them: a list, an array, a generator, a
        column of a data frame. One is a str, or a pair, such as a question
        and its context: a tuple of exactly two str, which is always taken for
        a pair, and never for two texts.
      progress: called with how many rows are done, of how many.
      place: what errors call a text, by its place from 0, such as a file and
        a line.
      **unknown: there are no other options; the error says where they go.

    Returns:
      A dict for one text, else a list of them in the order of the texts, empty
      without any: `fill-mask`: `masks`, for each `[MASK]` of the text that is
      read a list of `token` and `probability`, and so none for a text without;
      `classify`: `label`, `probability` and, for the best classes,
      `probabilities` by label, or `score` of a regression; `answer`: `answer`,
      its `probability` among the likeliest, its characters
      `context[start:end]`, and the best ones, of the same four, as `answers`;
      `embed`: `embedding`, float32 [D].

    Raises:
      UserError: for what is no text, singles among pairs, or what is no
        question and context where one is to be answered.
    """
    if unknown or not (progress is None or callable(progress)):
      raise UserError(
        'a call takes texts, progress and place, and not '
        f"{next(iter(unknown), 'two texts')}: a pair is one tuple, ('a "
        "question', 'its context'), and options are those of shared_bert.load: "
        f'{", ".join(OPTIONS)}.'
      )
    if is_one(texts):
      return self([texts], progress, place)[0]
    several = as_list(texts, place)
    if not several:
      return []
    if self.task == 'answer':
      return self._find_answers(several, progress, place)
    return self._each_row(self._encode(several, place), self._read, progress)

  def _each_row(
    self,
    rows: dict[str, np.ndarray],
    read: Callable[[np.ndarray], Any],
    progress: Callable[[int, int], None] | None,
  ) -> list[Any]:
    """What `read` makes of the outputs of each row, in the order of the rows.

    Outputs are read batch by batch: those of all rows may not fit into memory.
    """
    lengths, width = rows['lengths'], rows['input_ids'].shape[1]
    order = np.argsort(lengths, kind='stable')
    size = min(_at_least(len(order)), self._batch_size)
    found: list[Any] = [None] * len(lengths)
    for start in range(0, len(order), self._batch_size):
      chosen = order[start : start + self._batch_size]
      length = min(_at_least(lengths[chosen].max(), _SHORTEST), width)
      outputs = self._run(
        [rows[name][chosen, :length] for name in _INPUTS], size
      )
      for number, output in zip(chosen, outputs, strict=True):
        found[number] = read(output)
      if progress:
        progress(min(start + self._batch_size, len(order)), len(order))
    return found

  def _encode(self, texts: list[Text], place: Place) -> dict[str, np.ndarray]:
    """Rows as long as the model was trained on."""
    tokenizer, seq_len = self._saved.tokenizer, self._saved.seq_len
    pairs = [not isinstance(text, str) for text in texts]
    if any(pairs) and not all(pairs):
      # Of the rarer kind: a tab too many makes one line a pair.
      is_pair = sum(pairs) < len(pairs) / 2
      what = (
        'a pair among single ones' if is_pair else 'a single one among pairs'
      )
      raise UserError(
        f'{place(pairs.index(is_pair))} is {what}: give all texts alike (in a '
        'line a tab makes a pair).'
      )
    first = [text if isinstance(text, str) else text[0] for text in texts]
    second = [text[1] for text in texts] if any(pairs) else None
    ids_a = self._ids(first)
    ids_b = None if second is None else self._ids(second)
    taken = [len(ids) + 2 for ids in ids_a]
    if ids_b is not None:
      taken = [n + len(ids) + 1 for n, ids in zip(taken, ids_b, strict=True)]
    self.cut += sum(n > seq_len for n in taken)
    return rows_of(tokenizer, ids_a, ids_b, seq_len)

  def _ids(self, texts: list[str]) -> list[list[int]]:
    tokenizer = self._saved.tokenizer
    if self.task == 'fill-mask':
      return [tokenizer.encode_masked(text) for text in texts]
    return tokenizer.encode_batch(texts)

  def _run(self, inputs: list[np.ndarray], size: int) -> list[np.ndarray]:
    """The outputs of a batch, one a row, filled up to `size` rows."""
    count = len(inputs[0])
    inputs = [
      np.concatenate([value, np.repeat(value[-1:], size - count, axis=0)])
      for value in inputs
    ]
    if self.task != 'fill-mask':
      return list(np.asarray(self._compute(self._params, *inputs))[:count])
    is_mask = inputs[0] == self._saved.tokenizer.mask_id
    most = _at_least(is_mask.sum(axis=1).max())
    # The places of the masks first, in their order.
    places = np.argsort(~is_mask, axis=1, kind='stable')[:, :most]
    words = np.asarray(
      self._compute(self._params, *inputs, places.astype(np.int32))
    )
    return [words[row, : is_mask[row].sum()] for row in range(count)]

  def _read(self, output: np.ndarray) -> dict[str, Any]:
    """The answer that a row's output is."""
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

  def _find_answers(
    self,
    texts: list[Text],
    progress: Callable[[int, int], None] | None,
    place: Place,
  ) -> list[dict[str, Any]]:
    """Answers to questions: spans of all windows of their contexts."""
    for index, text in enumerate(texts):
      if isinstance(text, str):
        raise UserError(
          f'{place(index)} is a single one: task=answer takes a question and, '
          'behind a tab, the context to find its answer in; of a table '
          '--text_columns=question,context.'
        )
    questions, contexts = [q for q, _ in texts], [c for _, c in texts]
    width = min(self._saved.seq_len, spans.LONGEST_ROW)
    windows = spans.encode_windows(
      self._saved.tokenizer, questions, contexts, width, place=place
    )
    self.cut += windows.num_cut
    logits = np.zeros((len(windows.question), 2, width), np.float32)
    outputs = self._each_row(windows.rows, np.asarray, progress)
    for row, output in enumerate(outputs):
      logits[row, :, : output.shape[1]] = output
    return [
      self._answer(windows, number, logits[:, 0], logits[:, 1])
      for number in range(len(texts))
    ]

  def _answer(
    self, windows: spans.Windows, number: int, *logits: np.ndarray
  ) -> dict[str, Any]:
    """The best spans for a question; logits as `spans.best_spans` has them."""
    n_best = max(spans.N_BEST, self._top_k)
    found, null = spans.best_spans(windows, number, *logits, n_best=n_best)
    if self._no_answer:
      found = sorted([*found, null], key=lambda span: -span.logit)
    answers = [
      {
        'answer': span.text,
        'probability': float(probability),
        'start': span.start,
        'end': span.end,
      }
      for span, probability in zip(
        found, spans.probabilities(found), strict=True
      )
    ][: self._top_k]
    return {**answers[0], 'answers': answers}

  def _best(
    self, probabilities: np.ndarray, names: Sequence[str]
  ) -> list[dict[str, Any]]:
    order = np.argsort(-probabilities, kind='stable')[: self._top_k]
    return [
      {'token': names[i], 'probability': float(probabilities[i])}
      for i in order
      if i < len(names)
    ]


def _at_least(count: int, size: int = 1) -> int:
  """`size`, doubled until it holds `count`: few shapes for many counts."""
  while size < count:
    size *= 2
  return size


def _make_encoder(config: Any, rngs: nnx.Rngs) -> nnx.Module:
  return Encoder(config, rngs=rngs)


def _span_logits(apply: Callable[..., Any], *inputs: Any) -> jax.Array:
  """Logits of starts and of ends, float32 [B, 2, S]."""
  return jnp.stack(apply(*inputs), axis=1)


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


def _pooling(saved: SavedModel, mode: str | None) -> Pooling:
  """How to pool: as asked, as the model's folder says, or by `cls`."""
  if mode or not saved.pooling:
    return Pooling(mode or 'cls')
  if saved.pooling.unlike:
    raise UserError(
      f'the embeddings of {saved.path} {saved.pooling.unlike}, which is not '
      'computed here: set pooling to cls or mean for another embedding than '
      'that of sentence-transformers.'
    )
  return saved.pooling


def _pooled(
  apply: Callable[..., Any],
  pooling: Pooling,
  params: Any,
  input_ids: jax.Array,
  token_type_ids: jax.Array,
  segment_ids: jax.Array,
) -> jax.Array:
  """One vector a row, float32 [B, D]."""
  read = first_tokens(input_ids) if pooling.mode == 'cls' else None
  x = apply(params, input_ids, token_type_ids, segment_ids, None, read)
  x = x.astype(jnp.float32)
  if pooling.mode == 'cls':
    pooled = x[:, 0]
  else:
    weights = (segment_ids > 0).astype(jnp.float32)
    pooled = jnp.einsum('BSD,BS->BD', x, weights)
    pooled /= weights.sum(1, keepdims=True)
  if not pooling.normalise:
    return pooled
  # The floor is that of torch.nn.functional.normalize, which they call.
  length = jnp.linalg.norm(pooled, axis=1, keepdims=True)
  return pooled / jnp.maximum(length, 1e-12)
