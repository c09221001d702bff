"""Where a run is put, and what is odd there: homes, links, no room."""

import os
import shutil

import pytest

from tests.bad_input import assert_refused, cola_flags, flags_of
from tests.tiny_jobs import finetune_config


@pytest.fixture(scope='module')
def flags(glue, pretrained):
  """Those of a run on CoLA: two steps."""
  return cola_flags(glue, pretrained)


@pytest.mark.parametrize('below', ['', 'run'])
def test_a_file_in_place_of_a_workdir_is_refused(
  below, commands, flags, tmp_path
):
  path = tmp_path / 'file'
  path.write_text('mine')
  done = commands.run('main', *flags, f'--workdir={path / below}')
  assert_refused(done, [str(path), 'there is a file', 'another place'])
  assert path.read_text() == 'mine'


@pytest.mark.parametrize('target', ['gone', 'link'])
@pytest.mark.parametrize('below', ['', 'run'])
def test_a_broken_link_in_place_of_a_workdir_is_told(
  target, below, commands, flags, tmp_path
):
  link = tmp_path / 'link'
  link.symlink_to(target)
  done = commands.run('main', *flags, f'--workdir={link / below}')
  assert_refused(done, [f'{link} is a broken link', 'another place'])


def test_a_home_is_found_after_an_equals_sign(commands, flags, tmp_path):
  home = os.path.expanduser('~')
  path = os.path.relpath(tmp_path / 'run', home)
  done = commands.run('main', *flags, f'--workdir=~/{path}', '--dry_run')
  assert done.code == 0, done.err
  assert f'the run is in {home}/{path}' in done.out


def test_a_run_that_never_began_leaves_its_workdir_free(
  commands, flags, tmp_path
):
  wrong = commands.run(
    'main', *flags, '--config.data.glue_dir=none', f'--workdir={tmp_path}'
  )
  assert_refused(wrong, ['data.glue_dir=none is not there', 'CoLA'])
  mended = commands.run('main', *flags, f'--workdir={tmp_path}')
  assert mended.code == 0, mended.err


def test_event_files_that_do_not_fit_the_disk_are_told_as_the_log_is(
  commands, flags, tmp_path
):
  argv = [*flags, '--config.tensorboard=true', f'--workdir={tmp_path}']
  done = commands.run('main', *argv, largest_file=4000)
  # TensorFlow has written lines of its own before.
  assert done.code == 1, done.err
  assert 'Traceback' not in done.err
  last = done.err.splitlines()[-1]
  assert last.startswith(
    f'error: the TensorBoard files in {tmp_path} cannot be written ('
  )
  assert 'File too large' in last
  assert 'make room, and run the same command again' in last


def test_a_closed_stdout_is_only_silent(commands, flags, tmp_path):
  done = commands.run('main', *flags, f'--workdir={tmp_path}', mute=True)
  assert (done.code, done.out, done.err) == (0, '', '')
  assert (tmp_path / 'results.json').is_file()


def test_a_corpus_that_does_not_fit_the_disk_is_no_corpus(
  commands, text, tmp_path
):
  argv = [f'--input={text}', f'--output={tmp_path / "c"}', '--vocab_size=60']
  done = commands.run('prepare', *argv, largest_file=2000)
  assert_refused(done, [f'{tmp_path / "c"} cannot be written', 'make room'])
  assert not (tmp_path / 'c').exists()
  assert commands.run('prepare', *argv).code == 0


def test_spaces_and_read_only_data_do_no_harm(
  commands, glue, pretrained, tmp_path
):
  folder = tmp_path / 'my glue'
  shutil.copytree(glue, folder)
  for path in (folder, *folder.rglob('*')):
    path.chmod(0o555)
  config = finetune_config('cola', folder, pretrained)
  argv = [*flags_of('cola', config), f'--workdir={tmp_path / "my run"}']
  done = commands.run('main', *argv, humble=True)
  for path in (folder, *folder.rglob('*')):
    path.chmod(0o755)
  assert done.code == 0, done.err
  assert f"tensorboard --logdir '{tmp_path / 'my run'}'" in done.out
