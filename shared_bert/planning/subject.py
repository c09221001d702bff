"""What a config would train, opened as far as a plan wants it.

Corpora, vocabularies, checkpoints and task files that are named are opened by
the functions that the run opens them with, so that a plan refuses what the run
would refuse. Nothing is prepared, downloaded or computed.
"""

import copy
import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AbstractMesh
from ml_collections import ConfigDict

from shared_bert import config as config_lib
from shared_bert import recipes, task_data, tasks, train_validation
from shared_bert.data import masking, toy
from shared_bert.data.corpus import Corpus
from shared_bert.data.tokenizer import Tokenizer
from shared_bert.distillation import Teacher, open_teacher
from shared_bert.errors import UserError
from shared_bert.masked_model import MaskedModel
from shared_bert.model import flops, parameters
from shared_bert.model.config import BertConfig
from shared_bert.task_model import TaskModel
from shared_bert.training.phases import Course
from shared_bert.training.step_folders import Checkpoint

# What `auto` computes in: plans are of accelerators, which this machine may
# have none of.
_PLATFORM = 'gpu'
_STEPS_OPEN = 'set train.steps to plan steps, schedule and hours.'


# One is like no other, so that what is traced of it can be kept by it.
@dataclasses.dataclass(frozen=True, eq=False)
class Subject:
  """What is planned.

  Attributes:
    config: of one run, with what recipes fill in.
    model: what it trains.
    build: a `BertConfig` to what trains it: with `make`, `loss_sums` and
      `metric_names`.
    seq_lens: S of each stage.
    num_rows: training rows of the first stage, or None if nobody knows here.
    num_outputs: C of a classifier, or 0.
    has_pairs: whether rows are next-sentence pairs.
    course: of the run, or None if its steps cannot be known here.
    data: lines that say what the plan knows of the data.
    teacher: whose predictions are learnt besides, or None.
    targets: what the loss reads besides the rows, dtype by name, of shape [B];
      None of masked words, which are drawn.
  """

  config: ConfigDict
  model: BertConfig
  build: Callable[[BertConfig], MaskedModel | TaskModel]
  seq_lens: tuple[int, ...]
  num_rows: int | None
  num_outputs: int
  has_pairs: bool
  course: Course | None
  data: list[str]
  teacher: Teacher | None = None
  targets: dict[str, Any] | None = None

  def frozen(self, mesh: AbstractMesh | None = None) -> tuple[Any, ...]:
    """What the loss reads besides, as shapes; with a mesh as it is shared."""
    return () if self.teacher is None else (self.teacher.shapes(mesh),)

  def predictions(self, seq_len: int) -> int:
    """P, positions of a row that reach the vocabulary."""
    if self.targets is not None:
      return 0
    return masking.default_num_predictions(seq_len, self.config.data.mask_ratio)

  def forward_flops(self, seq_len: int, attention: str) -> dict[str, float]:
    """Of a token, by block, with another mechanism."""
    return flops.forward_flops_per_token(
      self.with_attention(attention),
      seq_len,
      self.predictions(seq_len),
      self.num_outputs,
    )

  def train_flops(self, seq_len: int, attention: str | None = None) -> float:
    """Of a token in a training step; of the config's mechanism unless named."""
    return flops.train_flops_per_token(
      self.with_attention(attention or self.model.attention),
      seq_len,
      self.predictions(seq_len),
      self.num_outputs,
    )

  def with_attention(self, attention: str) -> BertConfig:
    """The model with another mechanism, all else equal."""
    if attention == self.model.attention:
      return self.model
    return self.model.with_attention(attention)

  def batch(self, rows: int, seq_len: int) -> dict[str, Any]:
    """What `loss_sums` takes, as shapes and dtypes.

    Args:
      rows: B.
      seq_len: S.
    """

    def array(*shape: int, dtype: Any = jnp.int32) -> jax.ShapeDtypeStruct:
      return jax.ShapeDtypeStruct(shape, dtype)

    names = ('input_ids', 'token_type_ids', 'segment_ids')
    shapes = {name: array(rows, seq_len) for name in names}
    if self.targets is not None:
      return shapes | {
        name: array(rows, dtype=kind) for name, kind in self.targets.items()
      }
    count = self.predictions(seq_len)
    shapes |= {
      'masked_positions': array(rows, count),
      'masked_labels': array(rows, count),
      'masked_weights': array(rows, count, dtype=jnp.float32),
    }
    if self.has_pairs:
      shapes['next_sentence_labels'] = array(rows)
      shapes['next_sentence_weights'] = array(rows, dtype=jnp.float32)
    return shapes


def subject_of(config: ConfigDict, mesh: AbstractMesh) -> Subject:
  """What a validated config would train.

  Args:
    config: of a run.
    mesh: of the devices that are planned for.

  Raises:
    UserError: for a job that trains nothing by itself, or what the run would
      refuse.
  """
  if config.job == 'quickstart':
    raise UserError(
      'job=quickstart is several small runs on embedded data, which need no '
      'plan: name another config, such as configs/pretrain.py.'
    )
  if config.job in ('eval', 'robustness'):
    raise UserError(
      f'job={config.job} trains nothing, so that there is nothing to plan: '
      'name the config and the job of a training.'
    )
  build = _pretraining if config.job == 'pretrain' else _fine_tuning
  return build(copy.deepcopy(config), mesh)


