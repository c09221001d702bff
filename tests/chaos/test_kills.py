"""Killed at random moments, over and over, a run ends as an undisturbed one."""

import collections
import contextlib
import json
import random
import signal
import time

import jax
import numpy as np
import pytest

from shared_bert.training.checkpoint import open_checkpoint
from tests.process_group import ProcessGroup

KILLS = 30
STEPS = {1: 4000, 2: 1200}  # by the number of processes: enough for all kills
# A process whose peer is gone says so, or is aborted by JAX.
LEFT = {75, -signal.SIGABRT, -signal.SIGKILL}


def arguments(workdir, steps):
  """A run that saves so often that many kills meet a save."""
  settings = {
    'data.source': 'toy',
    'data.seq_len': 16,
    'data.heldout_rows': 32,
    'model.num_layers': 1,
    'model.hidden_size': 16,
    'model.num_heads': 2,
    'model.intermediate_size': 32,
    'tensorboard': False,
    'train.steps': steps,
    'train.warmup_steps': 400,
    'train.batch_size': 16,
    'train.log_every': 10,
    'train.eval_every': 500,
    'train.checkpoint_every': 20,
  }
  return [
    '--config=configs/pretrain.py',
    f'--workdir={workdir}',
    *(f'--config.{key}={value}' for key, value in settings.items()),
  ]


def logged_steps(workdir):
  path = workdir / 'metrics.jsonl'
  lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
  return [json.loads(x)['step'] for x in lines if x.endswith(b'\n')]


def seen_of(workdir):
  """What changes with each line that is logged."""
  try:
    found = (workdir / 'metrics.jsonl').stat()
  except FileNotFoundError:
    return None
  return found.st_size, found.st_mtime_ns


def saving(workdir):
  """Saves under way or cut off, which are told apart by when they began."""
  found = set()
  for path in workdir.glob('checkpoints/*.saving'):
    with contextlib.suppress(FileNotFoundError):  # published just now
      found.add((path, path.stat().st_ino))
  return found


def wait_until(seen, group, seconds=200):
  deadline = time.monotonic() + seconds
  while not seen() and time.monotonic() < deadline:
    if any(p.poll() is not None for p in group.processes):
      break
    time.sleep(0.002)


def kill_at_a_random_moment(group, workdir, random_):
  """Kills one process or all; to the kind of the moment."""
  before, cut_off = seen_of(workdir), saving(workdir)
  kind = random_.choice(('starting', 'training', 'saving', 'saving'))
  if kind == 'starting':
    time.sleep(random_.uniform(0, 6))
  else:
    wait_until(lambda: seen_of(workdir) != before, group)
    time.sleep(random_.uniform(0, 1))
    if kind == 'saving':
      wait_until(lambda: saving(workdir) - cut_off, group)
      time.sleep(random_.uniform(0, 0.02))
  kind = 'in a save' if saving(workdir) - cut_off else kind
  victims = group.processes
  # Before they have met, one that is alone waits five minutes for the other.
  if kind != 'starting' and random_.random() < 0.7:
    victims = [random_.choice(victims)]
  for process in victims:
    process.kill()
  return kind


def outcome(workdir, steps):
  """Parameters of the last step, and all that was logged but speeds."""
  checkpoint = open_checkpoint(workdir)
  assert checkpoint.step == steps
  lines = [
    json.loads(line)
    for line in (workdir / 'metrics.jsonl').read_text().splitlines()
  ]
  return jax.tree.leaves(checkpoint.load_params()), [
    {k: v for k, v in x.items() if not k.endswith(('_per_second', 'stall'))}
    for x in lines
  ]


@pytest.mark.slow
@pytest.mark.parametrize('processes', [1, 2])
def test_a_run_killed_thirty_times_ends_with_the_same_bits(tmp_path, processes):
  whole, parts = tmp_path / 'whole', tmp_path / 'parts'
  steps = STEPS[processes]
  ended = ProcessGroup(arguments(whole, steps), processes, 1).ended()
  assert [e.code for e in ended] == [0] * processes, ended

  random_ = random.Random(processes)
  moments, again = collections.Counter(), []
  for _ in range(KILLS):
    group = ProcessGroup(arguments(parts, steps), processes, 1)
    moments[kill_at_a_random_moment(group, parts, random_)] += 1
    ended = group.ended()
    assert {e.code for e in ended} <= LEFT, ended
    if logged := logged_steps(parts):
      kept = [
        int(p.name) for p in parts.glob('checkpoints/*') if p.name.isdecimal()
      ]
      again.append(logged[-1] - max(kept, default=0))
  ended = ProcessGroup(arguments(parts, steps), processes, 1).ended()
  assert [e.code for e in ended] == [0] * processes, ended

  print(f'{processes} processes: {dict(moments)}, steps done again: {again}')
  assert moments['in a save'] >= KILLS // 5
  assert max(again) <= 2 * 20  # the save under way, and the one before it
  (ours, ours_logged), (theirs, theirs_logged) = (
    outcome(workdir, steps) for workdir in (whole, parts)
  )
  jax.tree.map(np.testing.assert_array_equal, ours, theirs)
  assert ours_logged == theirs_logged
