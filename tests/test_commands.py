"""What all commands do alike: refusals, configs, help, exit codes."""

import errno
import gc
import importlib.util
import os
import shlex
import signal
import subprocess
import sys
import time

import pytest
from absl.testing import flagsaver

from shared_bert import command_line, main, validation
from shared_bert.errors import Preempted, UserError
from shared_bert.training import stopping
from tests import tiny
from tests.bad_input import ROOT, assert_refused

TOY = '--config=configs/pretrain.py:size=tiny --config.data.source=toy'

# Flags of shared_bert.prepare.
PREPARE = {
  'no output': ('--input=README.md --vocab_size=60', 'no --output is given'),
  'no input': ('--output={new} --vocab_size=60', 'no --input is given'),
  'neither vocabulary': ('--input=README.md --output={new}', '--vocab_size=N'),
  'both vocabularies': (
    '--input=README.md --output={new} --vocab=x --vocab_size=60',
    'not both',
  ),
  'no file': (
    '--input=none/*.txt --output={new} --vocab_size=60',
    '--input=none/*.txt: there is no such file',
  ),
  'a folder as input': (
    '--input=configs --output={new} --vocab_size=60',
    '--input=configs: configs is not a file but a folder',
  ),
  'a data set as input': (
    '--input=tfds:c4 --output={new} --data_dir={data} --vocab_size=60',
    '--input=tfds:c4',
    'text files',
  ),
  'a file as output': (
    '--input=README.md --output=README.md --vocab_size=60',
    'README.md is a file',
    'name a folder',
  ),
  'an output below a file': (
    '--input=README.md --output=README.md/corpus --vocab_size=60',
    'cannot be made',
    'another place',
  ),
  'an output of something else': (
    '--input=README.md --output=configs --vocab_size=60',
    'configs is a folder with something else',
    'name another',
  ),
  'no vocabulary there': (
    '--input=README.md --output={new} --vocab=none.txt',
    'no vocabulary none.txt',
  ),
  'a vocabulary of no size': (
    '--input=README.md --output={new} --vocab_size=-3',
    'vocabulary of -3 tokens',
    'ask for',
  ),
  'a vocabulary below the letters': (
    '--input=README.md --output={new} --vocab_size=20',
    'vocabulary of 20 tokens is too small',
    'ask for more',
  ),
  'a size that is no number': ('--vocab_size=many', 'should be a whole number'),
  'rows too short': (
    '--input=README.md --output={new} --vocab_size=60 --seq_len=5',
    'seq_len=5 is too short',
    'at least 10',
  ),
  'no worker': (
    '--input=README.md --output={new} --vocab_size=60 --workers=0',
    'workers=0 must be at least 1',
  ),
  'all held out': (
    '--input=README.md --output={new} --vocab_size=60 --heldout_fraction=1',
    'heldout_fraction=1.0',
    'below 1',
  ),
  'an unknown flag': ('--ouput={new}', 'did you mean --output?'),
  'a word that is no flag': ('README.md', "'README.md' is not a flag"),
}
if importlib.util.find_spec('apache_beam'):  # which would go and fetch it
  del PREPARE['a data set as input']

