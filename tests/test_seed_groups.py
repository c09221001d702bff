"""Which runs of seeds go on as one: those that lose nothing by it."""

import json

import pytest

from shared_bert.training import seed_groups

# By run, the steps of its checkpoints and the step its log ends at, or None;
# and the runs, by number, that are to go on as one.
STANDS = {
  'nothing saved': ([((), None), ((), 40)], [[0, 1]]),
  'the same step, another best one': (
    [((10, 40, 50), 50), ((20, 40, 50), 50)],
    [[0, 1]],
  ),
  'one by one': ([((30, 40), 40), ((), None)], [[0], [1]]),
  'one by one, saved once': ([((40,), 40), ((), None)], [[0], [1]]),
  'two workers, one killed early': ([((40,), 40), ((), 30)], [[0], [1]]),
  'a seed came later': (
    [((30, 40), 40), ((), None), ((30, 40), 40)],
    [[0, 2], [1]],
  ),
  'two ways of standing': (
    [((), None), ((30,), 30), ((), None), ((30,), 30)],
    [[0, 2], [1, 3]],
  ),
  'killed between two saves': (
    [((30,), 40), ((30, 40), 40), ((30,), 40)],
    [[0, 1, 2]],
  ),
  'killed between the first saves': ([((30,), 30), ((), 30)], [[0, 1]]),
  'as if between two saves, but a log has gone on': (
    [((30,), 40), ((30, 40), 50)],
    [[0], [1]],
  ),
  'as if between two saves, but no log is as far': (
    [((30,), 0), ((30, 40), 0)],
    [[0], [1]],
  ),
  'killed between two saves, and a seed came later': (
    [((30, 40), 40), ((30,), 40), ((), None)],
    [[0, 1], [2]],
  ),
  'an old best one in common': (
    [((10, 80, 90), 90), ((10,), 90)],
    [[0], [1]],
  ),
}


@pytest.mark.parametrize(('stands', 'wanted'), STANDS.values(), ids=STANDS)
def test_seeds_that_stand_equally_go_on_as_one_and_others_apart(
  stands, wanted, tmp_path
):
  runs = [tmp_path / f'seed-{number}' for number in range(len(stands))]
  for run, (steps, logged) in zip(runs, stands, strict=True):
    run.mkdir()
    for step in steps:
      (run / 'checkpoints' / str(step)).mkdir(parents=True)
    # A save that was never finished is no step of the run.
    (run / 'checkpoints' / '99.saving').mkdir(parents=True)
    if logged is not None:
      lines = [json.dumps({'step': step}) for step in (0, logged)]
      # A kill may cut the last line off.
      (run / 'metrics.jsonl').write_text('\n'.join([*lines, '{"step": 4']))
  found = seed_groups.groups_of(runs)
  assert found == [[runs[number] for number in group] for group in wanted]
