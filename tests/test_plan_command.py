"""The command that plans: what it prints, what it refuses."""

import re
import shlex

import pytest

from shared_bert.prepare import prepare
from tests.bad_input import ROOT, assert_refused

BASE = '--config=configs/pretrain.py:size=base'
TINY = '--config=configs/pretrain.py:size=tiny'
COLA = '--config=configs/cola.py:size=tiny'
ATTENTIONS = 'standard shared symmetric pairwise tied tied_kv'.split()

# Flags of shared_bert.plan, and what the sentence must say.
REFUSED = {
  'no config': ('', 'name a config: --config='),
  'an unknown flag': (f'{TINY} --mseh=data=1', 'did you mean --mesh?'),
  'an unknown key': (f'{TINY} --config.train.stepz=3', 'train.steps'),
  'an axis that nothing uses': (
    f'{TINY} --mesh=data=2,fsdp=3 --config.train.batch_size=48',
    'mesh.fsdp=3 does not divide model.hidden_size=128',
    'use 1, 2 or auto',
  ),
  'an axis that is none': (f'{TINY} --mesh=model=2', "'model=2'", 'data=8'),
  'an axis twice': (f'{TINY} --mesh=data=2,data=4', 'name an axis once'),
  'no devices': (f'{TINY} --mesh=data=0', "'data=0'", 'write data=8'),
  'a mesh without axes': (f'{TINY} --mesh=8', "'8'", 'write data=8'),
  'devices of raised digits': (f'{TINY} --mesh=data=²', "'data=²'"),
  'an unknown device': (
    f'{TINY} --device=abacus',
    '--device=abacus is not known',
    'H100',
    '--tflops',
  ),
  'no device at all': (f'{TINY} --device=', 'is not known', 'A100'),
  'no utilisation': (f'{TINY} --utilisation=0', 'above 0 and at most 1'),
  'more than all': (f'{TINY} --utilisation=1.5', '--utilisation=1.5 must be'),
  'a share that is no number': (f'{TINY} --utilisation=nan', 'above 0'),
  'a peak beside a measurement': (
    f'{TINY} --tflops=3 --device=H100',
    '--device=H100 says nothing',
    'leave one',
  ),
  'a share of a measurement': (
    f'{TINY} --tflops=3 --utilisation=0.5',
    '--utilisation=0.5 says nothing',
  ),
  'a negative measurement': (f'{TINY} --tflops=-3', '--tflops=-3 must be'),
  'endless memory': (f'{TINY} --memory=inf', '--memory=inf must be'),
  'no memory': (f'{TINY} --memory=0', '--memory=0 must be above 0'),
  'rows that devices cannot share': (
    f'{TINY} --mesh=data=3',
    'train.batch_size=256 cannot be shared equally by 3 devices',
    'use 255 or 258',
  ),
  'rows that micro-batches cannot share': (
    f'{TINY} --mesh=data=64 --config.train.accumulation=8',
    'by 64 devices in 8 micro-batches: use 512',
  ),
  'rows to evaluate that devices cannot share': (
    f'{COLA} --mesh=data=16 --config.data.eval_batch_size=100',
    'data.eval_batch_size=100',
  ),
  'rows longer than positions': (
    f'{TINY} --config.data.seq_len=1024',
    'data.seq_len=1024',
    'model.max_positions=512',
  ),
  'a warm-up as long as the run': (
    f'{TINY} --config.train.steps=10000',
    'the warm-up of 10000 steps leaves nothing',
    'lower train.warmup_steps',
  ),
  'a schedule without its warm-up': (
    f'{TINY} --config.train.schedule=rsqrt --config.train.warmup_steps=0',
    'train.schedule=rsqrt',
    'set train.warmup_steps',
  ),
  'a folder that is no corpus': (
    f'{TINY} --config.data.corpus=configs',
    'configs is not a prepared corpus',
  ),
  'text twice': (
    f'{TINY} --config.data.corpus=a --config.data.text=b',
    'only one of them',
  ),
  'a task without training': (
    '--config=configs/glue.py:task=ax,size=tiny',
    'data.task=ax has no training data',
  ),
  'no checkpoint to start from': (f'{COLA} --config.init_from=none', 'none'),
  'a job that trains nothing': (
    f'{TINY} --config.job=eval --config.init_from=x',
    'job=eval trains nothing',
  ),
  'a job that measures': (
    '--config=configs/robustness.py --config.init_from=configs',
    'job=robustness trains nothing',
  ),
  'many small runs': ('--config=configs/quickstart.py', 'job=quickstart'),
}


