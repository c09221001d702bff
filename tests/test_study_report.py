"""A study's report says what was planted, and no more."""

import builtins
import collections
import json
import re
import subprocess
import sys

import pytest

from shared_bert.errors import UserError
from shared_bert.study import figures, judgement, report, scores, tables
from shared_bert.study.analysis import analyse
from shared_bert.study.claims import CLAIMS, base_parameters
from shared_bert.study.settings import study_at, study_defaults
from shared_bert.training import metrics
from shared_bert.training.workdir import flatten
from tests.tiny_study import GLUE, MODELS, study

QUALITY = [
  claim.key
  for claim in CLAIMS
  if claim.key not in ('qkv_parameters', 'total_parameters', 'training_time')
]
PLANTED = {
  'tasks': ('mrpc', 'cola', 'sst2', 'squad1'),
  'pretrain_seeds': range(5),
  'seeds': range(2),
  'between': 0.3,
  'within': 0.3,
}


def verdicts_of(findings):
  return {v.claim.key: v for v in analyse(findings).verdicts}


def written(findings, folder):
  assert report.write_report(findings, folder) == folder / 'report.md'
  # Constants such as NaN are what strict JSON has not.
  found = json.loads(
    (folder / 'report.json').read_text(), parse_constant=pytest.fail
  )
  return (folder / 'report.md').read_text(), found


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
  folder = tmp_path_factory.mktemp('report')
  findings = study(
    effects={'shared': 3.0, 'symmetric': -3.0, 'pairwise': 6.0}, **PLANTED
  )
  findings['finetune'][3]['metrics']['dev']['loss'] = float('nan')
  findings['pretrain'][0]['curve'].append([550, float('nan')])
  return folder, *written(findings, folder)


def test_planted_effects_are_found_and_only_these():
  effects = {'shared': 3.0, 'symmetric': -2.5, 'pairwise': 6.0}
  found = verdicts_of(study(effects=effects, **PLANTED))
  assert {key: v.verdict for key, v in found.items()} == {
    'qkv_parameters': judgement.HOLDS,
    'total_parameters': judgement.HOLDS,
    'training_time': judgement.HOLDS,
    'glue_standard': judgement.HOLDS,
    'glue_symmetric': judgement.HOLDS,
    'glue_pairwise': judgement.FAILS,
    'small_tasks': judgement.HOLDS,
    'noise': judgement.HOLDS,
    # The curves fall by as much; what is below 0.6 at the end does not.
    'noise_change': judgement.FAILS,
    'outside': judgement.OPEN,
    'squad': judgement.FAILS,
    'narrow': judgement.HOLDS,
  }
  # The paper's sizes are of GLUE, and this is a mean over three tasks.
  assert 'sizes' not in found['glue_symmetric'].sentence


def test_robustness_is_judged_apart_from_clean_scores():
  found = verdicts_of(
    study(noise_effects={'shared': 4.0}, effects={'shared': -0.5}, **PLANTED)
  )
  for key in ('noise', 'noise_change', 'outside'):
    assert found[key].verdict == judgement.HOLDS, key
  assert found['glue_standard'].verdict != judgement.HOLDS
  worse = verdicts_of(study(effects={'shared': -3.0}, **PLANTED))
  assert worse['squad'].verdict == judgement.HOLDS
  assert worse['glue_standard'].verdict == judgement.FAILS


def test_without_effects_claims_hold_no_oftener_than_they_may():
  held, alarmed, studies = collections.Counter(), 0, 80
  for number in range(studies):
    found = analyse(
      study(
        models=('standard', 'shared', 'symmetric'),
        tasks=('mrpc', 'sst2', 'squad1'),
        seeds=(0,),
        seed=number,
      )
    )
    for verdict in found.verdicts:
      if verdict.claim.key in QUALITY:
        held[verdict.claim.key] += verdict.verdict == judgement.HOLDS
    alarmed += any(
      judgement.rule(c) != judgement.OPEN for c in found.family('planned')
    )
  # At most 2.5 % each, and 5 % of a whole family to either side: 2 and 4.
  assert max(held.values()) <= 5, held
  assert alarmed <= 8


