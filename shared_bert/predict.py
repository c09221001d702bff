r"""Uses a trained model: words for a gap, classes, answers, embeddings.

  python -m shared_bert.predict --checkpoint=runs/cola 'The book was read.'
  python -m shared_bert.predict --checkpoint=runs/pretrain 'the [MASK] runs'
  python -m shared_bert.predict --checkpoint=runs/mnli --file=pairs.tsv \
    --text_columns=premise,hypothesis --output=answers.jsonl
  python -m shared_bert.predict --checkpoint=bert-squad \
    $'Who wrote it?\tThe book was written by Mary Shelley.'

Texts are those behind the flags, or the lines of --file, or of standard input;
a tab parts the two of a pair, a question before the text it is about.
"""

import json
import os
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

from absl import flags

from shared_bert import command_line, compilation_cache
from shared_bert.checkpoint_flag import CHECKPOINT
from shared_bert.errors import UserError, printable
from shared_bert.output_flag import OUTPUT

flags.declare_key_flag(CHECKPOINT)
flags.declare_key_flag(OUTPUT)
_TASK = flags.DEFINE_enum(
  'task',
  None,
  ['fill-mask', 'classify', 'answer', 'embed'],
  'What to do; by itself what the model was trained for.',
)
_FILE = flags.DEFINE_string(
  'file', None, 'A file: .csv, .tsv or .jsonl, else a text a line; - is stdin.'
)
_TEXT_COLUMNS = flags.DEFINE_list(
  'text_columns', ['text'], 'Of a file with columns: one, or two of a pair.'
)
_JSON = flags.DEFINE_bool('json', False, 'Write JSON lines.')
_TOP_K = flags.DEFINE_integer('top_k', 5, 'Words for a gap, classes, answers.')
_POOLING = flags.DEFINE_enum(
  'pooling', 'cls', ['cls', 'mean'], 'What an embedding is made of.'
)
_NO_ANSWER = flags.DEFINE_bool(
  'no_answer', False, 'A question may have no answer in its text.'
)
_BATCH_SIZE = flags.DEFINE_integer('batch_size', 32, 'Texts at once.')


def _command(words: list[str]) -> None:
  if not CHECKPOINT.value:
    raise UserError(
      '--checkpoint is not set: python -m shared_bert.predict '
      '--checkpoint=runs/cola "The book was read by me."'
    )
  if words and _FILE.value:
    raise UserError('texts are given twice, behind the flags and by --file.')
  output = None
  if OUTPUT.value:
    output = pathlib.Path(command_line.expand_home(OUTPUT.value))
  if output and output.exists():
    raise UserError(f'--output={output} is there already: name another file.')
  texts = _read(words)
  # Imported late, for --help's sake.
  import shared_bert

  compilation_cache.keep_programs()
  predict = shared_bert.load(
    command_line.expand_home(CHECKPOINT.value),
    _TASK.value,
    top_k=_TOP_K.value,
    pooling=_POOLING.value,
    no_answer=_NO_ANSWER.value,
    batch_size=_BATCH_SIZE.value,
  )
  answers = predict(texts, _progress)
  if predict.cut:
    cut = 'questions' if predict.task == 'answer' else 'texts'
    print(
      f'{predict.cut} of {len(texts)} {cut} are longer than the model reads; '
      'their ends did not count.',
      file=sys.stderr,
    )
  as_json = _JSON.value or (output and output.suffix in ('.json', '.jsonl'))
  lines = [
    (_as_json if as_json else _as_line)(text, answer)
    for text, answer in zip(texts, answers, strict=True)
  ]
  if output is None:
    print('\n'.join(lines))
    return
  output.parent.mkdir(parents=True, exist_ok=True)
  partial = output.with_name(f'.{output.name}.{os.getpid()}.partial')
  try:
    partial.write_text('\n'.join(lines) + '\n', encoding='utf-8')
    partial.rename(output)
  finally:
    partial.unlink(missing_ok=True)


def _read(words: list[str]) -> list[Any]:
  """The texts, in their order; pairs as tuples."""
  if words:
    return [_pair(word, f'text {n}') for n, word in enumerate(words, 1)]
  name = _FILE.value or '-'
  if name == '-':
    if sys.stdin.isatty():
      print('a text a line; Ctrl-D ends them', file=sys.stderr)
    place, lines = 'standard input', sys.stdin.read().splitlines()
  else:
    path = pathlib.Path(command_line.expand_home(name))
    if {'.csv', '.tsv', '.jsonl', '.json'} & set(path.suffixes):
      return _read_table(path)
    try:
      place, lines = str(path), path.read_text('utf-8-sig').splitlines()
    except UnicodeDecodeError as error:
      raise UserError(f'--file={path} is not UTF-8 text ({error}).') from error
    except FileNotFoundError as error:
      raise UserError(f'--file={path}: there is no such file.') from error
  texts = [_pair(x, f'{place}, line {n}') for n, x in enumerate(lines, 1)]
  if not texts:
    raise UserError(f'{place} is empty: give a text a line.')
  return texts


def _read_table(path: pathlib.Path) -> list[Any]:
  from shared_bert.data.table_files import read_table

  names = [name.strip() for name in _TEXT_COLUMNS.value]
  if len(names) not in (1, 2):
    raise UserError(
      f'--text_columns={",".join(names)} should be one column, or two.'
    )
  table = read_table(path, '--file', names)
  columns = [table.columns[name] for name in names]
  return columns[0] if len(names) == 1 else list(zip(*columns, strict=True))


def _pair(text: str, place: str) -> str | tuple[str, str]:
  first, *rest = text.split('\t')
  if len(rest) > 1:
    raise UserError(f'{place} has {len(rest)} tabs: one parts a pair.')
  return (first, rest[0]) if rest else text


def _progress(done: int, total: int) -> None:
  if sys.stderr.isatty() and total > _BATCH_SIZE.value:
    end = '\n' if done == total else ''
    print(f'\r{done:,} of {total:,} rows', end=end, file=sys.stderr, flush=True)


def _as_json(text: Any, answer: dict[str, Any]) -> str:
  if 'embedding' in answer:
    answer = {'embedding': [float(x) for x in answer['embedding']]}
  return json.dumps({'text': text, **answer}, ensure_ascii=False)


def _as_line(text: Any, answer: dict[str, Any]) -> str:
  """The answer and the text, with tabs between."""
  if 'masks' in answer:
    found = '; '.join(
      ', '.join(f'{w["token"]} {w["probability"]:.3f}' for w in words)
      for words in answer['masks']
    )
  elif 'embedding' in answer:
    found = ' '.join(f'{x:.6g}' for x in answer['embedding'])
  elif 'score' in answer:
    found = f'{answer["score"]:.4f}'
  elif 'answers' in answer:
    words = ' '.join(answer['answer'].split())
    found = f'{words}\t{answer["probability"]:.4f}'
  else:
    found = f'{answer["label"]}\t{answer["probability"]:.4f}'
  shown = text if isinstance(text, str) else '\t'.join(text)
  return printable(f'{found}\t{" ".join(shown.splitlines())}')


def run(argv: Sequence[str]) -> int:
  """The command; see the top of the file.

  Args:
    argv: of the process.

  Returns:
    The exit code.
  """
  return command_line.run(_command, argv, takes_words=True)


if __name__ == '__main__':
  sys.exit(run(sys.argv))