# Files given as --config.
CONFIGS = {
  'half a line': (
    'def get_config(:\n  pass\n',
    '{path}, line 1: ',
    'A config is a Python file',
  ),
  'a function misnamed': (
    'def config():\n  pass\n',
    '{path} has no function get_config',
    'see the folder configs',
  ),
  'an exception': (
    'def get_config():\n  return 1 / 0\n',
    '{path}, line 2: ZeroDivisionError: division by zero',
    'Mend the config',
  ),
  'an exception of two lines': (
    'def get_config():\n  raise ValueError("a\\nb")\n',
    '{path}, line 2: ValueError: a b',
  ),
  'a module that is not there': (
    'import no_such_module\n',
    "{path}, line 1: ModuleNotFoundError: No module named 'no_such_module'",
  ),
  'a function without an end': (
    'def get_config(): pass\n',
    '{path}: get_config returns NoneType',
    'start from',
  ),
  'a dict': ('def get_config():\n  return {}\n', 'returns dict', 'start from'),
  'an empty config': (
    'from ml_collections import ConfigDict as get_config\n',
    'the config has no ',
    'pretrain_defaults',
  ),
  'a key that nothing reads': (
    'from shared_bert.config import pretrain_defaults\n'
    'def get_config():\n'
    '  config = pretrain_defaults()\n'
    '  config.train.stepz = 3\n'
    '  return config\n',
    'train.stepz',
    'did you mean train.steps?',
  ),
  'a value of another type': (
    'from shared_bert.config import pretrain_defaults\n'
    'def get_config():\n'
    '  config = pretrain_defaults()\n'
    '  config.train.batch_size = "many"\n'
    '  return config\n',
    '{path}, line 4: TypeError',
    'batch_size',
  ),
}


@pytest.mark.parametrize('case', PREPARE)
def test_what_cannot_be_prepared_is_refused(case, commands, tmp_path):
  flags, *words = PREPARE[case]
  places = {'new': tmp_path / 'corpus', 'data': f'{tmp_path}-data'}
  argv = shlex.split(flags.format(**places))
  assert_refused(commands.run('prepare', *argv, devices=False), words)
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('case', CONFIGS)
def test_a_config_that_is_none_is_refused_by_its_line(case, commands, tmp_path):
  text, *words = CONFIGS[case]
  path, workdir = tmp_path / 'my config.py', tmp_path / 'run'
  path.write_text(text)
  argv = [f'--config={path}', f'--workdir={workdir}']
  words = [word.format(path=path) for word in words]
  assert_refused(commands.run('main', *argv, devices=False), words)
  # The library that reads configs raises other errors where a key is set.
  done = commands.run('main', *argv, '--config.data.xyzzy=3', devices=False)
  assert_refused(done, [str(path)])
  assert not workdir.exists()


@pytest.mark.parametrize('command', ['main', 'plan'])
def test_a_study_is_sent_to_its_command(command, commands):
  done = commands.run(command, '--config=configs/study.py', devices=False)
  assert_refused(done, ['python -m shared_bert.study'])


@pytest.mark.parametrize('command', ['main', 'prepare'])
def test_verbose_shows_where_an_error_came_from(command, commands):
  flags = {
    'main': [*shlex.split(TOY), '--config.seed=-1'],
    'prepare': ['--input=none'],
  }[command]
  done = commands.run(command, '--verbose', *flags, devices=False)
  assert done.code == 1
  assert done.err.startswith('Traceback')
  assert done.err.splitlines()[-1].startswith('error: ')


@pytest.mark.parametrize(
  'command', ['main', 'plan', 'prepare', 'predict', 'export', 'study']
)
@pytest.mark.parametrize('flag', ['--help', '-h'])
def test_help_fits_a_screen(command, flag, commands):
  done = commands.run(command, flag, devices=False)
  assert (done.code, done.err) == (0, '')
  lines = done.out.splitlines()
  assert len(lines) <= 40
  assert all(len(line) <= 80 for line in lines)
  assert f'python -m shared_bert.{command}' in done.out
  assert '--[no]verbose' in done.out


def test_a_second_interrupt_is_no_traceback(commands, tmp_path):
  path = tmp_path / 'interrupted.py'
  path.write_text('def get_config():\n  raise KeyboardInterrupt\n')
  done = commands.run('main', f'--config={path}')
  assert done.code == 130
  assert done.err == 'interrupted; what was saved is kept.\n'