def test_models_that_use_no_order_leave_every_claim_of_quality_open():
  gain = {'standard': 0.4, 'shared': 0.001, 'symmetric': 0.4, 'pairwise': 0.4}
  findings = study(effects={'shared': 9.0}, gain=gain, **PLANTED)
  found = verdicts_of(findings)
  for key in QUALITY:
    assert found[key].verdict == judgement.OPEN, key
  assert found['glue_standard'].shown == judgement.HOLDS
  assert found['training_time'].verdict == judgement.HOLDS
  text = report.markdown(analyse(findings), {})
  first = text.split('## Summary')[0]
  assert 'shared does not use the order of words yet' in first
  assert 'by the interval alone: holds' in text.split('## What was run')[0]


def test_a_model_that_left_the_plateau_on_some_seeds_only_is_limited():
  findings = study(effects={'shared': 9.0}, **PLANTED)
  findings['pretrain'][0]['context']['shuffled'] -= 0.39
  assert scores.word_order(findings, 'standard').status == 'mixed'
  assert verdicts_of(findings)['glue_standard'].verdict == judgement.OPEN
  unknown = study(gain=None, **PLANTED)
  text = report.markdown(analyse(unknown), {})
  assert 'was not measured' in text.split('## Summary')[0]


def test_few_pretraining_seeds_speak_of_these_models_alone():
  planted = PLANTED | {'pretrain_seeds': (0, 1), 'seeds': range(4)}
  found = verdicts_of(study(effects={'shared': 9.0}, **planted))
  verdict = found['glue_standard']
  assert (verdict.verdict, verdict.shown) == (judgement.OPEN, judgement.HOLDS)
  assert 'conditional on these 2 pre-trained models' in verdict.sentence


def collapse(findings, *models):
  for record in findings['finetune']:
    if record['model'] in models and record['task'] == 'cola':
      # 1 / sqrt(408) is 0.05.
      record['metrics']['dev']['matthews'] = 0.04
  return findings


def test_where_one_model_collapsed_the_task_counts_and_is_named():
  findings = study(effects={'shared': 9.0}, **PLANTED)
  found = analyse(collapse(findings, 'standard'))
  verdict = {v.claim.key: v for v in found.verdicts}['glue_standard']
  assert verdict.verdict == judgement.HOLDS
  assert 'Most runs of standard on cola are no better' in verdict.sentence
  planned = next(c for c in found.comparisons if c.name == verdict.comparison)
  assert 'cola' in planned.tasks
  # Who has learnt nothing loses nothing, but it scores what it scores.
  for c in found.of_measures('noise', 'noise_change'):
    if c.one == 'shared':
      assert ('cola' in c.tasks) == (c.measure == 'noise'), c.name


def test_a_task_on_which_both_models_collapsed_is_left_out_and_named():
  findings = study(effects={'shared': 9.0}, **PLANTED)
  found = analyse(collapse(findings, 'standard', 'shared'))
  assert found.cells['standard']['cola'].collapsed == 10
  of_task = {c.about: c for c in found.family('tasks') if c.one == 'shared'}
  assert judgement.rule(of_task['cola']) == judgement.OPEN
  assert of_task['cola'].p_holm is None
  assert judgement.rule(of_task['mrpc']) == judgement.HOLDS
  verdict = {v.claim.key: v for v in found.verdicts}['glue_standard']
  assert 'Without cola, where most runs collapsed' in verdict.sentence
  assert ', cola' not in verdict.comparison
  noise = [
    c for c in found.of_measures('noise', 'noise_change') if c.one == 'shared'
  ]
  assert noise
  assert all('cola' not in c.tasks for c in noise)
  # All kinds of the tasks that are in it.
  assert '*10' in report.markdown(found, {})


