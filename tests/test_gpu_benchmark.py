"""The measurement for accelerators: whole, compared, and over in time."""

import json
import math
import os
import pathlib
import subprocess
import sys

import pytest

_ROOT = pathlib.Path(__file__).parents[1]
# What the machine it is for may lack.
_ABSENT = ('tensorflow', 'clu', 'tensorflow_datasets', 'grain', 'tf_keras')
_RUN = f"""
import runpy, sys
script, absent = sys.argv[1], {_ABSENT}
sys.path.insert(0, script.rpartition('/')[0])
sys.argv = sys.argv[1:]
runpy.run_path(script, run_name='__main__')
found = [name for name in absent if name in sys.modules]
assert not found, found
"""


def measure(output, *flags):
  """Runs it in a process of its own, to what it wrote and printed."""
  script = _ROOT / 'benchmarks' / 'gpu.py'
  result = subprocess.run(
    [sys.executable, '-W', 'error', '-c', _RUN, str(script), str(output)]
    + ['--reduced', *flags],
    env=os.environ | {'PYTHONPATH': str(_ROOT)},
    capture_output=True,
    text=True,
    check=False,
  )
  assert not result.returncode, result.stdout + result.stderr
  return json.loads(output.read_text()), result.stdout


def numbers(found):
  """Of all ratios, seconds and rates of a case."""
  for row in found['ratios']:
    yield from row['wall'].values()
  for clocks in found['seconds'].values():
    yield from clocks['wall'].values()
  for rates in found['rates'].values():
    yield from (rate for rate in rates.values() if rate is not None)


def check(told, sections):
  assert list(told['sections']) == sections
  assert told['failed'] == {}
  assert told['left_out'] == []
  for cases in told['sections'].values():
    for case, found in cases.items():
      assert found['errors'] == {}, case
      assert found['parity'], case
      assert all(row['held'] for row in found['parity']), found['parity']
      values = list(numbers(found))
      assert values and all(0 < x < math.inf for x in values), case


def test_kernels_and_packed_rows_are_compared_then_timed(tmp_path):
  sections = ['ceilings', 'attention', 'packing']
  told, printed = measure(
    tmp_path / 'gpu.json', f'--sections={",".join(sections)}'
  )
  check(told, sections)
  assert printed.endswith((tmp_path / 'gpu.md').read_text() + '\n')
  attention = told['sections']['attention']
  assert len(attention) == 6  # three kinds of rows, with and without gradients
  for found in attention.values():
    (ratio,) = found['ratios']
    assert (ratio['first'], ratio['second']) == (
      'xla of S',
      'pallas_shared of S',
    )
  (packing,) = told['sections']['packing'].values()
  assert packing['padding']['packed'] < 0.1 < packing['padding']['padded']
  compared = {(row['first'], row['second']) for row in packing['ratios']}
  assert ('standard, xla, padded', 'standard, xla, packed') in compared
  assert told['clocks_before'] is None or 'name' in told['clocks_before']
  assert {'jax', 'torch'} <= told['versions'].keys()


@pytest.mark.slow
def test_steps_and_peers_are_compared_then_timed(tmp_path):
  pytest.importorskip('torch')
  pytest.importorskip('transformers')
  sections = ['steps', 'peers']
  told, _ = measure(tmp_path / 'gpu.json', f'--sections={",".join(sections)}')
  check(told, sections)
  (steps,) = told['sections']['steps'].values()
  compared = {(row['first'], row['second']) for row in steps['ratios']}
  assert compared == {
    ('standard, xla, scanned, packed', 'shared, xla, scanned, packed'),
    (
      'standard, xla, scanned, packed',
      'shared, pallas_shared, scanned, packed',
    ),
    ('shared, xla, scanned, packed', 'shared, pallas_shared, scanned, packed'),
  }
  (peers,) = told['sections']['peers'].values()
  assert list(peers['seconds']) == [
    'Hugging Face',
    'Hugging Face, gathered head',
    'standard',
    'shared',
  ]


def test_what_there_is_no_time_for_is_told(tmp_path):
  told, printed = measure(tmp_path / 'gpu.json', '--minutes=0.05')
  assert told['left_out']
  assert 'Left out for time: ' in printed
  assert told['seconds'] < 30
