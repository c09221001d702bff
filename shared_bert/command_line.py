"""What the commands share: flags, help, errors as sentences, exit codes.

Exit codes: 0 done, 1 the user can mend it, 75 preempted (start me again),
130 interrupted outside of training, 2 a bug of ours.
"""

import contextlib
import difflib
import errno
import itertools
import os
import pathlib
import re
import runpy
import signal
import sys
import textwrap
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from types import ModuleType
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags

from shared_bert.errors import Preempted, UserError, printable
from shared_bert.training import stopping
from shared_bert.training.workdir import flatten

_VERBOSE = flags.DEFINE_bool(
  'verbose', False, 'Show the traceback of every error.'
)
# Where the text on a flag begins; names are shorter.
_HELP_COLUMN = 21
_HELP = {'--help', '-help', '-h', '--helpshort', '--helpfull'}
# What the file system refuses, and not because of a bug.
_REFUSALS = (
  'EACCES EDQUOT EFBIG EIO EISDIR ELOOP EMFILE ENAMETOOLONG ENFILE ENOSPC '
  'ENOTDIR EPERM EROFS ESTALE'
)
_MENDABLE = {getattr(errno, name, -1) for name in _REFUSALS.split()}
_KINDS = {
  'bool': 'true or false',
  'float': 'a number',
  'int': 'a whole number',
  'tuple': "values with commas between, such as \"('a', 'b')\"",
}


def run(
  command: Callable[..., None],
  argv: Sequence[str],
  takes_words: bool = False,
  resumes: bool = True,
) -> int:
  """Parses flags, runs a command, turns errors into sentences.

  Args:
    command: the function; its module's docstring and flags are the help.
    argv: of the process.
    takes_words: whether the command is called with what is not a flag; else
      that is an error.
    resumes: whether the command, stopped, goes on where it was when it is run
      again; else it begins anew.

  Returns:
    The exit code.
  """
  for name in ('stdout', 'stderr'):
    if getattr(sys, name) is None:  # closed, as by `>&-`: nobody listens
      setattr(sys, name, open(os.devnull, 'w'))
  for stream in (sys.stdout, sys.stderr):
    # A path or a sentence must not fail for a terminal without its letters.
    if hasattr(stream, 'reconfigure'):
      stream.reconfigure(errors='backslashreplace')
  try:
    if _HELP & set(argv):
      print(_help(sys.modules[command.__module__]))
    else:
      words = _parse(argv)
      if words and not takes_words:
        raise UserError(f'{words[0]!r} is not a flag: flags are --name=value.')
      with _stoppable(resumes):
        command(*([words] if takes_words else []))
    sys.stdout.flush()
  except Preempted as error:
    print(error, file=sys.stderr)
    return 75
  except BrokenPipeError:
    # Or Python would complain once more when it closes the stream.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    print(
      'error: nobody reads the output any more: send it to a file instead '
      '(> log.txt), and run the same command again.',
      file=sys.stderr,
    )
    return 1
  except KeyboardInterrupt as error:
    kept = 'what was saved is kept.' if resumes else 'nothing was kept.'
    what = str(error) or kept
    print(f'interrupted; {what}', file=sys.stderr)
    return 130
  except Exception as error:
    sentence = _sentence(error)
    if not sentence or flags.FLAGS['verbose'].value or '--verbose' in argv:
      traceback.print_exc()
    if not sentence:
      print(
        'error: this is a bug of shared_bert, not of yours.', file=sys.stderr
      )
      return 2
    line = printable(' '.join(sentence.splitlines()))
    print('error:', line, file=sys.stderr)
    return 1
  return 0


