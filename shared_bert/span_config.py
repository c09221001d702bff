"""The keys of fine-tuning on SQuAD: `config.py` with other data."""

from ml_collections import ConfigDict

from shared_bert import config as config_lib


def asks_for_spans(data: ConfigDict) -> bool:
  """Whether these `data` keys are of questions, not of classes or scores."""
  return 'stride' in data


def squad_defaults() -> ConfigDict:
  """Fine-tuning on questions whose answers are spans of a text.

  Defaults are the flags of google-research/bert `run_squad.py`, its rows those
  of the README's command for SQuAD.
  """
  config = config_lib.finetune_defaults()
  del config['from_mnli'], config['data']  # of several tasks, of classes
  config.update(
    {
      'data': {
        'source': 'files',  # the only one
        'task': 'squad',  # a name for recipes and results
        'train_file': '',  # train-v1.1.json or train-v2.0.json
        'dev_file': '',  # evaluated: dev-v1.1.json or dev-v2.0.json
        'train_questions': 0,  # drawn, the same by any run; 0: all
        'dev_questions': 0,  # drawn likewise; 0: all
        'vocab': '',  # without init_from: vocab.txt or tokenizer.json
        'vocab_size': 30522,  # without both: one is made of the train texts
        'seq_len': 384,  # of a question and a window on its context
        'stride': 128,  # tokens from one window to the next
        'question_length': 64,  # tokens; what is more is cut from the end
        'answer_length': 30,  # tokens of a predicted answer, at most
        'n_best': 20,  # answers to a question in nbest_predictions.json
        # Version 2.0: no answer where its logits exceed the best one's by more.
        'null_threshold': 0.0,
        'length_buckets': (128, 192, 256, 320, 384),  # lengths of rows
        'eval_batch_size': 32,  # windows, over all devices
      }
    }
  )
  return config
