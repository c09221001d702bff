r"""Uses a trained model: words for a gap, classes, answers, embeddings.

  python -m shared_bert.predict --checkpoint=runs/cola 'The book was read.'
  python -m shared_bert.predict --checkpoint=runs/pretrain 'the [MASK] runs'
  python -m shared_bert.predict --checkpoint=runs/mnli --file=pairs.tsv \
    --text_columns=premise,hypothesis --output=answers.jsonl
  python -m shared_bert.predict --checkpoint=bert-squad \
    $'Who wrote it?\tThe book was written by Mary Shelley.'

Texts are those behind the flags, or the lines of --file, or of standard input,
an empty one too; a tab parts the two of a pair, a question before the text it
is about. --output=FILE is a table if it ends in .csv or .tsv, and JSON lines
with all that is known in .jsonl.
"""

import os
import pathlib
import sys
from collections.abc import Iterator, Sequence

from absl import flags

from shared_bert import answers, command_line, compilation_cache
from shared_bert.checkpoint_flag import CHECKPOINT
from shared_bert.data import table_files, text_files
from shared_bert.errors import UserError
from shared_bert.interop.pooling import POOLINGS
from shared_bert.output_flag import OUTPUT
from shared_bert.texts import Place, Text, numbered

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
  'pooling',
  None,
  POOLINGS,
  'What an embedding is made of; by itself as in a folder of '
  'sentence-transformers, else cls.',
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
  kind = answers.format_of(OUTPUT.value, _JSON.value)
  if output and output.exists():
    raise UserError(f'--output={output} is there already: name another file.')
  texts, place = _read(words)
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
  found = predict(texts, _progress, place)
  if predict.cut:
    cut = 'questions' if predict.task == 'answer' else 'texts'
    print(
      f'{predict.cut} of {len(texts)} {cut} are longer than the model reads; '
      'their ends did not count.',
      file=sys.stderr,
    )
  gapless = [i for i, answer in enumerate(found) if answer.get('masks') == []]
  if gapless:
    print(
      f'{len(gapless)} of {len(texts)} texts have no [MASK] to fill where the '
      f'model reads; the first is {place(gapless[0])}.',
      file=sys.stderr,
    )
  if output is None:
    for line in answers.lines(kind, texts, found, sys.stdout.isatty()):
      print(line)
    return
  output.parent.mkdir(parents=True, exist_ok=True)
  partial = output.with_name(f'.{output.name}.{os.getpid()}.partial')
  try:
    with partial.open('w', encoding='utf-8', newline='\n') as stream:
      for line in answers.lines(kind, texts, found):
        stream.write(f'{line}\n')
    partial.rename(output)
  finally:
    partial.unlink(missing_ok=True)


def _read(words: list[str]) -> tuple[list[Text], Place]:
  """The texts, in their order, and what errors call each."""
  if words:
    return [_pair(w, numbered(i)) for i, w in enumerate(words)], numbered
  name = _FILE.value or '-'
  path = pathlib.Path(command_line.expand_home(name))
  inner = path.with_suffix('') if path.suffix in text_files.PACKED else path
  if inner.suffix.lower() in table_files.ENDINGS:
    return _read_table(path)
  if _TEXT_COLUMNS.present:
    raise UserError(
      f'--text_columns={",".join(_TEXT_COLUMNS.value)} names columns of a '
      f'--file that ends in {", ".join(table_files.ENDINGS)}: a tab parts the '
      'two texts of a line.'
    )
  source = 'standard input' if name == '-' else str(path)

  def place(index: int) -> str:
    return f'{source}, line {index + 1}'

  if name == '-':
    lines = _standard_input()
  elif path.exists():
    lines = text_files.read_lines(path)
  else:
    raise UserError(f'--file={path}: there is no such file.')
  texts = [_pair(line, place(number - 1)) for number, line in lines]
  if not texts:
    raise UserError(f'{source} is empty: give a text a line.')
  return texts, place


def _standard_input() -> Iterator[tuple[int, str]]:
  if sys.stdin is None:  # closed, as by `<&-`
    return
  if sys.stdin.isatty():
    print('a text a line; Ctrl-D ends them', file=sys.stderr)
  for number, line in enumerate(sys.stdin.buffer, 1):
    yield number, text_files.decode_line('standard input', number, line)


def _read_table(path: pathlib.Path) -> tuple[list[Text], Place]:
  names = [name.strip() for name in _TEXT_COLUMNS.value]
  if len(names) not in (1, 2):
    raise UserError(
      f'--text_columns={",".join(names)} should be one column, or two.'
    )
  table = table_files.read_table(
    path, '--file', names, column_keys='--text_columns'
  )
  first, *second = (table.columns[name] for name in names)
  texts: list[Text] = [*(zip(first, *second, strict=True) if second else first)]
  return texts, lambda index: f'{path}, line {table.lines[index]}'


def _pair(text: str, place: str) -> Text:
  first, *rest = text.split('\t')
  if len(rest) > 1:
    raise UserError(f'{place} has {len(rest)} tabs: one parts a pair.')
  return (first, rest[0]) if rest else text


def _progress(done: int, total: int) -> None:
  if sys.stderr.isatty() and total > _BATCH_SIZE.value:
    end = '\n' if done == total else ''
    print(f'\r{done:,} of {total:,} rows', end=end, file=sys.stderr, flush=True)


def run(argv: Sequence[str]) -> int:
  """The command; see the top of the file.

  Args:
    argv: of the process.

  Returns:
    The exit code.
  """
  return command_line.run(_command, argv, takes_words=True, resumes=False)


if __name__ == '__main__':
  sys.exit(run(sys.argv))
