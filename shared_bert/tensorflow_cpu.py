"""TensorFlow is for files only: imported late and kept off accelerators."""

import os
from typing import Any


def import_tensorflow() -> Any:
  """Imports TensorFlow, which then sees neither GPU nor TPU.

  JAX has the accelerators; TensorFlow would take their memory.

  Returns:
    The module `tensorflow`.

  Raises:
    ImportError: it is not installed.
  """
  os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '2')
  # On some processors it tells of these whatever the log level; it computes
  # nothing here that they would speed up.
  os.environ.setdefault('TF_ENABLE_ONEDNN_OPTS', '0')
  import tensorflow as tf

  tf.config.set_visible_devices([], 'GPU')
  tf.config.set_visible_devices([], 'TPU')
  return tf
