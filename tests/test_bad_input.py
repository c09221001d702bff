"""Wrong flags, keys and values: one sentence, before any device is touched."""

import shlex

import pytest

from tests.bad_input import assert_refused

PRETRAIN = '--config=configs/pretrain.py:size=tiny'
TOY = f'{PRETRAIN} --config.data.source=toy'
COLA = '--config=configs/cola.py:size=tiny --config.data.source=local'
GLUE = f'{COLA} --config.data.glue_dir=glue'
OWN = '--config=configs/own.py:size=tiny'
QUICKSTART = '--config=configs/quickstart.py'

# Flags of shared_bert.main, and what the sentence must say.
MAIN = {
  # Flags.
  'no config': ('', 'name a config: --config='),
  'an unknown flag': ('--confg=x', 'no flag --confg; did you mean --config?'),
  'a flag like none': ('--xyzzy=3', 'no flag --xyzzy: see --help'),
  'an unknown switch': (f'{TOY} --nodry_runn', 'did you mean --dry_run?'),
  'a flag without value': (f'{TOY} --profile', 'Missing value', '--profile'),
  'a key without value': (
    f'{TOY} --config.train.steps',
    'Missing value for flag --config.train.steps',
  ),
  'a word that is no flag': (
    f'{TOY} extra',
    "'extra' is not a flag",
    '--name=',
  ),
  'a config without a flag': ('configs/pretrain.py', 'is not a flag'),
  'a key before the config': (
    f'--config.train.steps=3 {TOY}',
    '--config.train.steps',
    'before',
  ),
  'a key without a config': (
    '--config.train.steps=3',
    'name a config before --config.train.steps',
  ),
  'a switch of another word': (f'{TOY} --dry_run=maybe', 'true or false'),
  'a profile of one step': (f'{TOY} --profile=3', 'START:STOP', '10:15'),
  'a profile backwards': (f'{TOY} --profile=3:2', '--profile=3:2', '10:15'),
  'a profile of raised digits': (f'{TOY} --profile=²:3', '--profile=²:3'),
  'a profile from step 0': (f'{TOY} --profile=0:2', 'from 1 on'),
  # Keys.
  'a key misspelt': (
    f'{TOY} --config.train.stepz=3',
    '--config.train.stepz: configs/pretrain.py:size=tiny has no such key',
    'did you mean --config.train.steps?',
  ),
  'a section misspelt': (
    f'{TOY} --config.modle.size=tiny',
    'did you mean --config.model.size?',
  ),
  'a folder misspelt': (
    f'{COLA} --config.data.glue_dirr=glue',
    'did you mean --config.data.glue_dir?',
  ),
  'a key of another section': (
    f'{TOY} --config.model.batch_size=3',
    'did you mean --config.train.batch_size?',
  ),
  'a key without its section': (
    f'{TOY} --config.steps=3',
    'did you mean --config.train.steps?',
  ),
  'a key of another job': (f'{TOY} --config.data.task=cola', 'data.task'),
  'a key like none': (f'{TOY} --config.xyzzy=3', '--config.xyzzy', 'no such'),
  'a section for a key': (
    f'{TOY} --config.train=3',
    'train is a section',
    'such as --config.train.',
  ),
  # Types.
  'a word for a number': (
    f'{TOY} --config.train.steps=x',
    '--config.train.steps=x should be a whole number',
  ),
  'a fraction for a whole number': (
    f'{TOY} --config.train.batch_size=3.5',
    '--config.train.batch_size=3.5 should be a whole number',
  ),
  'a word for a fraction': (
    f'{TOY} --config.train.learning_rate=fast',
    '--config.train.learning_rate=fast should be a number',
  ),
  'a word for a switch': (
    f'{TOY} --config.model.scan_layers=maybe',
    '--config.model.scan_layers=maybe should be true or false',
  ),
  'half a tuple': (
    f"{GLUE} '--config.seeds=(1, 2'",
    '--config.seeds=(1, 2 should be values with commas',
  ),
  'words for seeds': (f'{GLUE} --config.seeds=x', 'seeds=', 'whole numbers'),
  'words for lengths': (
    f'{GLUE} \'--config.data.length_buckets=(8,"x")\'',
    'data.length_buckets',
    'whole numbers',
  ),
  'numbers for columns': (
    f'{OWN} --config.data.text_columns=3',
    'data.text_columns=(3,)',
    'names',
  ),
  # Configs.
  'no such config': ('--config=configs/none.py', 'configs/none.py', 'folder'),
  'no such config for a key': (
    '--config=configs/none.py --config.train.steps=3',
    'no config configs/none.py',
  ),
  'a folder as config': ('--config=configs', 'no config configs'),
  'an empty config': ('--config=', 'no config without a name'),
  'a text as config': ('--config=README.md', 'README.md, line 8', 'Python'),
  'an unknown argument': (
    '--config=configs/pretrain.py:sise=tiny',
    'sise=tiny is not known',
    'size=…, attention=…',
  ),
  'an argument without value': (
    '--config=configs/pretrain.py:tiny',
    'tiny is not known',
    'size=…',
  ),
  'an argument for none': (
    f'{QUICKSTART}:size=tiny',
    'size=tiny',
    'nothing after the colon',
  ),
  'an unknown size': (
    f'{TOY} --config.model.size=huge',
    "model.size='huge'",
    'tiny, mini',
  ),
  'an unknown size as argument': (
    '--config=configs/pretrain.py:size=huge',
    "model.size='huge'",
    'tiny, mini',
  ),
  'an unknown task': (
    f'--config=configs/glue.py:task=coal {GLUE.partition(" ")[2]}',
    "'coal'",
    'cola, sst2',
  ),
  # Values.
  'more steps than can be counted': (
    f'{TOY} --config.train.steps=99999999999999999999',
    'train.steps=99999999999999999999 must be at most 2147483647',
  ),
  'more epochs than can be counted': (
    f'{GLUE} --config.train.epochs=1e12',
    'train.epochs=1000000000000.0 must be at most 2147483647',
  ),
  'more rows than fit a batch': (
    f'{TOY} --config.train.batch_size=4611686018427387904',
    'train.batch_size=4611686018427387904 must be at most 16777216',
  ),
  'no rows a batch': (f'{TOY} --config.train.batch_size=0', 'at least 1'),
  'no steps': (f'{TOY} --config.train.steps=0', 'train.steps=0', 'above 0'),
  'no epochs': (f'{GLUE} --config.train.epochs=0', 'train.epochs=0'),
  'a negative rate': (
    f'{TOY} --config.train.learning_rate=-1',
    'train.learning_rate=-1.0 must not be negative',
  ),
  'a rate that is no number': (
    f'{TOY} --config.train.learning_rate=nan',
    'train.learning_rate=nan must be a finite number',
  ),
  'a negative norm': (f'{TOY} --config.train.clip_norm=-1', 'train.clip_norm'),
  'a decay of 1': (f'{TOY} --config.train.beta2=1', 'train.beta2=1.0', 'below'),
  'an unknown schedule': (
    f'{TOY} --config.train.schedule=linea',
    "train.schedule='linea'",
    'linear, cosine',
  ),
  'a pattern that is none': (
    f"{TOY} '--config.train.no_decay=('",
    "train.no_decay='('",
    'regular expression',
  ),
  'a warm-up longer than the run': (
    f'{TOY} --config.train.steps=10 --config.train.warmup_steps=20',
    '20 steps',
    'lower train.warmup_steps',
  ),
  'a warm-up as long as the run': (
    f'{GLUE} --config.train.warmup_ratio=1',
    'train.warmup_ratio=1.0',
    'below 1',
  ),
  'unequal micro-batches': (
    f'{TOY} --config.train.accumulation=3',
    'train.batch_size=256',
    'train.accumulation=3 equal parts',
  ),
  'a negative seed': (f'{TOY} --config.seed=-1', 'seed=-1', 'from 0'),
  'a seed past 32 bits': (f'{TOY} --config.seed=4294967296', 'to 4294967295'),
  'a dropout of 1': (
    f'{TOY} --config.model.hidden_dropout=1.0',
    'model.hidden_dropout=1.0',
    'below 1',
  ),
  'heads that do not divide the width': (
    f'{TOY} --config.model.num_heads=5',
    'model.hidden_size=128',
    'model.num_heads=5',
  ),
  'an unknown attention': (
    f'{TOY} --config.model.attention=share',
    "model.attention='share'",
    'standard, shared',
  ),
  'biases of another attention': (
    f'{TOY} --config.model.attention=standard --config.model.role_bias',
    'model.role_bias',
    'leave it False',
  ),
  'rows longer than positions': (
    f'{TOY} --config.data.seq_len=1024',
    'data.seq_len=1024',
    'model.max_positions=512',
  ),
  'a mask of everything': (
    f'{TOY} --config.data.mask_ratio=1',
    'data.mask_ratio=1.0',
    'below 1',
  ),
  'an unknown source': (
    f'{PRETRAIN} --config.data.source=tape',
    "data.source='tape'",
    'text or toy',
  ),
  'no text': (PRETRAIN, 'data.corpus', 'data.text'),
  'text twice': (
    f'{PRETRAIN} --config.data.text=a.txt --config.data.corpus=b',
    'only one of them',
  ),
  'text beside the toy': (
    f'{TOY} --config.data.corpus=b',
    'data.corpus',
    'data.source=text',
  ),
  'a vocabulary beside a corpus': (
    f'{PRETRAIN} --config.data.corpus=b --config.data.vocab=vocab.txt',
    'data.vocab=vocab.txt',
    'Leave it out',
  ),
  'a vocabulary beside a checkpoint': (
    f'{GLUE} --config.init_from=x --config.data.vocab=vocab.txt',
    'data.vocab=vocab.txt',
    'a checkpoint has its vocabulary',
  ),
  'an unknown job': (
    f'{TOY} --config.job=evaluate',
    "job='evaluate' is not known",
    'use one of pretrain, finetune, eval, quickstart',
  ),
  'two configs': (
    f'{TOY} {QUICKSTART}',
    '--config is given 2 times',
    'name one',
  ),
  'a folder of configs': (
    '--config=configs/',
    'no config configs/: it is a folder',
  ),
  'the other job': (
    f'{TOY} --config.job=finetune',
    "job='finetune'",
    'use job=pretrain or job=eval',
  ),
  'pre-training on a task': (
    f'{GLUE} --config.job=pretrain',
    "job='pretrain'",
    'use job=finetune or job=eval',
  ),
  'nothing to evaluate': (f'{TOY} --config.job=eval', 'init_from', 'workdir'),
  'evaluating several': (
    f'{GLUE} --config.job=eval --config.init_from=x --config.data.task=all',
    'job=eval evaluates one',
  ),
  'local files without a folder': (COLA, 'data.glue_dir', 'name the folder'),
  'a folder that is not read': (
    f'{GLUE} --config.data.source=tfds',
    'data.glue_dir=glue',
    'data.source=local',
  ),
  'own data without files': (OWN, 'data.train_file is not set'),
  'own data that is not read': (
    f'{GLUE} --config.data.train_file=a.csv',
    'data.train_file',
    'data.source=files',
  ),
  'splits that are not chosen': (
    f'{GLUE} --config.data.splits=dev',
    "data.splits=('dev',)",
    'job=eval',
  ),
  'all tasks of the toy': (
    '--config=configs/cola.py:size=tiny --config.data.source=toy '
    '--config.data.task=all',
    'data.task=all',
    'tfds or local',
  ),
  'three columns': (
    f'{OWN} --config.data.train_file=a.csv --config.data.dev_file=b.csv '
    '--config.data.text_columns=a --config.data.text_columns=b '
    '--config.data.text_columns=c',
    'data.text_columns',
    'one column or two',
  ),
  'no column': (
    f'{OWN} --config.data.train_file=a.csv --config.data.dev_file=b.csv '
    "'--config.data.text_columns=()'",
    'data.text_columns',
  ),
  'a seed twice': (f'{GLUE} --config.seeds=1,1', 'seeds=(1, 1)', 'twice'),
  'a negative seed of several': (f'{GLUE} --config.seeds=1,-1', 'from 0'),
  'MNLI without MNLI': (
    f'{GLUE} --config.from_mnli',
    'from_mnli needs data.task=all',
  ),
  'negative patience': (
    f'{GLUE} --config.train.early_stopping=-1',
    'train.early_stopping=-1',
  ),
  'lengths that fall': (
    f"{GLUE} '--config.data.length_buckets=(64,32)'",
    'data.length_buckets=(64, 32)',
    'rise',
  ),
  'a length of nothing': (
    f"{GLUE} '--config.data.length_buckets=(0,32)'",
    'from 1 on',
  ),
  'mechanisms that are none': (
    f'{QUICKSTART} --config.attentions=sharde',
    "model.attention='sharde'",
  ),
  'no mechanism': (f"{QUICKSTART} '--config.attentions=()'", 'name one'),
  'a job within the quickstart': (
    f'{QUICKSTART} --config.finetune.train.batch_size=0',
    'train.batch_size=0',
  ),
  'another job than the quickstart': (
    f'{QUICKSTART} --config.job=pretrain',
    "job='pretrain'",
    'quickstart',
  ),
}


@pytest.mark.parametrize('case', MAIN)
def test_what_flags_cannot_say_is_refused_without_a_device(
  case, commands, tmp_path
):
  flags, *words = MAIN[case]
  workdir = tmp_path / 'run'
  argv = [f'--workdir={workdir}', *shlex.split(flags)]
  assert_refused(commands.run('main', *argv, devices=False), words)
  assert not workdir.exists()