@contextlib.contextmanager
def _stoppable(resumes: bool) -> Iterator[None]:
  """Ends the command on a signal outside of training, which saves first.

  An exception that a handler raises is dropped where Python happens to be in
  a destructor or a callback of the garbage collector. So the wish is kept
  too, for training to act on after its first step, and a further signal ends
  the process whatever it is in.
  """
  mend = 'run the same command again.'
  if resumes:
    mend = 'what was saved is kept, and the same command goes on from there.'

  def stop(number: int, frame: Any) -> None:
    del frame
    name = signal.Signals(number).name
    if stopping.asked_to_stop():
      if stopping.is_one_wish():
        return
      # Not `print`, which the signal may have come amidst.
      with contextlib.suppress(OSError):
        os.write(2, f'stopped at once by a further {name}.\n'.encode())
      os._exit(75 if number == signal.SIGTERM else 130)
    stopping.ask(name)
    if number == signal.SIGINT:
      raise KeyboardInterrupt
    raise Preempted(f'stopped by SIGTERM; {mend}')

  if threading.current_thread() is not threading.main_thread():
    yield
    return
  stopping.ask(None)
  before = {
    number: signal.signal(number, stop)
    for number in (signal.SIGTERM, signal.SIGINT)
    # Ignored, as by `nohup` or in the background of a script: it stays so.
    if signal.getsignal(number) is not signal.SIG_IGN
  }
  try:
    yield
  finally:
    for number, handler in before.items():
      signal.signal(number, handler)
    stopping.ask(None)


def config_of(flag: flags.FlagHolder) -> tuple[ConfigDict, str]:
  """The config that a flag names.

  Args:
    flag: of `config_flags.DEFINE_config_file`, parsed.

  Returns:
    The config, and the path of its file.

  Raises:
    UserError: if none is named, or the file does not make one.
  """
  if not flags.FLAGS[flag.name].present:
    raise UserError('name a config: --config=configs/quickstart.py')
  named = config_flags.get_config_filename(flags.FLAGS[flag.name])
  if not isinstance(flag.value, ConfigDict):
    _load_config(named)  # says why
  return flag.value, named.partition(':')[0]


def expand_home(paths: str) -> str:
  """Paths with commas between, `~` replaced: few shells do it after a `=`."""
  return ','.join(map(os.path.expanduser, paths.split(',')))


def expand_homes(config: ConfigDict) -> None:
  """Replaces `~` at the beginning of every text of a config."""
  for key, value in config.items():
    if isinstance(value, ConfigDict):
      expand_homes(value)
    elif isinstance(value, str) and '~' in value:
      config[key] = expand_home(value)


def nearest(name: str, known: Iterable[str]) -> str | None:
  """The dotted name that was most likely meant, if any comes near."""
  known = list(known)
  last = name.rpartition('.')[2]
  in_another_section = [k for k in known if k.rpartition('.')[2] == last]
  close = difflib.get_close_matches(name, known, n=1)
  return next(iter(in_another_section + close), None)


def _sentence(error: Exception) -> str:
  """What the user can do about an error; empty for a bug of ours."""
  if isinstance(error, UserError):
    return str(error)
  if isinstance(error, OSError) and error.errno in _MENDABLE:
    return (
      f'{error.filename or "a file"} cannot be read or written '
      f'({error.strerror}): make room, mend its permissions or name another '
      'place, and run the same command again.'
    )
  # Of JAX, which is not imported for this.
  if 'RESOURCE_EXHAUSTED' in str(error) or isinstance(error, MemoryError):
    return (
      'the memory is not enough: lower train.batch_size (or raise '
      'train.accumulation), data.eval_batch_size or data.seq_len, set '
      'model.remat=full, or take a smaller model.'
    )
  return ''


def _parse(argv: Sequence[str]) -> list[str]:
  """Parses the flags; returns what is none.

  Raises:
    UserError: naming the first that is wrong.
  """
  try:
    rest = flags.FLAGS(argv)
  except UserError:
    raise
  except Exception as error:  # A config is code of the user's: anything.
    _explain_config(argv)
    if isinstance(error, flags.UnrecognizedFlagError):
      name = error.flagname
      if name.startswith('config.'):
        raise UserError(
          f'name a config before --{name}: --config=….'
        ) from error
      close = nearest(name, flags.FLAGS)
      hint = f'; did you mean --{close}?' if close else ': see --help.'
      raise UserError(f'there is no flag --{name}{hint}') from error
    if wrong := re.match(r'flag --([^=]+)=(.*?): ', str(error), re.DOTALL):
      parser = flags.FLAGS[wrong[1]].parser
      kind = parser.flag_type()
      wanted = _KINDS.get(kind, kind)
      if isinstance(parser, flags.EnumParser):
        wanted = f'one of {", ".join(parser.enum_values)}'
      raise UserError(f'--{wrong[1]}={wrong[2]} should be {wanted}.') from error
    if isinstance(error, flags.Error):
      raise UserError(f'{error}.') from error
    raise
  return rest[1:]