def test_models_of_several_corpora_are_named_as_such():
  findings = study(tasks=('mrpc',))
  records = findings['pretrain']
  for record in records:
    record['context']['frequency'] = 7.0
  assert 'corpora' not in report.markdown(analyse(findings), {})
  records[1]['context']['frequency'] = 7.000002
  text = report.markdown(analyse(findings), {}).split('## Limits')[1]
  assert 'The pre-trainings are of 2 corpora' in text
  name = f'{records[1]["model"]} {records[1]["seed"]}'
  assert f'7.000002 of {name} (seeds)' in text


def test_no_comparison_is_there_twice():
  # Of two tasks one is left out, which leaves of their mean the other.
  findings = study(tasks=('mrpc', 'sst2', 'squad1', 'squad2'))
  for record in findings['finetune']:
    if record['task'] == 'squad2':
      record['metrics']['dev'] |= {'f1': 0.0, 'HasAns_f1': 0.0}
      record['collapsed'] = ['dev']
  found = analyse(findings)
  names = [c.name for c in found.comparisons]
  assert len(set(names)) == len(names)
  of_third = [c for c in found.family('squad') if c.one == 'symmetric']
  assert [c.about for c in of_third] == ['squad1', 'squad2']


def test_an_area_under_noise_has_an_interval_over_the_examples():
  findings = study(tasks=('sst2', 'cola'), robust=True)
  for record in findings['finetune']:
    for curve in record['robustness']['curves'].values():
      # Areas are of scores between 0 and 1, and reports of percentages.
      wide = 0.03 if record['task'] == 'sst2' else 0.04
      curve['auc_interval'] = [curve['auc'] - wide, curve['auc'] + 2 * wide]
  row = tables.noise(analyse(findings))[2].split('|')
  under, ends = float(row[5]), [float(end) for end in row[6].split(' to ')]
  assert ends == pytest.approx([under - 2.5, under + 5.0], abs=0.011)
  del curve['auc_interval']
  analysis = analyse(findings | {'finetune': [record]})
  assert tables.noise(analysis)[-2].split('|')[6].strip() == '–'


def test_runs_are_judged_anew_where_a_record_has_what_it_needs():
  record = {
    'metrics': {'dev': {'matthews': 0.2, 'accuracy': 0.69}},
    'majority': {'dev': 0.69},
    'examples': {'dev': 1043},
    'collapsed': ['dev'],
  }
  assert not scores.has_collapsed(record)
  record['metrics']['dev']['matthews'] = 0.0
  assert scores.has_collapsed(record | {'collapsed': []})
  del record['examples']
  assert scores.has_collapsed(record)


def test_a_set_at_the_commonest_class_cannot_tell():
  findings = study(effects={'shared': 9.0}, **PLANTED)
  for record in findings['finetune']:
    for entry in ((record['robustness'] or {}).get('outside') or {}).values():
      entry['majority'] = 0.7
  assert verdicts_of(findings)['outside'].verdict == judgement.OPEN
  assert all(c.cannot for c in analyse(findings).of_measures('outside'))


def test_a_set_of_the_training_domain_is_shown_and_not_compared():
  findings = study(effects={'shared': 9.0}, **PLANTED)
  for record in findings['finetune']:
    outside = (record['robustness'] or {}).get('outside') or {}
    if record['task'] == 'cola' and outside:
      outside['cola_in_domain'] = dict(outside['cola_other'])
  found = analyse(findings)
  assert ('cola', 'cola_in_domain') in found.outside
  compared = {c.about for c in found.of_measures('outside')}
  assert any('cola_other' in about for about in compared)
  assert not any('cola_in_domain' in about for about in compared)
  assert 'cola_in_domain is of the domain of' in report.markdown(found, {})


def test_a_mean_over_sets_names_those_that_are_in_it():
  findings = study(effects={'shared': 9.0}, **PLANTED)
  found = analyse(collapse(findings, *MODELS)).of_measures('outside')
  (whole,) = (c for c in found if c.family == 'planned')
  assert 'cola_other' not in whole.about
  assert whole.left_out == ['cola_other']
  assert whole.difference
  assert all(c.cannot for c in found if 'cola_other' in c.about)


