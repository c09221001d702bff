"""What every test shares: eight simulated devices and the data folder."""

import os
import pathlib

# Before JAX is imported anywhere: 8 simulated devices unless told otherwise,
# so that one suite covers one device (`SHARED_BERT_TEST_DEVICES=1`) and many.
_DEVICES = os.environ.get('SHARED_BERT_TEST_DEVICES', '8')
os.environ.setdefault('JAX_PLATFORMS', 'cpu')
os.environ.setdefault('JAX_NUM_CPU_DEVICES', _DEVICES)

import pytest  # noqa: E402


@pytest.fixture(scope='session')
def shared_data() -> pathlib.Path:
  """Real data beside the checkout; tests that want it skip without it."""
  folder = pathlib.Path(__file__).parents[2] / 'shared' / 'data'
  if not folder.is_dir():
    pytest.skip(f'no data folder {folder}')
  return folder
