"""Parameters and FLOPs of the six mechanisms, side by side."""

from collections.abc import Mapping, Sequence

from shared_bert.model import parameters
from shared_bert.model.config import ATTENTIONS
from shared_bert.planning.subject import Subject

_WIDTH = 12


def table(
  title: str,
  columns: Sequence[str],
  rows: Mapping[str, Sequence[str]],
  marked: str,
) -> list[str]:
  """Lines of a table of right-aligned texts.

  Args:
    title: of the first column.
    columns: names of the others.
    rows: texts of each column, by the row's name.
    marked: the column that gets a star.
  """
  names = [f'{name}*' if name == marked else name for name in columns]
  return [
    f'{title:26}' + ''.join(f'{name:>{_WIDTH}}' for name in names),
    *(
      f'  {name:24}' + ''.join(f'{text:>{_WIDTH}}' for text in texts)
      for name, texts in rows.items()
    ),
  ]


def beside_standard(values: Mapping[str, float]) -> list[str]:
  """Each mechanism's number as a difference to standard's, in percent."""
  standard = values['standard']
  return [
    f'{value / standard - 1:+.2%}' if value != standard else '='
    for value in values.values()
  ]


def parameter_lines(subject: Subject) -> list[str]:
  """`BertModel`'s parameters by block, of each mechanism."""
  counts = {
    name: parameters.count_by_block(subject.with_attention(name))
    for name in ATTENTIONS
  }
  blocks = list(counts['standard'])
  layers = subject.model.num_layers
  rows = {
    block: [f'{count[block]:,}' for count in counts.values()]
    for block in blocks
  }
  rows['query/key/value a layer'] = [
    f'{count["query/key/value"] // layers:,}' for count in counts.values()
  ]
  rows['total to standard'] = beside_standard(
    {name: count['total'] for name, count in counts.items()}
  )
  trained = parameters.count(
    parameters.abstract(subject.build(subject.model).make)
  )
  head = 'without pooler, with what predicts words'
  if subject.has_pairs:
    head = 'with what predicts words and next sentences'
  elif subject.num_outputs:
    head = f'with a classifier of {subject.num_outputs} outputs'
  elif subject.targets is not None:
    head = 'without pooler, with what finds spans'
  return [
    *table('parameters', ATTENTIONS, rows, subject.model.attention),
    f'  trained by this run: {trained:,} ({head})',
  ]


def flops_lines(subject: Subject) -> list[str]:
  """MFLOPs a token, forward by block and in a training step."""
  seq_len = subject.seq_lens[0]
  forward = {name: subject.forward_flops(seq_len, name) for name in ATTENTIONS}
  rows = {
    block: [_mega(blocks[block]) for blocks in forward.values()]
    for block, value in forward['standard'].items()
    if value
  }
  rows['forward'] = [_mega(sum(b.values())) for b in forward.values()]
  for length in dict.fromkeys(subject.seq_lens):
    train = {name: subject.train_flops(length, name) for name in ATTENTIONS}
    of = '' if length == seq_len else f', {length} tokens'
    rows[f'training step{of}'] = [_mega(value) for value in train.values()]
    rows[f'to standard{of}'] = beside_standard(train)
  title = f'MFLOPs a token of {seq_len}'
  return table(title, ATTENTIONS, rows, subject.model.attention)


def _mega(flops: float) -> str:
  return f'{flops / 1e6:,.3f}'