def test_a_set_that_two_tasks_read_is_a_row_of_each():
  findings = study(tasks=('mrpc', 'qqp'), models=('standard', 'shared'))
  for record in findings['finetune']:
    value = {'mrpc': 0.55, 'qqp': 0.75}[record['task']]
    entry = record['robustness']['outside'][f'{record["task"]}_other']
    record['robustness']['outside'] = {'pawsx': entry | {'value': value}}
  found = analyse(findings)
  means = {task: of['shared'].mean for (task, _), of in found.outside.items()}
  assert means == {'mrpc': pytest.approx(55), 'qqp': pytest.approx(75)}


def test_pairs_do_not_depend_on_the_order_of_records():
  findings = study(between=5.0)
  expected = report.json_text(analyse(findings))
  shuffled = findings | {
    'finetune': sorted(
      findings['finetune'], key=lambda r: (r['seed'], -r['pretrain_seed'])
    )
  }
  for one, other in zip(
    json.loads(expected)['analysis']['comparisons'].values(),
    json.loads(report.json_text(analyse(shuffled)))['analysis'][
      'comparisons'
    ].values(),
    strict=True,
  ):
    assert one == other


def test_the_mean_over_all_tasks_is_glues_nine_number_mean():
  findings = study(tasks=GLUE, models=('standard', 'shared'), seeds=(0,))
  for number, record in enumerate(findings['finetune']):
    if record['task'] == 'mnli':
      record['metrics']['dev_mismatched']['accuracy'] = 0.7 + number / 1000
  found = analyse(findings)
  planned, small = (c for c in found.family('planned') if c.measure == 'score')
  assert small.about.startswith('small tasks')
  assert planned.about.startswith('GLUE (')
  averages = {m: found.averages[m]['nine_number'] for m in found.models}
  assert planned.difference.estimate == pytest.approx(
    averages['shared'] - averages['standard']
  )
  # And one task less is no GLUE.
  findings['finetune'] = [r for r in findings['finetune'] if r['task'] != 'rte']
  found = analyse(findings)
  assert 'GLUE' not in found.family('planned')[0].about
  assert 'no GLUE score' in report.markdown(found, {})


def test_headline_numbers_are_means_of_the_columns():
  values = {'dev': {'f1': 0.8, 'accuracy': 0.7, 'loss': 1.0}}
  assert scores.columns_of('mrpc', values) == {'mrpc': pytest.approx(75)}
  # SQuAD's are per cent already.
  squad = {'dev': {'exact_match': 70.0, 'f1': 80.0}}
  assert scores.columns_of('squad2', squad) == {'squad2': 80.0}
  both = {'dev_matched': {'accuracy': 0.8}, 'dev_mismatched': {'accuracy': 0.6}}
  assert scores.columns_of('mnli', both) == {
    'mnli_matched': 80.0,
    'mnli_mismatched': 60.0,
  }
  assert set(scores.GLUE) == {
    name.split('_')[0] for name in metrics.GLUE_COLUMNS
  }
  assert not scores.columns_of('cola', {'dev': {'matthews': float('nan')}})


def test_the_rate_picked_on_dev_counts_and_is_told():
  findings = study(models=('standard', 'shared'), tasks=('mrpc',))
  record = findings['finetune'][0]
  better = record | {
    'selected_rate': True,
    'learning_rate': 1e-4,
    'metrics': {'dev': {'f1': 0.9, 'accuracy': 0.9}},
  }
  findings['finetune'].append(better)
  runs, notes = scores.runs_of(findings)
  assert not notes
  assert scores.by_pair(runs, 'standard', 'mrpc')[0, 0] == pytest.approx(90)
  assert 'picked on the dev set' in report.markdown(analyse(findings), {})
  findings['finetune'].append(better)
  assert 'twice' in scores.runs_of(findings)[1][0]


