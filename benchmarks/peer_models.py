"""The models that `peers.py` compares, made of the same weights."""

import contextlib
import dataclasses
import functools
import json
import pathlib
import subprocess
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
import transformers
from contest import Case, Contestant

from shared_bert import config as config_lib
from shared_bert.data import masking
from shared_bert.data.tokenizer import SPECIAL_TOKENS, Tokenizer
from shared_bert.interop import huggingface
from shared_bert.interop.saved import SavedModel, maker_of
from shared_bert.masked_model import MaskedModel
from shared_bert.model import parameters
from shared_bert.model.config import BertConfig
from shared_bert.study.fresh_step import fresh_step
from shared_bert.training import mesh as mesh_lib

LEARNING_RATE = 1e-4
_INPUTS = ('input_ids', 'token_type_ids', 'segment_ids')
_HEADS = {'train': 'masked_lm'}  # others classify
_IGNORED = -100  # a label without a loss, of PyTorch's cross entropy
Step = Callable[[], Any]
Rows = dict[str, np.ndarray]


class Models:
  """Models of one size, and their folders as Hugging Face has them.

  Attributes:
    padding: by name, what share of the places in rows is padding, if any.
  """

  label_names: tuple[str, ...] = ('no', 'yes')

  def __init__(
    self,
    size: str,
    tokenizer: Tokenizer,
    cores: int,
    folder: pathlib.Path,
    dtype: str = 'float32',
    device: str = 'cpu',
    compile_mode: str | None = None,
  ):
    """Makes nothing yet.

    Args:
      size: of `shared_bert.model.config.SIZES`.
      tokenizer: of V words.
      cores: threads that PyTorch gets.
      folder: an empty one, to export into.
      dtype: of the arithmetic of training, `float32` or `bfloat16`; PyTorch
        gets it by autocast. Parameters are float32.
      device: of PyTorch, `cpu` or `cuda`.
      compile_mode: of torch.compile, such as `max-autotune`.
    """
    torch.set_num_threads(cores)
    transformers.utils.logging.disable_progress_bar()
    self._tokenizer = tokenizer
    self._size, self._folder, self._dtype = size, folder, dtype
    self._torch = functools.partial(
      _hugging_face_train, device=device, dtype=getattr(torch, dtype)
    )
    self._compile = functools.partial(torch.compile, mode=compile_mode)
    self._children: list[subprocess.Popen] = []
    self.padding: dict[str, float] = {}

  def enter(
    self, case: Case, *, compiled: bool, flax_python: str | None
  ) -> tuple[dict[str, Contestant], list[dict[str, Any]]]:
    """Makes all that take part in a case, and lets them do it once or twice.

    Args:
      case: what to do.
      compiled: whether those of PyTorch enter by torch.compile as well.
      flax_python: of an environment with FlaxBert, which then enters; or None.

    Returns:
      Contestants by name, warmed up, and by how much the outputs `of` two of
      them differ at most.
    """
    rows = _rows(case, self._tokenizer)
    saved = self._exported(case)
    if case.kind == 'forward':
      theirs = _hugging_face_forward
      models = saved | {'shared, folded': saved['shared'].folded()}
      # As `shared_bert.load` has them: its last layer computes what is read.
      ours = {
        name: _forward(model.with_last_apart(), rows)
        for name, model in models.items()
      }
    else:
      theirs = self._torch
      ours = {name: self._train(model, rows) for name, model in saved.items()}
    steps = theirs(self._folder / 'standard', rows)
    if compiled:
      again = theirs(self._folder / 'standard', rows, self._compile)
      steps |= {f'{name}, compiled': step for name, step in again.items()}
    contestants = {name: Contestant(step) for name, step in steps.items()}
    if flax_python:
      contestants['FlaxBert'] = self._flax(
        flax_python, case, _with_labels(rows)
      )
    contestants |= {name: Contestant(step) for name, step in ours.items()}
    outputs = twice(contestants)
    parity = [
      difference(outputs, 'standard', name)
      for name in contestants
      if name not in ours
    ]
    if case.kind == 'forward':
      parity.append(difference(outputs, 'shared', 'shared, folded'))
    twin = next(iter(theirs(self._folder / 'shared', rows).values()))
    outputs['its export'] = np.array([twin()])
    outputs['shared'] = outputs['shared'][:1]  # then the two train apart
    parity.append(difference(outputs, 'shared', 'its export'))
    return contestants, parity

  def close(self) -> None:
    """Ends the processes that were started."""
    for child in self._children:
      child.communicate()
    self._children.clear()

  def _exported(self, case: Case) -> dict[str, SavedModel]:
    """Both models, written into folders of their names as well."""
    saved = {name: self._saved(name, case) for name in ('standard', 'shared')}
    for name, model in saved.items():
      folder = self._folder / name
      folder.mkdir()
      huggingface.write(model, folder)
    return saved

  def _saved(self, attention: str, case: Case) -> SavedModel:
    """A model with numbers in every parameter, and without dropout."""
    config = BertConfig.of_size(
      self._size,
      vocab_size=self._tokenizer.vocab_size,
      attention=attention,
      hidden_dropout=0.0,
      attention_dropout=0.0,
    )
    head = _HEADS.get(case.kind, 'classification')
    make = maker_of(head, config, len(self.label_names))
    rng = np.random.default_rng(0)
    # Zeros of biases and ones of diagonals would hide what is done with them.
    params = jax.tree.map(
      lambda x: np.asarray(
        x + config.initializer_range * rng.normal(size=x.shape), np.float32
      ),
      parameters.initialise(make, jax.random.key(0)),
    )
    return SavedModel(
      path=self._folder,
      config=config,
      head=head,
      params=params,
      tokenizer=self._tokenizer,
      label_names=self.label_names if head == 'classification' else (),
      seq_len=case.seq_len,
      facts={},
    )

  def _train(self, saved: SavedModel, rows: Rows) -> Step:
    config = config_lib.pretrain_defaults()
    config.train.clip_norm = 0.0
    mesh = mesh_lib.make_mesh(devices=jax.devices()[:1])
    masked = MaskedModel(
      dataclasses.replace(saved.config, dtype=self._dtype),
      config,
      self._tokenizer,
      np.zeros((0, saved.seq_len), np.int32),
      mesh,
    )
    state, step = fresh_step(config, masked, mesh, prepare=lambda batch: batch)
    state['params'] = jax.device_put(
      saved.params, jax.tree.map(lambda x: x.sharding, state['params'])
    )
    batch, total = masked.place(rows), 0.0

    def do() -> float:
      nonlocal state, total
      state, window = step(state, batch, LEARNING_RATE)
      jax.block_until_ready(state)
      before, total = total, float(window['loss'][0])
      return (total - before) / rows['masked_weights'].sum()

    return do

  def _flax(self, python: str, case: Case, rows: Rows) -> Contestant:
    path = self._folder / 'rows.npz'
    np.savez(path, **rows)
    child = subprocess.Popen(
      [
        python,
        str(pathlib.Path(__file__).with_name('flax_bert.py')),
        case.kind,
        str(self._folder / 'standard'),
        str(path),
        str(LEARNING_RATE),
      ],
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      text=True,
    )
    self._children.append(child)

    def ask(what: str) -> Any:
      assert child.stdin and child.stdout
      print(what, file=child.stdin, flush=True)
      answer = child.stdout.readline()
      if not answer:
        raise SystemExit(f'FlaxBert in {python} has ended: its error is above.')
      return json.loads(answer)

    return Contestant(
      lambda: np.array(ask('step')), functools.partial(ask, 'cpu_seconds')
    )


