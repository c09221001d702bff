"""The exported program, run by JAX alone: our numbers for rows of any shape."""

import json
import subprocess
import sys

import jax
import numpy as np
import pytest
import safetensors.numpy
from jax import export

from shared_bert.interop import stablehlo
from tests.test_interop import HEADS, assert_same, outputs_of, saved_model
from tests.tiny_model import token_rows


@pytest.mark.parametrize('head', HEADS)
def test_the_program_computes_our_numbers_for_rows_of_any_shape(head, tmp_path):
  saved = saved_model(head)
  stablehlo.write(saved, tmp_path)
  program = export.deserialize(
    bytearray((tmp_path / 'program.stablehlo').read_bytes())
  )
  assert program.platforms == stablehlo.PLATFORMS
  params = safetensors.numpy.load_file(tmp_path / 'params.safetensors')
  for lengths, sequence in (((12, 7, 3), 12), ((5,), 8)):
    rows = token_rows(lengths, sequence)
    found = [
      np.asarray(x) for x in jax.tree.leaves(program.call(params, *rows))
    ]
    assert_same(outputs_of(saved, *rows), found, rows[2], head)
  told = json.loads((tmp_path / 'program.json').read_text())
  assert len(told['outputs']) == len(found)


def test_a_process_without_our_code_runs_it(commands, pretrained, tmp_path):
  output = tmp_path / 'program'
  done = commands.run(
    'export',
    '--format=stablehlo',
    f'--checkpoint={pretrained}',
    f'--output={output}',
  )
  assert done.code == 0, done.err
  loader = """
import sys, jax, numpy as np, tokenizers
from jax import export
from safetensors.numpy import load_file
with open('program/program.stablehlo', 'rb') as file:
  program = export.deserialize(bytearray(file.read()))
params = load_file('program/params.safetensors')
tokenizer = tokenizers.Tokenizer.from_file('program/tokenizer.json')
text = tokenizer.encode('the [MASK] runs')
columns = text.ids, text.type_ids, text.attention_mask
logits = program.call(params, *(np.array([x], np.int32) for x in columns))
assert 'shared_bert' not in sys.modules
print(logits.shape, bool(np.isfinite(logits).all()))
"""
  done = subprocess.run(
    [sys.executable, '-c', loader],
    cwd=tmp_path,
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stderr
  assert done.stdout.startswith('(1, 5, ') and 'True' in done.stdout
