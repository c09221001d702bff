"""A small run on SQuAD, for the modules that test such."""

import pathlib

import jax

from shared_bert import span_config, validation
from shared_bert.training import mesh as mesh_lib
from tests.tiny_jobs import shrink

STEPS = 200


def config_of(train, dev=None, **changes):
  config = shrink(span_config.squad_defaults(), steps=STEPS, log_every=50)
  config.data.update(
    {
      'train_file': str(train),
      'dev_file': str(dev or train),
      'vocab': str(pathlib.Path(train).with_name('vocab.txt')),
      'seq_len': 20,
      'stride': 8,
      'question_length': 4,
      'length_buckets': (),
      'eval_batch_size': 8,
    }
  )
  config.model.update({'hidden_size': 32, 'hidden_dropout': 0.0})
  config.model.attention_dropout = 0.0
  config.train.update({'learning_rate': 1e-2, 'eval_every': STEPS})
  config.update_from_flattened_dict(changes)
  if config.init_from:
    config.data.vocab = ''
  validation.validate(config)
  return config


def on_one_device(patch):
  patch.setattr(mesh_lib, 'find_devices', lambda: jax.devices()[:1])