@pytest.mark.parametrize(
  ('error', 'code', 'words'),
  [
    (UserError('mend this'), 1, 'error: mend this\n'),
    (OSError(errno.ENOSPC, 'No space left', 'a/b'), 1, 'a/b cannot be'),
    (RuntimeError('RESOURCE_EXHAUSTED: Out of memory'), 1, 'train.batch_size'),
    (FileNotFoundError(errno.ENOENT, 'gone'), 2, 'a bug of shared_bert'),
    (KeyError('x'), 2, 'a bug of shared_bert'),
  ],
)
def test_only_what_the_user_can_mend_is_a_sentence(error, code, words, capsys):
  def command():
    raise error

  assert command_line.run(command, ['command']) == code
  shown = capsys.readouterr().err
  assert words in shown
  assert ('Traceback' in shown) == (code == 2)


def _process(*argv, **environment):
  """As a user types it."""
  return subprocess.run(
    [sys.executable, '-m', *argv],
    cwd=ROOT,
    env=os.environ | environment,
    capture_output=True,
    text=True,
    timeout=300,
  )


def test_commands_are_refused_alike_in_processes_of_their_own():
  done = _process('shared_bert.main', *shlex.split(TOY), '--config.sed=3')
  assert done.returncode == 1
  assert done.stderr.endswith('did you mean --config.seed?\n')
  assert done.stderr.count('\n') == 1
  done = _process('shared_bert.prepare', '--input=README.md')
  assert done.returncode == 1
  assert done.stderr.startswith('error: no --output')
  assert done.stderr.count('\n') == 1


def test_a_terminal_without_our_letters_sees_the_sentence():
  done = _process(
    'shared_bert.main', '--config=none-für.py', PYTHONIOENCODING='ascii'
  )
  assert done.returncode == 1
  assert done.stderr.startswith(r'error: there is no config none-f\xfcr.py')


def test_a_reader_that_leaves_is_no_bug():
  reader, writer = os.pipe()
  os.close(reader)
  done = subprocess.run(
    [sys.executable, '-m', 'shared_bert.prepare', '--help'],
    cwd=ROOT,
    stdout=writer,
    stderr=subprocess.PIPE,
    text=True,
    timeout=300,
  )
  os.close(writer)
  assert done.returncode == 1
  assert done.stderr.startswith('error: nobody reads the output')
  assert done.stderr.count('\n') == 1


@pytest.mark.parametrize(
  ('number', 'resumes', 'code', 'words'),
  [
    (signal.SIGTERM, True, 75, 'the same command goes on from there.\n'),
    (signal.SIGTERM, False, 75, 'by SIGTERM; run the same command again.\n'),
    (signal.SIGINT, True, 130, 'interrupted; what was saved is kept.\n'),
    (signal.SIGINT, False, 130, 'interrupted; nothing was kept.\n'),
  ],
)
def test_a_signal_outside_of_training_says_what_is_left(
  number, resumes, code, words, capsys
):
  def command():
    os.kill(os.getpid(), number)
    time.sleep(10)

  before = signal.getsignal(number)
  assert command_line.run(command, ['command'], resumes=resumes) == code
  assert capsys.readouterr().err.endswith(words)
  assert signal.getsignal(number) is before


@pytest.mark.parametrize(
  ('command', 'flag', 'words'),
  [
    ('export', '--format=pt', 'one of hf, stablehlo, onnx.'),
    ('predict', '--task=sing', 'one of fill-mask, classify, answer, embed.'),
    ('predict', '--pooling=max', 'one of cls, mean.'),
  ],
)
def test_a_flag_of_few_values_names_them(command, flag, words, commands):
  done = commands.run(command, flag, devices=False)
  assert (done.code, done.err) == (1, f'error: {flag} should be {words}\n')


def _amid_garbage(number):
  """Sends a signal where Python drops what its handler raises."""

  def callback(phase, info):
    del phase, info
    gc.callbacks.remove(callback)
    os.kill(os.getpid(), number)
    for _ in range(1000):  # the handler runs between two of these
      pass

  gc.callbacks.append(callback)
  gc.collect()