@pytest.mark.parametrize('case', REFUSED)
def test_what_cannot_work_is_refused_before_anything_is_said(case, commands):
  flags, *words = REFUSED[case]
  done = commands.run('plan', *shlex.split(flags), devices=False)
  assert_refused(done, words)
  assert not done.out


def _planned(commands, flags):
  """The lines of a plan that is made where JAX finds no device."""
  done = commands.run('plan', *shlex.split(flags), devices=False)
  assert (done.code, done.err) == (0, '')
  lines = done.out.splitlines()
  assert max(map(len, lines)) <= 100
  assert len(lines) <= 70
  return lines


def _without(lines, numbers):
  return [line for n, line in enumerate(lines) if n not in numbers]


def _row(lines, name, number=0):
  """The cells of a table's row; of the first such row unless numbered."""
  found = [x for x in lines if x[:2] == '  ' and x[2:26].strip() == name]
  return found[number][26:].split()


@pytest.fixture(scope='module')
def base(commands):
  """As the guide has it."""
  flags = f'{BASE} --mesh=data=8 --device=H100 --memory=80'
  return _planned(commands, flags)


def test_the_guide_shows_what_the_command_prints(base):
  guide = (ROOT / 'docs' / 'guides' / 'pretrain.md').read_text('utf-8')
  shown = guide[guide.index('shared_bert 0') :].partition('\n```')[0]
  # What a forward pass keeps may differ between versions of JAX.
  number = base.index(
    'GB of each device          remat=none*  remat=dots  remat=full'
  )
  estimated = {number + 4, number + 5}
  assert _without(shown.splitlines(), estimated) == _without(base, estimated)


def test_the_plan_counts_what_the_table_of_the_readme_counts(base):
  readme = (ROOT / 'README.md').read_text(encoding='utf-8')
  told = {
    name: counts.split('|')
    for name, counts in re.findall(
      r'^\| `(\w+)` \|.*\| ([\d,]+ \| [\d,]+) \|$', readme, re.M
    )
  }
  assert list(told) == ATTENTIONS
  assert _row(base, 'query/key/value a layer') == [
    told[name][0].strip() for name in ATTENTIONS
  ]
  assert _row(base, 'total') == [told[name][1].strip() for name in ATTENTIONS]
  assert _row(base, 'total to standard') == [
    '=', '-12.92%', '-6.47%', '-5.93%', '-12.95%', '-6.47%'
  ]  # fmt: skip


def test_the_mechanism_of_the_config_is_marked_and_it_alone(base):
  heads = [line.split() for line in base if 'symmetric' in line]
  assert len(heads) == 2
  assert all('shared*' in head for head in heads)
  assert all(sum('*' in word for word in head) == 1 for head in heads)


def test_the_hours_are_the_flops_by_hand_over_the_speed(base):
  width, length, words = 768, 128, 30522
  layer = {
    'query/key/value': 2 * width * width,  # shared
    'scores and values': 4 * length * width,
    'attention output': 2 * width * width,
    'feed-forward': 16 * width * width,
  }
  # 20 of 128 tokens go through all of the last layer, and reach the vocabulary.
  times = dict.fromkeys(layer, 11 + 20 / 128) | {'query/key/value': 12}
  forward = sum(times[block] * flops for block, flops in layer.items())
  forward += 20 / 128 * 2 * width * (width + words)
  for block, flops in layer.items():
    # After the parameters of the block, if it has any.
    number = 0 if block == 'scores and values' else 1
    shown = _row(base, block, number)[1]
    assert shown == f'{times[block] * flops / 1e6:,.3f}'
  assert _row(base, 'forward')[1] == f'{forward / 1e6:,.3f}'
  assert _row(base, 'training step')[1] == f'{3 * forward / 1e6:,.3f}'
  tokens = 1_000_000 * 256 * 128
  hours = 3 * forward * tokens / (8 * 0.4 * 989e12) / 3600
  assert any(f'{tokens:,} tokens' in line for line in base)
  assert _row(base, 'H100') == [f'{hours:.3g}']
  assert any('8 devices, at 0.4 of the bfloat16 peak, an' in x for x in base)


