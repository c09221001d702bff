"""What every test shares: eight simulated devices and the data folder."""

import importlib.metadata
import os
import pathlib
import tempfile

# Before JAX is imported anywhere: 8 simulated devices unless told otherwise,
# so that one suite covers one device (`SHARED_BERT_TEST_DEVICES=1`) and many.
_DEVICES = os.environ.get('SHARED_BERT_TEST_DEVICES', '8')
os.environ.setdefault('JAX_PLATFORMS', 'cpu')
os.environ.setdefault('JAX_NUM_CPU_DEVICES', _DEVICES)
# Threads of XLA's pool. With one a device, as it is otherwise, the devices can
# each take them up waiting in another all-reduce: nobody arrives, and XLA
# aborts the process after 40 seconds.
os.environ.setdefault('NPROC', '64')
# Tests compile much and compute little: less optimisation, and one compilation
# for equal programs, take the suite from an hour to minutes. What is tested
# does not depend on either. Processes that tests start inherit all of it.
os.environ.setdefault('JAX_DISABLE_MOST_OPTIMIZATIONS', 'true')
if importlib.metadata.version('jaxlib').startswith('0.10.'):
  # The slower compiler of two; later releases have no choice.
  os.environ.setdefault('XLA_FLAGS', '--xla_cpu_use_fusion_emitters=false')
if 'JAX_COMPILATION_CACHE_DIR' not in os.environ:
  _CACHE = tempfile.TemporaryDirectory(prefix='shared_bert_tests_')
  os.environ['JAX_COMPILATION_CACHE_DIR'] = _CACHE.name
  os.environ['JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS'] = '0.5'

import pytest  # noqa: E402

from tests.command_server import CommandServer  # noqa: E402

# Fixtures for every module.
from tests.tiny_jobs import (  # noqa: E402, F401
  all_of_glue,
  glue,
  pretrained,
  text,
  uneven_files,
)


@pytest.fixture(scope='session')
def shared_data() -> pathlib.Path:
  """Real data beside the checkout; tests that want it skip without it."""
  folder = pathlib.Path(__file__).parents[2] / 'shared' / 'data'
  if not folder.is_dir():
    pytest.skip(f'no data folder {folder}')
  return folder


@pytest.fixture(scope='session')
def commands():
  """The commands, on two devices, without their imports each time."""
  environment = {
    'JAX_NUM_CPU_DEVICES': '2',
    # They compile the same few programs.
    'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',
  }
  with CommandServer(environment) as server:
    yield server