def _explain_config(argv: Sequence[str]) -> None:
  """Says what is wrong with the config or the names of its keys, if it is.

  Raises:
    UserError: naming the line or the key.
  """
  arguments = list(argv[1:])
  named = [a.partition('=')[2] for a in arguments if a.startswith('--config=')]
  named += [b for a, b in itertools.pairwise(arguments) if a == '--config']
  if 'config' not in flags.FLAGS or not named:
    return
  if len(named) > 1:
    raise UserError(
      f'--config is given {len(named)} times ({", ".join(named)}): name one.'
    )
  config = _load_config(named[-1])
  keys = list(flatten(config.to_dict()))
  for argument in arguments:
    found = re.match(r'--?(?:no)?config\.([^=]+)', argument)
    if not found or found[1] in keys:
      continue
    inside = [key for key in keys if key.startswith(found[1] + '.')]
    if inside:
      raise UserError(
        f'{argument}: {found[1]} is a section; set one of its keys, such as '
        f'--config.{inside[0]}=….'
      )
    close = nearest(found[1], keys)
    raise UserError(
      f'--config.{found[1]}: {named[-1]} has no such key'
      + (f'; did you mean --config.{close}?' if close else '.')
    )


def _load_config(named: str) -> ConfigDict:
  """Makes a config of `FILE[:ARGUMENT]`, for its errors.

  Raises:
    UserError: with the line of the file, if it does not make one.
  """
  path, colon, argument = named.partition(':')
  if pathlib.Path(path).is_dir() and path:
    raise UserError(
      f'there is no config {path}: it is a folder; name a file in it.'
    )
  if not pathlib.Path(path).is_file():
    what = path if path else 'without a name'
    raise UserError(f'there is no config {what}: see the folder configs.')
  try:
    module = runpy.run_path(path)
    config = module['get_config'](*([argument] if colon else []))
  except UserError:
    raise
  except SyntaxError as error:
    raise UserError(
      f'{path}, line {error.lineno}: {error.msg}. A config is a Python file '
      'with a function get_config.'
    ) from error
  except KeyError as error:
    if error.args == ('get_config',):
      raise UserError(
        f'{path} has no function get_config: a config is a Python file with '
        'one, see the folder configs.'
      ) from error
    raise _fault_of_config(path, error) from error
  except Exception as error:
    raise _fault_of_config(path, error) from error
  if not isinstance(config, ConfigDict):
    raise UserError(
      f'{path}: get_config returns {type(config).__name__}: start from '
      'shared_bert.config.pretrain_defaults() and return it.'
    )
  return config


def _fault_of_config(path: str, error: Exception) -> UserError:
  """An exception in a config, with the line that it came from."""
  lines = [
    frame.lineno
    for frame in traceback.extract_tb(error.__traceback__)
    if frame.filename == path
  ]
  where = f'{path}, line {lines[-1]}' if lines else path
  return UserError(
    f'{where}: {type(error).__name__}: {error}. Mend the config.'
  )


def _help(module: ModuleType) -> str:
  """A module's docstring and flags."""
  lines = [(module.__doc__ or '').strip(), '']
  shown = flags.FLAGS.get_key_flags_for_module(module)
  # Not defined in the module, so that it comes last.
  shown.sort(key=lambda flag: flag.name != 'config')
  for flag in [*shown, flags.FLAGS[_VERBOSE.name]]:
    no = '[no]' if flag.boolean else ''
    told = '' if flag.default in (None, False, []) else f' ({flag.default})'
    first, *rest = textwrap.wrap(
      ' '.join(flag.help.split()) + told, 79 - _HELP_COLUMN
    )
    lines.append(f'{f"  --{no}{flag.name} ":{_HELP_COLUMN}}{first}')
    lines += [' ' * _HELP_COLUMN + line for line in rest]
  return '\n'.join(lines)