def test_results_of_the_robustness_job_are_read_as_they_are():
  results = {
    'noise': {
      'levels': [0.0, 0.1],
      'curves': {
        'dev': {
          'characters': {'metric': 'f1', 'values': [0.8, 0.6], 'auc': 0.7}
        }
      },
    },
    'outside': {
      'qqp': {
        'metric': 'accuracy',
        'metrics': {'accuracy': 0.55},
        'majority': 0.6,
        'examples': 100,
      }
    },
  }
  found = scores.robustness_of({'robustness': results})
  assert found['curves']['characters']['levels'] == [0.0, 0.1]
  assert found['outside']['qqp']['value'] == 0.55
  assert scores.is_at_majority(found['outside']['qqp'])
  empty = scores.robustness_of({'robustness': None})
  assert empty == {'curves': {}, 'outside': {}}


def test_the_report_has_every_model_task_and_number(whole):
  _, text, found = whole
  for name in (*MODELS, *PLANTED['tasks'], 'characters', 'mrpc_other'):
    assert name in text
  for claim in CLAIMS:
    assert claim.text in text
  assert text.count('second-hand') >= 4
  assert found['finetune'][3]['metrics']['dev']['loss'] is None
  assert found['pretrain'][0]['curve'][-1] == [550, None]
  for comparison in found['analysis']['comparisons'].values():
    shown = comparison['difference']['estimate']
    digits = {'loss': 3, 'seconds': 3}.get(comparison['measure'], 2)
    if comparison['measure'] != 'seconds':
      assert f'{shown:+.{digits}f}'.replace('-', '−') in text
  # What is not told has what would have been found beside it.
  for line in text.splitlines():
    if '| cannot be told |' in line:
      assert re.search(r'\| cannot be told \| \d+\.\d+ \|$', line), line


def test_the_report_renders(whole):
  folder, text, _ = whole
  pictures = re.findall(r'!\[[^\]]+\]\(([^)]+)\)', text)
  assert len(pictures) == 4
  for path in pictures:
    assert path.startswith('figures/')
    assert (folder / path).read_bytes().startswith(b'\x89PNG')
  # Every row of a table has as many cells as its head.
  for block in text.split('\n\n'):
    rows = [line for line in block.splitlines() if line.startswith('|')]
    assert len({row.count(' | ') for row in rows}) <= 1, rows[:1]
  summary = text.split('## Summary')[1].split('##')[0].strip()
  assert len(summary.splitlines()) == 10


def test_curves_of_other_rows_than_the_table_say_so():
  findings = study(tasks=('mrpc',))
  assert 'Curves are of' not in report.markdown(analyse(findings), {})
  for record in findings['pretrain']:
    losses = {'heldout_32': {'loss': 3.1}, 'heldout_128': {'loss': 3.0}}
    record |= {'metrics': losses, 'curve_of': 'heldout_32'}
  text = report.markdown(analyse(findings), {})
  assert 'Curves are of `heldout_32`' in text


def test_half_a_study_says_what_is_missing():
  findings = study(models=('standard', 'shared', 'tied'))
  gone = [
    r
    for r in findings['finetune']
    if r['model'] != 'tied' and (r['task'], r['seed']) != ('cola', 2)
  ]
  gone[0]['failed'] = 'the loss was not finite'
  gone[1]['robustness'] = None
  findings |= {'finetune': gone, 'cost': {'models': {'shared': {}}}}
  findings['pretrain'][-1]['failed'] = 'stopped'
  findings['pretrain'][0] |= {'curve': [], 'context': None, 'loss': None}
  analysis = analyse(findings)
  text = report.markdown(analysis, {})
  assert 'the loss was not finite' in text
  assert 'tied: no pre-training of seed 2' in text
  assert '- tied: no run on mrpc, cola\n' in text
  assert '- standard: of its runs 8 of 9 on mrpc\n' in text
  assert 'SQuAD was not run' in text
  json.loads(report.json_text(analysis), parse_constant=pytest.fail)


