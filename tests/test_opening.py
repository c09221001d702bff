"""What is no model says what would be one, and how it is fetched."""

import pytest

import shared_bert
from shared_bert.errors import UserError
from shared_bert.interop import huggingface, stablehlo
from shared_bert.training.checkpoint import open_checkpoint
from tests.test_interop import saved_model

KINDS = (
  'name a workdir',
  'config.json, model.safetensors and a vocabulary',
  'a checkpoint of google-research/bert',
)


def refusal(path):
  with pytest.raises(UserError) as error:
    shared_bert.load(path)
  return str(error.value)


@pytest.fixture(autouse=True)
def inside(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  (tmp_path / 'runs').mkdir()
  (tmp_path / 'weights.bin').write_bytes(b'')


@pytest.mark.parametrize(
  ('named', 'what'),
  [
    ('none', 'none is not there'),
    ('weights.bin', 'weights.bin is a file'),
    ('runs', 'no intact checkpoint in'),
  ],
)
def test_every_kind_that_is_taken_is_named(named, what):
  told = refusal(named)
  assert all(words in told for words in (what, *KINDS)), told


@pytest.mark.parametrize(
  ('named', 'name'),
  [
    ('bert-base-uncased', 'bert-base-uncased'),
    ('google-bert/bert-base-uncased', 'bert-base-uncased'),
    ('sentence-transformers/all-MiniLM-L6-v2', 'all-MiniLM-L6-v2'),
  ],
)
def test_a_name_of_the_hub_says_how_it_is_fetched(named, name):
  told = refusal(named)
  assert 'Nothing is downloaded' in told
  assert f'`hf download {named} --local-dir {name}`' in told
  assert told.endswith(f'./{name}.')


@pytest.mark.parametrize(
  'named', ['./none', 'runs/none', '/none', 'a/b/c', 'a b', '$(x)', '~/none']
)
def test_a_path_is_no_name_of_the_hub(named):
  assert 'download' not in refusal(named)


def test_a_run_is_told_the_same_as_who_uses_a_model():
  with pytest.raises(UserError, match='hf download bert-base-uncased'):
    open_checkpoint('bert-base-uncased')


def test_an_exported_program_is_told_from_a_model(tmp_path):
  saved = saved_model()
  programs = tmp_path / 'stablehlo', tmp_path / 'onnx'
  for folder in programs:
    folder.mkdir()
  stablehlo.write(saved, programs[0])
  # As `onnx.write` leaves it: a folder of Hugging Face's without its weights.
  huggingface.write(saved, programs[1])
  (programs[1] / 'model.safetensors').rename(programs[1] / 'model.onnx')
  for path, loader in (
    (programs[0], 'jax.export.deserialize'),
    (programs[0] / 'program.stablehlo', 'jax.export.deserialize'),
    (programs[1], 'onnxruntime.InferenceSession'),
    (programs[1] / 'model.onnx', 'onnxruntime.InferenceSession'),
  ):
    told = refusal(str(path))
    assert told.startswith(f'{path} is a program (')
    assert f'which {loader} loads and nothing here' in told
    assert 'name the checkpoint that it was exported from' in told


def test_a_program_beside_a_model_does_no_harm(tmp_path):
  huggingface.write(saved_model(), tmp_path / 'runs')
  (tmp_path / 'runs' / 'model.onnx').write_bytes(b'')
  assert shared_bert.load('runs').task == 'fill-mask'