def test_without_a_speed_the_assumption_is_said(commands):
  flags = f'{TINY} --config.train.steps=3000 --config.train.warmup_steps=300'
  lines = _planned(commands, flags)
  assert any('0.4 of the bfloat16 peak, an assumption' in x for x in lines)
  hours = {name: float(_row(lines, name)[0]) for name in ('A100', 'H100')}
  assert hours['A100'] / hours['H100'] == pytest.approx(989 / 312, rel=0.01)
  assert any('data.corpus is not set' in line for line in lines)
  assert any('rows of 128 tokens, 30,522 word pieces' in x for x in lines)


def test_hours_pay_for_steps_at_the_speed_that_was_measured(commands):
  flags = f'{TINY},hours=2 --tflops=0.05'
  lines = _planned(commands, flags)
  forward = float(_row(lines, 'training step')[1].replace(',', '')) * 1e6
  steps = int(2 * 3600 * 0.05e12 / (forward * 256 * 128))
  found = _row(lines, '0.05 TFLOP/s')
  assert int(found[0].replace(',', '')) == pytest.approx(steps, abs=1)
  assert found[2] == f'{int(found[0].replace(",", "")) * 256 * 128:,}'


def test_stages_are_planned_by_the_rows_and_words_of_their_corpora(
  commands, text, tmp_path
):
  short = prepare(str(text), tmp_path / 'short', vocab_size=60, seq_len=16)
  prepare(str(text), tmp_path / 'long', vocab=tmp_path / 'short', seq_len=32)
  flags = (
    f'{TINY},steps=100 --config.train.warmup_steps=10 --config.data.seq_len=32 '
    f'--config.data.corpus={tmp_path}/short,{tmp_path}/long '
    '--config.train.batch_size=8'
  )
  lines = _planned(commands, flags)
  words = short.tokenizer.vocab_size
  rows = f'{len(short.train):,} rows of 16 tokens; {words} word pieces'
  assert any(rows in line for line in lines)
  # 90 % of the steps on the short ones: BERT's share.
  tokens = 8 * (90 * 16 + 10 * 32)
  assert any(line.startswith(f'work        {tokens:,} tok') for line in lines)
  assert any('to 90: 8 rows of 16 tokens' in line for line in lines)
  assert _row(lines, 'training step, 32 tokens')


def test_what_does_not_fit_is_refused_after_its_table(commands):
  flags = f'{TINY} --memory=0.01'
  done = commands.run('plan', *shlex.split(flags), devices=False)
  assert_refused(done, ['--memory=0.01 GB is too small', 'smaller model.size'])
  assert 'activations, estimated' in done.out


def test_a_suite_is_planned_by_its_first_run_which_is_said(commands):
  flags = '--config=configs/glue.py:task=all,size=tiny --config.seeds=0,1'
  lines = _planned(commands, flags)
  assert any(
    '18, one after the other; this is the plan of one' in x for x in lines
  )
  assert any('a plan does not fetch' in line for line in lines)
  assert not any(line.startswith('hours') for line in lines)


def test_a_task_with_files_is_planned_to_its_hours(commands, glue):
  flags = f'{COLA} --config.data.source=local --config.data.glue_dir={glue}'
  lines = _planned(commands, flags)
  # 40 rows, twenty epochs, in steps of 32.
  assert any(
    line.startswith('steps       25 of 32 rows, 20.00 epochs of 40')
    for line in lines
  )
  assert any(line.startswith('work        102,400 tokens') for line in lines)
