"""What a study makes of a few numbers: intervals, p-values, power, pairs."""

import itertools

import numpy as np
import pytest
from scipy import stats

from shared_bert.study import comparisons
from shared_bert.study import statistics as lib


def test_components_of_variance_are_told_apart():
  random = np.random.default_rng(0)
  groups = [
    random.normal(m, 1.0, size=4) for m in random.normal(0, 3.0, size=400)
  ]
  found = lib.variance_components(groups)
  assert found.between == pytest.approx(3.0, rel=0.1)
  assert found.within == pytest.approx(1.0, rel=0.05)
  assert (found.groups, found.n) == (400, 1600)
  # Unequal groups, by hand: MSW = 1, MSB = 12.1, n0 = 2.4.
  found = lib.variance_components([[0, 2], [3, 4, 5]])
  assert found.within == pytest.approx((4 / 3) ** 0.5)
  assert found.between == pytest.approx(((10.8 - 4 / 3) / 2.4) ** 0.5)


def test_components_that_cannot_be_told_are_none():
  assert lib.variance_components([[1.0], [2.0]])[:2] == (None, None)
  alone = lib.variance_components([[1.0, 3.0]])
  assert alone.between is None
  assert alone.within == pytest.approx(2**0.5)
  same_means = lib.variance_components([[0, 2], [0, 2]])
  assert same_means.between == 0


@pytest.mark.parametrize('n', [3, 5])
@pytest.mark.parametrize('within', [0.0, 2.0])
def test_intervals_of_three_and_five_units_cover_95_per_cent(n, within):
  random = np.random.default_rng(n)
  simulated, hits, plain = 1000, 0, 0
  for _ in range(simulated):
    # Each unit is a pre-training seed, the mean of two fine-tuning seeds.
    units = random.normal(size=n) + within * random.normal(size=(2, n)).mean(0)
    found = lib.difference([units], draws=1000)
    hits += found.low <= 0 <= found.high
    drawn = units[random.integers(n, size=(1000, n))].mean(1)
    low, high = np.quantile(drawn, (0.025, 0.975))
    plain += low <= 0 <= high
  assert 0.93 <= hits / simulated <= 0.975
  # What is corrected for.
  assert plain / simulated < 0.88


def test_intervals_given_pretrained_models_cover_their_own_mean():
  random = np.random.default_rng(0)
  hits = 0
  for _ in range(500):
    means = random.normal(scale=5, size=2)
    groups = [m + random.normal(size=3) for m in means]
    found = lib.difference(groups, draws=500)
    hits += found.low <= means.mean() <= found.high
  assert 0.92 <= hits / 500 <= 0.98
  # What differs between the models is no part of it.
  assert found.high - found.low < 5


def test_intervals_of_many_skewed_values_are_skewed():
  values = np.random.default_rng(0).exponential(size=30) ** 2
  found = lib.difference([values])
  assert found.high - found.estimate > 1.02 * (found.estimate - found.low)


def test_the_t_test_is_scipys():
  values = [0.3, 1.2, 0.9, -0.1]
  found = lib.difference([values])
  assert found.test == 't'
  assert found.p == pytest.approx(stats.ttest_1samp(values, 0).pvalue)
  expected = stats.t.interval(0.95, 3, np.mean(values), stats.sem(values))
  assert (found.low, found.high) == pytest.approx(expected)
  assert found == lib.difference([values])


def test_sign_flips_are_exact_where_all_are_tried():
  values = np.array([3, -1, 2, 5, 1, 4, -2, 6, 2, 1, 3, 2.0])
  found = lib.difference([values])
  flipped = [
    abs(np.dot(signs, values))
    for signs in itertools.product((-1, 1), repeat=len(values))
  ]
  assert found.test == 'signs'
  assert found.p == np.mean(np.array(flipped) >= values.sum() - 1e-9)
  many = lib.difference([np.tile(values, 2)])
  assert 0 < many.p < found.p


def test_without_a_spread_there_is_no_interval():
  for groups in ([[1.0]], [[1.0], [2.0]], [[0.5, 0.5, 0.5]], [[0.0, 0.0]]):
    found = lib.difference(groups)
    assert (found.low, found.high, found.p) == (None, None, None), groups
  with pytest.raises(ValueError, match='no differences'):
    lib.difference([])


def test_holm_by_hand():
  found = lib.holm({'a': 0.01, 'b': 0.04, 'c': 0.03, 'd': 0.005})
  expected = {'d': 0.02, 'a': 0.03, 'c': 0.06, 'b': 0.06}
  assert found == pytest.approx(expected)
  assert lib.holm({'a': 0.6, 'b': 0.7}) == {'a': 1.0, 'b': 1.0}
  assert lib.holm({}) == {}


@pytest.mark.parametrize('n', [2, 3, 5, 10])
def test_the_detectable_difference_is_found_in_80_per_cent(n):
  random = np.random.default_rng(n)
  true = lib.detectable(1 / np.sqrt(n), n - 1)
  values = true + random.normal(size=(20_000, n))
  p_values = stats.ttest_1samp(values, 0, axis=1).pvalue
  assert np.mean(p_values < 0.05) == pytest.approx(0.8, abs=0.01)


