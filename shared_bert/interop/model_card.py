"""The README.md of an exported model: what it is, how good, how to use it."""

from typing import Any

from shared_bert.interop.saved import SavedModel
from shared_bert.model import parameters
from shared_bert.model.config import BertConfig

_METHODS = {
  'standard': 'separate matrices for queries, keys and values, as in BERT',
  'shared': 'one matrix W_s and three diagonals (Kowsher et al., arXiv '
  '2412.00359): W_q = W_s·diag(d_q), and so for keys and values',
  'symmetric': 'keys that are the queries (Courtois et al., arXiv 2406.06366)',
  'pairwise': 'scores Q·U·Qᵀ with one U a head (Courtois et al., arXiv '
  '2406.06366)',
  'tied': 'queries, keys and values that are one projection',
  'tied_kv': 'values that are the keys',
}
_USE = {
  'pretraining': 'AutoModelForMaskedLM',
  'masked_lm': 'AutoModelForMaskedLM',
  'classification': 'AutoModelForSequenceClassification',
  'question_answering': 'AutoModelForQuestionAnswering',
  'encoder': 'AutoModel',
}
_PIPELINES = {
  'pretraining': 'fill-mask',
  'masked_lm': 'fill-mask',
  'classification': 'text-classification',
  'question_answering': 'question-answering',
  'encoder': 'feature-extraction',
}


def write(saved: SavedModel, class_name: str, exported: int) -> str:
  """The text of a model card.

  Args:
    saved: the model.
    class_name: of transformers, that the folder loads as.
    exported: how many numbers the folder's weights are.

  Returns:
    Markdown, with the header that Hugging Face reads.
  """
  config = saved.config
  ours, theirs = parameters.beside_standard(config)['query/key/value']
  lines = [
    '---',
    'library_name: transformers',
    f'pipeline_tag: {_PIPELINES[saved.head]}',
    'tags: [bert, shared_bert]',
    '---',
    '',
    f'# {class_name}, trained with {config.attention} attention',
    '',
    f'Trained by shared_bert with {_method(config)}, and written as a standard '
    'BERT that computes the same function.',
    '',
    '| parameters | trained | in this folder |',
    '|---|---:|---:|',
    f'| query/key/value | {ours:,} | {theirs:,} |',
    f'| all, head included | {parameters.count(saved.params):,} '
    f'| {exported:,} |',
    '',
    f'{config.num_layers} layers of width {config.hidden_size}, '
    f'{config.num_heads} heads, {config.vocab_size:,} word pieces, '
    f'{"lower-cased" if saved.tokenizer.lowercase else "cased"}; rows of up to '
    f'{saved.seq_len} tokens in training, {config.max_positions} positions.',
    '',
    '## Use',
    '',
    '```python',
    f'from transformers import AutoTokenizer, {_USE[saved.head]}',
    '',
    "tokenizer = AutoTokenizer.from_pretrained('this-folder')",
    f"model = {_USE[saved.head]}.from_pretrained('this-folder')",
    '```',
  ]
  if saved.label_names:
    lines += ['', f'Classes: {", ".join(saved.label_names)}.']
  elif saved.classifies:
    lines += ['', 'Its one output is a score.']
  return '\n'.join([*lines, *_training(saved.facts), ''])


def _method(config: BertConfig) -> str:
  if rank := config.residual_rank:
    return (
      'one matrix W_s, and for each role a diagonal, a bias and two matrices '
      f'of rank {rank}: W_q = W_s·diag(d_q) + A_q·B_q, and so for keys and '
      'values. That adds to the method of Kowsher et al. (arXiv 2412.00359), '
      'which is rank 0'
    )
  bias = ', with a bias for each role' if config.role_bias else ''
  return _METHODS[config.attention] + bias


def _training(facts: dict[str, Any]) -> list[str]:
  run = facts.get('run')
  if not run:
    return []
  data, train = run['data'], run['train']
  of_what = data.get('task') or data.get('corpus') or data.get('text')
  lines = [
    '',
    '## Training',
    '',
    f'- job: {run["job"]}, seed {run["seed"]}, step {facts["step"]:,}',
    f'- data: {of_what or data["source"]}',
    f'- {train["optimizer"]}, learning rate {train["learning_rate"]}, '
    f'{train["batch_size"]} rows a step',
  ]
  if run.get('init_from'):
    lines.append(f'- started from {run["init_from"]}')
  if share := train.get('distill_weight'):
    lines.append(
      f'- {share:.0%} of the loss was learnt from its predictions (Hinton et '
      'al., arXiv 1503.02531), at temperature '
      f'{train["distill_temperature"]:g}'
    )
  versions = facts.get('versions', {})
  told = ', '.join(f'{name} {v}' for name, v in sorted(versions.items()))
  lines += [f'- {told}'] if told else []
  metrics = {k: v for k, v in facts.get('metrics', {}).items() if v is not None}
  if metrics:
    lines += ['', '| metric | value |', '|---|---:|']
    lines += [f'| {k} | {v:.4f} |' for k, v in sorted(metrics.items())]
  return lines
