"""The exported ONNX, run by ONNX Runtime: our numbers for rows of any shape."""

import json

import numpy as np
import pytest

from shared_bert.errors import UserError
from shared_bert.interop import onnx
from shared_bert.model.config import ATTENTIONS
from tests.test_interop import HEADS, outputs_of, saved_model
from tests.tiny_model import token_rows

NAMES = ('input_ids', 'token_type_ids', 'attention_mask')
SHAPES = (((12, 7, 3), 12), ((5,), 8), ((1,), 1), ((16,) * 5, 16))


@pytest.mark.parametrize(
  ('attention', 'head'),
  [
    *((attention, 'masked_lm') for attention in ATTENTIONS),
    *(('shared', head) for head in HEADS[1:]),
  ],
)
def test_onnx_runtime_computes_our_numbers_for_rows_of_any_shape(
  attention, head, tmp_path
):
  for package in ('onnx', 'onnxscript', 'torch', 'transformers'):
    pytest.importorskip(package)
  runtime = pytest.importorskip('onnxruntime')
  saved = saved_model(head, attention=attention)
  onnx.write(saved, tmp_path)
  assert sorted(p.name for p in tmp_path.iterdir()) == [
    'config.json',
    'model.onnx',
    'tokenizer.json',
    'tokenizer_config.json',
    'vocab.txt',
  ]
  session = runtime.InferenceSession(
    tmp_path / 'model.onnx', providers=['CPUExecutionProvider']
  )
  assert {x.name for x in session.get_inputs()} == {*NAMES}
  for lengths, sequence in SHAPES:
    rows = token_rows(lengths, sequence)
    found = session.run(
      None,
      {
        n: np.asarray(row, np.int64) for n, row in zip(NAMES, rows, strict=True)
      },
    )
    ours, real = outputs_of(saved, *rows), np.asarray(rows[2]) > 0
    assert len(found) == len(ours)
    for a, b in zip(ours, found, strict=True):
      assert a.shape == b.shape
      if a.shape[:2] == real.shape:
        a, b = a[real], b[real]
      np.testing.assert_allclose(a, b, rtol=0, atol=1e-4)
  told = json.loads((tmp_path / 'config.json').read_text())
  assert told['model_type'] == 'bert'


def test_without_the_extra_it_says_how_to_install_it(monkeypatch, tmp_path):
  find = onnx.importlib.util.find_spec
  monkeypatch.setattr(
    onnx.importlib.util,
    'find_spec',
    lambda name: None if name == 'onnxscript' else find(name),
  )
  with pytest.raises(UserError, match=r'onnxscript.*shared_bert\[onnx\]'):
    onnx.write(saved_model(), tmp_path)
  assert not list(tmp_path.iterdir())