def test_only_what_was_planned_is_missing():
  findings = study(pretrain_seeds=(0, 1, 2))
  closer = ('standard', 'shared')
  findings['config'] |= {
    'pretrain_seeds': (0,),
    'closer_models': closer,
    'closer_seeds': (1, 2, 3),
    'tasks': ('mrpc', 'cola', 'rte'),
  }
  for part, key in (('pretrain', 'seed'), ('finetune', 'pretrain_seed')):
    findings[part] = [
      r for r in findings[part] if r['model'] in closer or r[key] == 0
    ]
  missing = analyse(findings).missing
  assert missing[:2] == [
    f'{model}: no pre-training of seed 3' for model in closer
  ]
  assert 'rte: no run' in missing
  assert not any('narrow' in line for line in missing)


@pytest.mark.parametrize('hours', [0.0, 0.5])
def test_settings_are_shown_where_they_are_not_those_of_the_config(hours):
  findings = study(tasks=('mrpc',))
  findings['config'] = flatten(study_at('tiny', hours).to_dict())
  usual = study_defaults().pretrain.train.batch_size
  findings['config'] |= {'workers': 2, 'pretrain.train.batch_size': usual}
  text = report.markdown(analyse(findings), {})
  arg = 'size=tiny,hours=0.5' if hours else 'size=tiny'
  assert f'--config=configs/study.py:{arg} ' in text
  shown = text.split('not those of that config')[1].split('```')[1]
  assert set(shown.split('\n')[1:-1]) == {
    '--config.workers=2',
    f'--config.pretrain.train.batch_size={usual}',
  }


@pytest.mark.parametrize('key', [None, *study()])
def test_any_part_may_be_missing(key):
  findings = study(tasks=('mrpc',), seeds=(0,))
  if key is None:
    findings = {}
  else:
    del findings[key]
  analysis = analyse(findings)
  assert '## Limits' in report.markdown(analysis, {})
  json.loads(report.json_text(analysis), parse_constant=pytest.fail)


def test_a_variant_is_held_against_what_it_is_a_variant_of():
  name = 'shared:role_bias=True'
  findings = study(models=('standard', 'shared', name), tasks=('mrpc',))
  of = {(c.one, c.other) for c in analyse(findings).family('pretraining')}
  assert of == {('shared', 'standard'), (name, 'standard'), (name, 'shared')}


def test_variants_of_models_are_found():
  name = 'shared:role_bias=True,residual_rank=4'
  findings = study(models=('standard', name), effects={name: 5.0}, **PLANTED)
  assert verdicts_of(findings)['glue_standard'].verdict == judgement.HOLDS
  text = report.markdown(analyse(findings), {})
  assert f'`{name}`, a variant' in text


def test_without_matplotlib_the_report_says_how_to_get_figures(
  tmp_path, monkeypatch
):
  real = builtins.__import__

  def refuse(name, *args, **kwargs):
    if name.startswith('matplotlib'):
      raise ImportError(name)
    return real(name, *args, **kwargs)

  monkeypatch.setattr(builtins, '__import__', refuse)
  text, _ = written(study(tasks=('mrpc',)), tmp_path)
  assert figures.WITHOUT in text
  assert '![' not in text


def test_a_place_that_cannot_be_written_is_told(tmp_path):
  (tmp_path / 'file').write_text('')
  with pytest.raises(UserError, match='cannot write the report'):
    report.write_report({}, tmp_path / 'file' / 'below')


def test_a_report_needs_no_jax():
  code = (
    'import sys, shared_bert.study.report\n'
    'assert not {"jax", "flax", "matplotlib"} & sys.modules.keys()'
  )
  subprocess.run([sys.executable, '-c', code], check=True)


def test_base_is_counted_as_the_models_are():
  assert base_parameters('standard') == 109_482_240
  assert base_parameters('shared') == 95_335_680


def test_names_with_bars_stay_in_their_cell():
  findings = study(models=('standard', 'shared'), tasks=('mrpc',))
  text = json.dumps(findings).replace('characters', 'a|b')
  shown = report.markdown(analyse(json.loads(text)), {})
  assert 'a\\|b' in shown