def _checkpoint(config: ConfigDict) -> Checkpoint | None:
  """The checkpoint that a run starts from."""
  if not config.init_from:
    return None
  # Imported late: Orbax takes seconds.
  from shared_bert.interop.starting import open_start

  return open_start(config.init_from, config.model)


def _check_fit(subject: Subject, start: Checkpoint | None) -> Subject:
  if start is not None:
    from shared_bert.training.takeover import check_fit

    check_fit(parameters.abstract(subject.build(subject.model).make), start)
  return subject


def _course(
  config: ConfigDict, seq_lens: tuple[int, ...], num_rows: int | None
) -> Course | None:
  if num_rows is None and config.train.epochs is not None:
    return None
  return config_lib.course_of(config, seq_lens, num_rows or 0)


def _pretraining(config: ConfigDict, mesh: AbstractMesh) -> Subject:
  data, start = config.data, _checkpoint(config)
  seq_lens, num_rows, has_pairs = (data.seq_len,), None, False
  corpora: list[Corpus] = []
  # Whose ids a plan never looks at; it stands for one that is not here.
  tokenizer, vocab_size = toy.toy_tokenizer(), data.vocab_size
  if data.source == 'toy' or data.corpus:
    # Imported late: the job wants Orbax.
    from shared_bert.pretrain import open_corpora

    corpora = open_corpora(config, start)
    seq_lens = tuple(corpus.seq_len for corpus in corpora)
    num_rows, has_pairs = len(corpora[0].train), corpora[0].has_pairs
    tokenizer = corpora[-1].tokenizer
    vocab_size = tokenizer.vocab_size
    lines = [
      f'text        {len(corpus.train):,} rows of {corpus.seq_len} tokens; '
      f'{vocab_size:,} word pieces'
      for corpus in corpora
    ]
  else:
    if data.vocab:
      vocab_size = Tokenizer.load(data.vocab).vocab_size
    why = (
      f'data.text={data.text} is not read'
      if data.text
      else 'data.corpus is not set'
    )
    key = 'data.vocab' if data.vocab else 'data.vocab_size'
    lines = [
      f'text        {why}; planned by data.seq_len and {key}:',
      f'{"":12}rows of {data.seq_len} tokens, {vocab_size:,} word pieces',
    ]
    if config.train.epochs is not None:
      lines.append(
        f'steps       train.epochs={config.train.epochs:g} counts rows of a '
        f'corpus: name it, or {_STEPS_OPEN}'
      )
  train_validation.check_backend(config, _PLATFORM, corpora)
  model = config_lib.model_config(config, vocab_size, _PLATFORM)
  teacher = None
  if data.source == 'toy' or data.corpus:  # else no vocabulary is known
    teacher = open_teacher(config, model, tokenizer, max(seq_lens))
  return _check_fit(
    Subject(
      config=config,
      model=model,
      build=lambda model: MaskedModel(
        model,
        config,
        tokenizer,
        np.zeros((0, seq_lens[0]), np.int32),
        mesh,
        np.zeros(0, np.uint8) if has_pairs else None,
        teacher=teacher,
      ),
      seq_lens=seq_lens,
      num_rows=num_rows,
      num_outputs=0,
      has_pairs=has_pairs,
      course=_course(config, seq_lens, num_rows),
      data=lines,
      teacher=teacher,
    ),
    start,
  )


def _fine_tuning(config: ConfigDict, mesh: AbstractMesh) -> Subject:
  lines, data = [], config.data
  names = config_lib.tasks_of(config)
  if len(names) > 1 or config.seeds:
    runs = len(names) * max(1, len(config.seeds))
    data.task = names[0]
    order = 'one after the other'
    if config.seeds_together:
      order = 'the seeds of a task in one step'
    lines.append(
      f'runs        {runs}, {order}; this is the plan of one, '
      f'{data.task}' + ('; data.task names another' if len(names) > 1 else '')
    )
  recipes.fill_in(config)
  train_validation.check_backend(config, _PLATFORM)
  start = _checkpoint(config)
  tokenizer = task_data.given_tokenizer(data, start)
  vocab_size = tokenizer.vocab_size if tokenizer else data.vocab_size
  num_rows = None
  if data.source == 'tfds':
    loaded = task_data.TaskData(task_data.trainable_task(data.task), {}, {})
    lines.append(
      f'task        {loaded.name}: its rows are in TensorFlow Datasets, which '
      'a plan does not fetch'
    )
  else:
    loaded = tasks.load(data)
    num_rows = loaded.training_rows(tokenizer, data.seq_len)
    lines.append(
      f'task        {loaded.name}: train {len(loaded.splits["train"]):,}'
    )
  if num_rows is None and config.train.steps is None:
    lines.append(f'steps       are open: {_STEPS_OPEN}')
  lines.append(
    f'rows        up to {data.seq_len} tokens (data.seq_len), as which all of '
    f'them count here; {vocab_size:,} word pieces'
  )
  seq_lens = (data.seq_len,)
  return _check_fit(
    Subject(
      config=config,
      model=config_lib.model_config(config, vocab_size, _PLATFORM),
      build=lambda model: tasks.model_of(model, loaded, config, mesh),
      seq_lens=seq_lens,
      num_rows=num_rows,
      num_outputs=loaded.pooled_outputs,
      targets=loaded.targets,
      has_pairs=False,
      course=_course(config, seq_lens, num_rows),
      data=lines,
    ),
    start,
  )