@pytest.mark.filterwarnings(
  'ignore::pytest.PytestUnraisableExceptionWarning'  # which is the point
)
@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT])
def test_a_signal_amid_garbage_stops_the_run_after_its_next_step(
  number, capsys, tmp_path
):
  def command():
    _amid_garbage(number)
    with pytest.raises(Preempted, match=f'{number.name} after step 1 of 6'):
      tiny.run(tmp_path)
    raise UserError('reached')

  assert command_line.run(command, ['command']) == 1
  assert 'reached' in capsys.readouterr().err
  assert (tmp_path / 'checkpoints' / '1').is_dir()
  assert stopping.asked_to_stop() is None


_STUBBORN = (
  'import os, signal, sys, time\n'
  'from shared_bert import command_line\n'
  'def command():\n'
  '  for _ in range(2):\n'
  '    try:\n'
  '      os.kill(os.getpid(), int(sys.argv[1]))\n'
  '      time.sleep(10)\n'
  '    except BaseException:\n'
  '      pass\n'
  'sys.exit(command_line.run(command, ["command"]))\n'
)


@pytest.mark.parametrize(
  ('number', 'code'), [(signal.SIGTERM, 75), (signal.SIGINT, 130)]
)
def test_a_further_signal_ends_a_command_that_did_not_heed_the_first(
  number, code
):
  done = subprocess.run(
    [sys.executable, '-c', _STUBBORN, str(int(number))],
    cwd=ROOT,
    capture_output=True,
    text=True,
    timeout=60,
  )
  assert done.returncode == code
  assert done.stderr == f'stopped at once by a further {number.name}.\n'


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT])
def test_a_command_that_follows_its_parent_takes_all_signals_as_one(number):
  command = 'from shared_bert.training import stopping\n' + _STUBBORN.replace(
    'def command():\n', 'def command():\n  stopping.follow_parent()\n'
  ).replace('sleep(10)', 'sleep(1)')
  theirs, ours = os.pipe()
  done = subprocess.run(
    [sys.executable, '-c', command, str(int(number))],
    cwd=ROOT,
    stdin=theirs,
    capture_output=True,
    text=True,
    timeout=60,
  )
  os.close(theirs)
  os.close(ours)
  assert (done.returncode, done.stderr) == (0, '')


def test_a_run_that_is_told_to_stop_twice_by_one_wish_saves_its_step(
  tmp_path, monkeypatch, capsys
):
  monkeypatch.setattr(stopping, '_is_one_wish', True)

  def make_batch(at):
    if at == 2:
      for _ in range(2):
        os.kill(os.getpid(), signal.SIGTERM)
    return tiny.batch(at)

  def command():
    with pytest.raises(Preempted, match='SIGTERM after step 3 of 6'):
      tiny.run(tmp_path, make_batch=make_batch)
    raise UserError('reached')

  assert command_line.run(command, ['command']) == 1
  assert 'reached' in capsys.readouterr().err
  assert (tmp_path / 'checkpoints' / '3').is_dir()


# ml_collections reads configs so on Python 3.11.
@pytest.mark.filterwarnings('ignore:the load_module')
@pytest.mark.parametrize(
  ('error', 'code', 'words'),
  [
    (Preempted, 75, 'stopped; a dry run keeps nothing.\n'),
    (KeyboardInterrupt, 130, 'interrupted; a dry run keeps nothing.\n'),
  ],
)
def test_a_dry_run_that_is_stopped_says_that_nothing_is_kept(
  error, code, words, capsys, monkeypatch
):
  def stop(config):
    raise error('what was saved is kept.')

  monkeypatch.setattr(validation, 'validate', stop)
  argv = ['main', *shlex.split(TOY), '--dry_run']
  monkeypatch.setattr(sys, 'argv', argv)
  with flagsaver.flagsaver():
    assert main.run(argv) == code
  assert capsys.readouterr().err == words
