"""Attention backends: who can do what, and that nobody is asked for more."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from shared_bert import config as config_lib
from shared_bert.data import toy
from shared_bert.errors import UserError
from shared_bert.finetune import finetune
from shared_bert.interop.saved import open_saved
from shared_bert.model import backends
from shared_bert.model.backends import BACKENDS
from shared_bert.model.config import ATTENTION_BACKENDS, BertConfig
from shared_bert.pretrain import pretrain
from shared_bert.run_plan import model_line
from shared_bert.train_validation import check_backend
from shared_bert.training import mesh as mesh_lib
from shared_bert.validation import validate
from tests.tiny_jobs import finetune_config, pretrain_config

# What a base model and its rows are asked of, and what the sentence names.
REFUSED = {
  'cuDNN without a GPU': ('cudnn', {}, 'cpu', False, 'platform cpu'),
  'cuDNN on a TPU': ('cudnn', {}, 'tpu', False, 'platform tpu'),
  'cuDNN in float32': (
    'cudnn',
    {'dtype': 'float32'},
    'gpu',
    False,
    'model.dtype is float32',
  ),
  'cuDNN of odd heads': (
    'cudnn',
    {'hidden_size': 120, 'num_heads': 10},
    'gpu',
    False,
    'num_heads is 12',
  ),
  'cuDNN of packed rows': ('cudnn', {}, 'gpu', True, 'data.packing=False'),
  'a Triton kernel of heads that are no power of 2': (
    'pallas_shared',
    {'hidden_size': 96, 'num_heads': 2},
    'gpu',
    True,
    'num_heads is 48',
  ),
}


def model_of(backend, **changes):
  values = {'attention_dropout': 0.0, 'dtype': 'bfloat16'} | changes
  return BertConfig(attention_backend=backend, **values)


@pytest.mark.parametrize('case', REFUSED.values(), ids=REFUSED)
def test_what_a_backend_cannot_do_is_refused_by_name(case):
  backend, changes, platform, packed, part = case
  with pytest.raises(UserError) as error:
    backends.check(model_of(backend, **changes), platform, packed)
  assert f'model.attention_backend={backend}' in str(error.value)
  assert part in str(error.value)
  assert 'model.attention_backend=auto.' in str(error.value)


@pytest.mark.parametrize(
  ('backend', 'platform', 'packed'),
  [
    ('cudnn', 'gpu', False),
    *(('pallas_shared', platform, True) for platform in ('cpu', 'gpu', 'tpu')),
    *(('xla', platform, True) for platform in ('cpu', 'gpu', 'tpu')),
  ],
)
def test_what_a_backend_can_do_is_not_refused(backend, platform, packed):
  backends.check(model_of(backend), platform, packed)


@pytest.mark.parametrize(
  ('values', 'part'),
  [
    ({'attention_backend': 'cudnn'}, 'model.attention_dropout=0'),
    ({'attention_backend': 'pallas_shared'}, 'model.attention_dropout=0'),
    (
      {'attention_backend': 'pallas_shared', 'attention': 'standard'},
      'not standard',
    ),
    (
      {'attention_backend': 'pallas_shared', 'role_bias': True},
      'not shared with model.role_bias',
    ),
    ({'attention_backend': 'flash'}, 'xla, cudnn, pallas_shared'),
  ],
)
def test_what_no_device_can_do_is_refused_with_the_config(values, part):
  config = config_lib.pretrain_defaults()
  config.data.source = 'toy'
  config.train.steps = 1
  config.model.update(values)
  if 'dropout' not in part:
    config.model.attention_dropout = 0.0
  with pytest.raises(UserError, match='model.attention_backend') as error:
    validate(config)
  assert part in str(error.value)


def test_every_configurable_backend_is_registered():
  assert tuple(BACKENDS) == ATTENTION_BACKENDS
  # Which ones `BertConfig` lets have dropout.
  assert [name for name, backend in BACKENDS.items() if backend.drops] == [
    'xla'
  ]


@pytest.mark.parametrize('platform', ['cpu', 'gpu', 'tpu'])
def test_auto_is_xla_until_another_is_measured_to_be_faster(platform):
  config = config_lib.finetune_defaults()
  assert config.model.attention_backend == 'auto'
  model = config_lib.model_config(config, 1000, platform)
  assert model.attention_backend == 'xla'
  assert model_line(model).endswith('12 heads; XLA attention')
  cudnn = model_of('cudnn')
  assert model_line(cudnn).endswith('12 heads; cuDNN attention')


def test_a_text_is_not_prepared_for_a_backend_that_cannot_read_it(
  text, tmp_path
):
  config = pretrain_config(text)
  config.model.update({'attention_backend': 'cudnn', 'attention_dropout': 0.0})
  config.data.text = str(tmp_path / 'no such file')
  with pytest.raises(UserError, match='platform cpu'):
    pretrain(config, tmp_path / 'run')
  with pytest.raises(UserError, match='rows here hold several'):
    check_backend(config, 'gpu')
  config.data.update({'text': '', 'corpus': 'prepared'})
  check_backend(config, 'gpu')  # which may be of pairs
  corpus = toy.toy_corpus(16, train=8, heldout=0)
  with pytest.raises(UserError, match='rows here hold several'):
    check_backend(config, 'gpu', [corpus])
  config.data.update({'source': 'toy', 'corpus': ''})
  check_backend(config, 'gpu', [corpus])


def test_examples_that_share_rows_are_not_for_cudnn(glue, pretrained, tmp_path):
  config = finetune_config('cola', glue, pretrained)
  config.model.update({'attention_backend': 'cudnn', 'attention_dropout': 0.0})
  with pytest.raises(UserError, match='platform cpu'):
    finetune(config, tmp_path)
  with pytest.raises(UserError, match=r'data\.packing=False'):
    check_backend(config, 'gpu')
  config.data.packing = False
  check_backend(config, 'gpu')


def test_a_checkpoint_does_not_know_what_it_was_computed_with(
  text, tmp_path, monkeypatch
):
  # Eight devices would interpret the kernel eight times.
  monkeypatch.setattr(mesh_lib, 'find_devices', lambda: jax.devices()[:1])
  config = pretrain_config(text, steps=1)
  config.model.update(
    {'attention_backend': 'pallas_shared', 'attention_dropout': 0.0}
  )
  results = pretrain(config, tmp_path)
  assert open_saved(tmp_path).config.attention_backend == 'xla'
  # The same run, to go on with or to be done with.
  config.model.attention_backend = 'auto'
  assert pretrain(config, tmp_path) == results


def padded(dtype=jnp.bfloat16):
  """Queries, keys, values, and rows of 128, 7 and 0 tokens."""
  rng = np.random.default_rng(0)
  lengths = np.array([128, 7, 0])
  segments = np.arange(128)[None, :] < lengths[:, None]
  qkv = (rng.normal(size=(3, 128, 2, 64)) for _ in range(3))
  return *(jnp.asarray(x, dtype) for x in qkv), segments.astype(np.int32)


def gradients_of(attend):
  """Of queries, keys and values, in the sum of squares of real tokens."""

  def loss(q, k, v, segments):
    context = attend(q, k, v, segments).astype(jnp.float32)
    return (jnp.square(context) * (segments > 0)[:, :, None, None]).sum()

  return jax.jit(jax.grad(loss, argnums=(0, 1, 2)))


def test_cudnn_is_called_forward_and_backward(monkeypatch):
  # As far as it goes without a GPU: JAX asks for the version of cuDNN, and
  # then lowers for one.
  from jax._src.cudnn import fused_attention_stablehlo

  monkeypatch.setattr(
    fused_attention_stablehlo, 'check_cudnn_version', lambda: 91000
  )
  traced = gradients_of(backends.cudnn_attention).trace(*padded())
  text = traced.lower(lowering_platforms=('cuda',)).as_text()
  for call in ('__cudnn$fmhaSoftmax(', '__cudnn$fmhaSoftmaxBackward('):
    assert text.count(f'@{call}') == 1
  # Lengths, not numbers to add to the scores.
  assert 'ScaleBias' not in text
  assert 'PADDING' in text


@pytest.mark.skipif(jax.default_backend() != 'gpu', reason='wants a GPU')
def test_cudnn_agrees_with_xla():
  q, k, v, segments = padded()
  real = segments > 0
  ours, theirs = (
    np.asarray(jax.jit(attend)(q, k, v, segments), np.float32)
    for attend in (backends.cudnn_attention, backends.xla_attention)
  )
  np.testing.assert_allclose(ours[real], theirs[real], rtol=0, atol=2e-2)
  for ours, theirs in zip(
    gradients_of(backends.cudnn_attention)(q, k, v, segments),
    gradients_of(backends.xla_attention)(q, k, v, segments),
    strict=True,
  ):
    ours, theirs = (np.asarray(x, np.float32) for x in (ours, theirs))
    assert not ours[~real].any()
    scale = np.abs(theirs).max()
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=2e-2 * scale)
