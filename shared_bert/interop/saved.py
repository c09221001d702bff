"""A model as it was saved, whole: nothing but its path is needed to use it."""

import dataclasses
import pathlib
from collections.abc import Callable
from typing import Any

from flax import nnx

from shared_bert.data.tokenizer import Tokenizer
from shared_bert.errors import UserError
from shared_bert.interop import folding
from shared_bert.interop.pooling import Pooling
from shared_bert.model import heads, parameters
from shared_bert.model.config import BertConfig
from shared_bert.model.encoder import BertModel
from shared_bert.training.checkpoint import open_checkpoint
from shared_bert.training.step_folders import Checkpoint

# What is put on the encoder, by a parameter that only it has; the first that is
# found counts. `encoder`: nothing.
SIGNS = {
  'pretraining': 'next_sentence/kernel',
  'masked_lm': 'transform/kernel',
  'classification': 'classifier/kernel',
  'question_answering': 'span/kernel',
}


@dataclasses.dataclass(frozen=True)
class SavedModel:
  """A model, its numbers and what its inputs and outputs mean.

  Attributes:
    path: of the folder it was read from.
    config: of the model, computing in float32 on any device.
    head: `pretraining`, `masked_lm`, `classification`, `question_answering` or
      `encoder`.
    params: nested by name, as `make` has them; float32 NumPy arrays.
    tokenizer: of its texts.
    label_names: of its classes; empty for a score, and without a classifier.
    seq_len: the longest row it was trained on.
    facts: what it says of its training: `step`, `metrics`, `run` (its config),
      `versions`; each may be missing.
    pooling: what it says of its embeddings, a folder of sentence-transformers;
      None of all others.
  """

  path: pathlib.Path
  config: BertConfig
  head: str
  params: dict[str, Any]
  tokenizer: Tokenizer
  label_names: tuple[str, ...]
  seq_len: int
  facts: dict[str, Any]
  pooling: Pooling | None = None

  @property
  def num_outputs(self) -> int:
    """C of a classifier, 1 of a regression, 0 without either."""
    return len(self.params['classifier']['bias']) if self.classifies else 0

  @property
  def classifies(self) -> bool:
    """Whether it answers with a class or a score."""
    return self.head == 'classification'

  @property
  def predicts_words(self) -> bool:
    """Whether it has a head for masked words."""
    return self.head in ('masked_lm', 'pretraining')

  @property
  def run(self) -> dict[str, Any] | None:
    """The config of the run that made it; None of a model of others."""
    return self.facts.get('run')

  @property
  def make(self) -> Callable[[nnx.Rngs], nnx.Module]:
    """Builds the module that `params` belongs to."""
    return maker_of(self.head, self.config, self.num_outputs)

  def folded(self) -> 'SavedModel':
    """The same function with less to compute: `folding.for_inference`."""
    params, config = folding.for_inference(self.params, self.config)
    return dataclasses.replace(self, params=params, config=config)

  def with_last_apart(self) -> 'SavedModel':
    """Ready for heads that read few tokens: `folding.with_last_apart`."""
    params, config = folding.with_last_apart(self.params, self.config)
    return dataclasses.replace(self, params=params, config=config)

  def cut_to_vocabulary(self) -> 'SavedModel':
    """Without the rows that no token has: others pad their tables.

    All other arrays are the very ones, and a table that is cut is a view.
    """
    size, params = self.tokenizer.vocab_size, self.params
    encoder = params['encoder']
    embeddings = encoder['embeddings']
    word = {'embedding': embeddings['word']['embedding'][:size]}
    params = params | {
      'encoder': encoder | {'embeddings': embeddings | {'word': word}}
    }
    if 'decoder_bias' in params:
      params['decoder_bias'] = params['decoder_bias'][:size]
    config = dataclasses.replace(self.config, vocab_size=size)
    return dataclasses.replace(self, params=params, config=config)


def maker_of(
  head: str, config: BertConfig, num_outputs: int
) -> Callable[[nnx.Rngs], nnx.Module]:
  """`make(rngs)` of a model by its head.

  Args:
    head: as `SavedModel.head`.
    config: of the model.
    num_outputs: C of a classifier; of the others it does not count.
  """
  if head == 'classification':
    return lambda rngs: heads.BertForSequenceClassification(
      config, num_outputs, rngs=rngs
    )
  model = {
    'pretraining': heads.BertForPreTraining,
    'masked_lm': heads.BertForMaskedLM,
    'question_answering': heads.BertForQuestionAnswering,
    'encoder': BertModel,
  }[head]
  return lambda rngs: model(config, rngs=rngs)


def head_of(names: set[str]) -> str:
  """The head that a model with parameters of these names has."""
  return next((h for h, sign in SIGNS.items() if sign in names), 'encoder')


def open_saved(path: str | pathlib.Path) -> SavedModel:
  """Opens the checkpoint of one of our runs.

  Args:
    path: as for `open_checkpoint`: a workdir, its checkpoints folder or the
      folder of a step.

  Raises:
    UserError: there is none, it is damaged, or was saved by an earlier version
      that did not say what it is.
  """
  return saved_in(open_checkpoint(path))


def saved_in(checkpoint: Checkpoint) -> SavedModel:
  """The model of a checkpoint of ours.

  Args:
    checkpoint: opened; its parameters are read.

  Raises:
    UserError: as `open_saved`.
  """
  tokenizer = Tokenizer.load(checkpoint.path)
  metadata = checkpoint.metadata
  recorded = metadata.get('tokenizer_sha256')
  if recorded and recorded != tokenizer.sha256:
    raise UserError(
      f'{checkpoint.path} holds another vocabulary than it was trained with: '
      'bring back its vocab.txt and tokenizer_config.json.'
    )
  run = metadata['config']
  config = BertConfig.of_keys(
    run['model'] | {'dtype': 'float32', 'attention_backend': 'auto'},
    tokenizer.vocab_size,
    'float32',
  )
  leaves = {name.removeprefix('params/') for name in checkpoint.leaves}
  head = head_of(leaves)
  labels = metadata.get('label_names')
  if head == 'classification' and labels is None:
    raise UserError(
      f'{checkpoint.path} does not say what its classes mean: it was saved by '
      'an earlier version; fine-tune again.'
    )
  make = maker_of(head, config, len(labels or ['score']))
  return SavedModel(
    path=checkpoint.path,
    config=config,
    head=head,
    params=checkpoint.load_params(parameters.abstract(make)),
    tokenizer=tokenizer,
    label_names=tuple(labels or ()),
    seq_len=run['data']['seq_len'],
    facts={
      'step': checkpoint.step,
      'metrics': checkpoint.metrics,
      'run': run,
      'versions': checkpoint.versions,
    },
  )