def twice(contestants: dict[str, Contestant]) -> dict[str, np.ndarray]:
  """What two steps of each return; of training, losses around an update."""
  return {
    name: np.array([each.step() for _ in range(2)])
    for name, each in contestants.items()
  }


def difference(
  outputs: dict[str, np.ndarray], first: str, second: str
) -> dict[str, Any]:
  """By how much the outputs of two differ at most, and which two they are."""
  most = np.abs(outputs[first] - outputs[second]).max()
  return {'of': f'{first} and {second}', 'difference': float(most)}


def _rows(case: Case, tokenizer: Tokenizer) -> Rows:
  """Full rows of two segments, with masks to predict."""
  rng = np.random.default_rng(0)
  shape = (case.rows, case.seq_len)
  ids = rng.integers(len(SPECIAL_TOKENS), tokenizer.vocab_size, shape)
  half = case.seq_len // 2
  ids[:, 0], ids[:, half - 1] = tokenizer.cls_id, tokenizer.sep_id
  ids[:, -1] = tokenizer.sep_id
  rows = {
    'token_type_ids': np.broadcast_to(np.arange(shape[1]) >= half, shape),
    'segment_ids': np.ones(shape),
  }
  if case.kind == 'train':
    count = masking.default_num_predictions(case.seq_len, 0.15)
    words = np.setdiff1d(np.arange(shape[1]), [0, half - 1, shape[1] - 1])
    positions = np.stack(
      [np.sort(rng.choice(words, count, False)) for _ in range(case.rows)]
    )
    rows['masked_positions'] = positions
    rows['masked_labels'] = np.take_along_axis(ids, positions, 1)
    np.put_along_axis(ids, positions, tokenizer.mask_id, 1)
  rows = {n: x.astype(np.int32) for n, x in (rows | {'input_ids': ids}).items()}
  if case.kind == 'train':
    rows['masked_weights'] = np.ones(positions.shape, np.float32)
  return rows


