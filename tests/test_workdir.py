"""Whose a workdir is: what may differ, what a lock keeps apart."""

import errno
import fcntl

import pytest

from shared_bert.errors import UserError
from shared_bert.training.workdir import (
  alone_in_workdir,
  claim,
  claim_for_several,
)

SETTINGS = {'seed': 0, 'train': {'batch_size': 32, 'log_every': 10}}


def test_how_a_run_is_watched_may_change_but_not_what_it_computes(tmp_path):
  assert claim(tmp_path, SETTINGS) is None
  (tmp_path / 'metrics.jsonl').touch()
  watched = SETTINGS | {'train': {'batch_size': 32, 'log_every': 20}}
  assert claim(tmp_path, watched) is None
  other = SETTINGS | {'train': {'batch_size': 64, 'log_every': 10}}
  with pytest.raises(UserError, match=r'train\.batch_size was 32, is 64'):
    claim(tmp_path, other)


def test_a_workdir_where_nothing_happened_is_free(tmp_path):
  assert claim(tmp_path, SETTINGS) is None
  assert claim(tmp_path, SETTINGS | {'seed': 1}) is None


def test_several_runs_are_not_put_over_a_single_one(tmp_path):
  claim(tmp_path, SETTINGS)
  claim_for_several(tmp_path)  # nothing happened there
  (tmp_path / 'cola').mkdir()
  claim_for_several(tmp_path)
  claim(tmp_path / 'run', SETTINGS)
  (tmp_path / 'run' / 'metrics.jsonl').touch()
  with pytest.raises(UserError, match='holds a single run'):
    claim_for_several(tmp_path / 'run')


@alone_in_workdir
def job(config, workdir, options=None):
  """Runs a job within it, if there is one."""
  return config(workdir) if config else 'done'


def test_a_job_holds_its_workdir_while_it_runs(tmp_path):
  def second(workdir):
    with pytest.raises(UserError, match='in use by process'):
      job(None, workdir)
    return job(None, workdir / 'another')

  assert job(second, tmp_path) == 'done'
  assert job(None, tmp_path) == 'done'


def test_a_job_that_fails_lets_go(tmp_path):
  def fail(workdir):
    raise KeyError(workdir)

  with pytest.raises(KeyError):
    job(fail, tmp_path)
  assert job(None, tmp_path) == 'done'


def test_a_file_system_without_locks_has_none(tmp_path, monkeypatch):
  def flock(file, operation):
    raise OSError(errno.ENOTSUP, 'Operation not supported')

  monkeypatch.setattr(fcntl, 'flock', flock)
  assert job(lambda workdir: job(None, workdir), tmp_path) == 'done'


def test_a_key_that_came_since_was_what_it_is_by_default(tmp_path):
  claim(tmp_path, SETTINGS)
  (tmp_path / 'metrics.jsonl').touch()
  usual = {'train': {'decay': 0.1}}
  newer = {'batch_size': 32, 'log_every': 10, 'decay': 0.1}
  assert claim(tmp_path, SETTINGS | {'train': newer}, usual) is None
  claim(tmp_path / 'other', SETTINGS)
  (tmp_path / 'other' / 'metrics.jsonl').touch()
  with pytest.raises(UserError, match=r'train\.decay was 0\.1, is 0\.2'):
    claim(
      tmp_path / 'other', SETTINGS | {'train': newer | {'decay': 0.2}}, usual
    )