def test_pairs_are_of_equal_seeds_in_any_order():
  one = {(1, 0): 5.0, (0, 0): 3.0, (2, 0): 9.0}
  other = {(0, 0): 1.0, (2, 0): 8.0, (1, 0): 2.0, (3, 0): 100.0}
  assert comparisons.paired(one, other) == {
    (0, 0): (3.0, 1.0),
    (1, 0): (5.0, 2.0),
    (2, 0): (9.0, 8.0),
  }


def item(task, values, weight=1.0):
  pairs = {pair: (value + 50, 50.0) for pair, value in values.items()}
  return comparisons.Item(task, pairs, weight)


def units(*items):
  return comparisons.units(items, lambda both: both[0] - both[1])


def test_units_are_pretraining_seeds_from_three_on():
  three = {(p, s): 10.0 * p + s for p in range(3) for s in range(2)}
  assert units(item('cola', three)) == (
    [(1.0, [[0.5, 10.5, 20.5]])],
    'pre-training seed',
    3,
  )
  two = {pair: value for pair, value in three.items() if pair[0] < 2}
  assert units(item('cola', two)) == (
    [(1.0, [[0.0, 1.0], [10.0, 11.0]])],
    'fine-tuning seed',
    2,
  )


def test_a_mean_is_over_seeds_that_have_every_item():
  one = {(p, 0): 1.0 * p for p in range(4)}
  other = {(p, 0): 2.0 * p for p in (3, 1, 2)}
  (whole,), _, count = units(item('mnli', one, 2.0), item('cola', other))
  assert whole[1][0] == pytest.approx([4 / 3, 8 / 3, 4])
  assert count == 3


def test_every_task_brings_all_its_runs_whatever_the_others_have():
  many = {(0, s): 1.0 * s for s in range(5)}
  few = {(0, s): 10.0 * s for s in range(2)}
  strata, _, _ = units(item('cola', many), item('qnli', few, 3.0))
  assert strata == [
    (0.25, [[0.0, 1.0, 2.0, 3.0, 4.0]]),
    (0.75, [[0.0, 10.0]]),
  ]
  found = comparisons.compare(
    'tasks',
    'score',
    'mean',
    ('a', 'b'),
    [item('cola', many), item('qnli', few)],
  )
  assert found.difference.estimate == pytest.approx((2.0 + 5.0) / 2)
  assert found.means == pytest.approx((53.5, 50.0))


def test_kinds_of_noise_of_one_run_are_one_unit():
  one, other = ({(0, s): x * s for s in range(4)} for x in (1.0, 3.0))
  strata, _, _ = units(item('cola', one), item('cola', other))
  assert strata == [(1.0, [[0.0, 2.0, 4.0, 6.0]])]
  # A run that has no number of one of them is in none.
  strata, _, _ = units(item('cola', one), item('cola', {(0, 1): 3.0}))
  assert strata == [(1.0, [[2.0]])]


def test_a_seed_that_a_task_lacks_is_in_no_mean():
  one = {(0, 0): 1.0, (0, 1): 2.0, (1, 0): 100.0}
  other = {(0, 0): 3.0, (0, 1): 5.0}
  strata, _, count = units(item('cola', one), item('qnli', other))
  assert strata == [(0.5, [[1.0, 2.0]]), (0.5, [[3.0, 5.0]])]
  assert count == 1
  assert units(item('cola', one), item('qnli', {(2, 0): 1.0}))[0] == []


@pytest.mark.parametrize('sizes', [(5, 2), (2, 2), (5, 5, 2, 2)])
def test_intervals_of_means_over_tasks_hold_the_truth_in_95_of_100(sizes):
  random, studies = np.random.default_rng(0), 300
  inside = np.zeros(studies, bool)
  for number in range(studies):
    strata = [
      (1 / len(sizes), [random.normal(scale=1 + task, size=n)])
      for task, n in enumerate(sizes)
    ]
    found = lib.mean_difference(strata, draws=200)
    inside[number] = found.low <= 0 <= found.high
  # Three standard errors of the count; wider is no fault.
  assert inside.mean() >= 0.95 - 3 * np.sqrt(0.95 * 0.05 / studies)


def test_strata_of_equal_freedom_are_students_t():
  one, other = [1.0, 2.0, 4.0], [3.0, 7.0, 5.0]
  found = lib.mean_difference([(0.5, [one]), (0.5, [other])])
  assert found.df == pytest.approx(2, abs=1e-5)
  error = np.sqrt((np.var(one, ddof=1) + np.var(other, ddof=1)) / 3) / 2
  half = stats.t.ppf(0.975, 2) * error
  assert found.low == pytest.approx(found.estimate - half)
  assert found.p == pytest.approx(2 * stats.t.sf(found.estimate / error, 2))