def _with_labels(rows: Rows) -> Rows:
  """Rows as Hugging Face's models take them."""
  theirs = {n: rows[n].astype(np.int64) for n in _INPUTS[:2]}
  theirs['attention_mask'] = rows['segment_ids'].astype(np.int64)
  if 'masked_positions' in rows:
    labels = np.full_like(theirs['input_ids'], _IGNORED)
    np.put_along_axis(
      labels, rows['masked_positions'], rows['masked_labels'], 1
    )
    theirs['labels'] = labels
  return theirs


def _forward(saved: SavedModel, rows: Rows) -> Step:
  apply = jax.jit(parameters.applier(saved.make))
  params = jax.device_put(saved.params)
  inputs = [jnp.asarray(rows[name]) for name in _INPUTS]
  return lambda: jax.block_until_ready(apply(params, *inputs))


def _hugging_face_forward(
  folder: pathlib.Path, rows: Rows, compiled: Callable = lambda model: model
) -> dict[str, Step]:
  model = transformers.BertForSequenceClassification.from_pretrained(
    folder, attn_implementation='sdpa'
  ).eval()
  run = compiled(model)
  inputs = {n: torch.tensor(x) for n, x in _with_labels(rows).items()}

  def do() -> np.ndarray:
    with torch.inference_mode():
      return run(**inputs).logits.numpy()

  return {'Hugging Face': do}


def _hugging_face_train(
  folder: pathlib.Path,
  rows: Rows,
  compiled: Callable = lambda model: model,
  *,
  device: str,
  dtype: torch.dtype,
) -> dict[str, Step]:
  inputs = {
    n: torch.tensor(x, device=device) for n, x in _with_labels(rows).items()
  }
  labels = inputs['labels']
  positions = (labels != _IGNORED).nonzero(as_tuple=True)
  targets = labels[positions]

  def stepper(gathered: bool) -> Step:
    model = (
      transformers.BertForMaskedLM.from_pretrained(
        folder, attn_implementation='sdpa'
      )
      .to(device)
      .train()
    )
    optimizer = adamw(model)

    def loss_of() -> torch.Tensor:
      if not gathered:
        return model(**inputs).loss
      others = {n: x for n, x in inputs.items() if n != 'labels'}
      hidden = model.bert(**others).last_hidden_state
      logits = model.cls(hidden[positions])
      return torch.nn.functional.cross_entropy(logits, targets)

    run = compiled(loss_of)
    autocast = contextlib.nullcontext()
    if dtype != torch.float32:
      autocast = torch.autocast(device, dtype)

    def do() -> float:
      with autocast:
        loss = run()
      loss.backward()
      optimizer.step()
      optimizer.zero_grad()
      return loss.item()

    return do

  return {
    'Hugging Face': stepper(gathered=False),
    'Hugging Face, gathered head': stepper(gathered=True),
  }


def adamw(model: torch.nn.Module) -> torch.optim.Optimizer:
  """Ours by default, fused: biases and LayerNorms do not decay."""
  train = config_lib.pretrain_defaults().train
  groups: tuple[list, list] = [], []
  for name, value in model.named_parameters():
    groups['bias' in name or 'LayerNorm' in name].append(value)
  return torch.optim.AdamW(
    [
      {'params': groups[0], 'weight_decay': train.weight_decay},
      {'params': groups[1], 'weight_decay': 0.0},
    ],
    lr=LEARNING_RATE,
    betas=(train.beta1, train.beta2 or 0.999),
    eps=train.epsilon,
    fused=True,
  )
