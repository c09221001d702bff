"""What can be told of launch/ without a cloud: scripts, image, manifests."""

import os
import pathlib
import re
import shutil
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
LAUNCH = ROOT / 'launch'
JOBSETS = sorted(
  p for p in (LAUNCH / 'gke').glob('*.yaml') if p.name != 'share.yaml'
)
# Of jobset.x-k8s.io/v1alpha2, the API reference: the fields a manifest may set.
FIELDS = {
  'spec': {
    'replicatedJobs',
    'network',
    'successPolicy',
    'failurePolicy',
    'startupPolicy',
    'suspend',
    'coordinator',
    'managedBy',
    'ttlSecondsAfterFinished',
  },
  'replicated job': {'name', 'groupName', 'template', 'replicas', 'dependsOn'},
  'failure policy': {'maxRestarts', 'restartStrategy', 'rules'},
  'rule': {'name', 'action', 'onJobFailureReasons', 'targetReplicatedJobs'},
}
ACTIONS = {'FailJobSet', 'RestartJobSet', 'RestartJobSetAndIgnoreMaxRestarts'}
REASONS = {
  'BackoffLimitExceeded',
  'DeadlineExceeded',
  'FailedIndexes',
  'MaxFailedIndexesExceeded',
  'PodFailurePolicy',
}


def program(name):
  """A program of the `dev` extra, beside this Python."""
  found = shutil.which(name, path=f'{pathlib.Path(sys.executable).parent}')
  if not found:
    pytest.skip(f'{name} is not installed')
  return found


def manifests(path):
  yaml = pytest.importorskip('yaml')
  return list(yaml.safe_load_all(path.read_text()))


def job_of(path):
  (jobset,) = manifests(path)
  (replicated,) = jobset['spec']['replicatedJobs']
  return replicated['template']['spec']


def container_of(path):
  (container,) = job_of(path)['template']['spec']['containers']
  return container


def test_shellcheck_finds_nothing():
  scripts = [
    p
    for p in [*ROOT.glob('*/*.sh'), *LAUNCH.glob('slurm/*'), ROOT / '.ci/run']
    if p.exists()
  ]
  assert len(scripts) >= 8
  done = subprocess.run(
    [program('shellcheck'), '-x', *scripts],
    cwd=ROOT,
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stdout


def test_hadolint_finds_nothing():
  done = subprocess.run(
    [program('hadolint'), '--no-color', LAUNCH / 'Dockerfile'],
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stdout


def test_the_image_copies_what_is_there_and_starts_the_command():
  text = (LAUNCH / 'Dockerfile').read_text()
  copied = [
    name
    for line in re.findall(r'^COPY (.*)', text, re.MULTILINE)
    for name in line.split()[:-1]
  ]
  assert {'shared_bert', 'configs', 'pyproject.toml'} <= set(copied)
  for name in copied:
    assert (ROOT / name).exists(), name
  extra = re.search(r'^ARG EXTRA=(.*)', text, re.MULTILINE)[1]
  assert f'\n{extra} = [' in (ROOT / 'pyproject.toml').read_text()
  assert text.endswith('ENTRYPOINT ["python", "-m", "shared_bert.main"]\n')


@pytest.mark.parametrize('path', JOBSETS, ids=lambda p: p.stem)
def test_a_manifest_is_a_jobset_whose_jobs_are_jobs(path):
  validate = pytest.importorskip('kubernetes_validate')
  (jobset,) = manifests(path)
  assert jobset['apiVersion'] == 'jobset.x-k8s.io/v1alpha2'
  assert jobset['kind'] == 'JobSet'
  spec = jobset['spec']
  policy = spec['failurePolicy']
  assert set(spec) <= FIELDS['spec']
  assert set(policy) <= FIELDS['failure policy']
  for rule in policy['rules']:
    assert set(rule) <= FIELDS['rule']
    assert re.fullmatch('[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?', rule['name'])
    assert rule['action'] in ACTIONS
    assert set(rule['onJobFailureReasons']) <= REASONS
  for replicated in spec['replicatedJobs']:
    assert set(replicated) <= FIELDS['replicated job']
    # The template that JobSet makes jobs of, as Kubernetes checks a job.
    job = {
      'apiVersion': 'batch/v1',
      'kind': 'Job',
      'metadata': {'name': 'job'},
      **replicated['template'],
    }
    validate.validate(job, validate.latest_version(), strict=True)


def test_the_share_is_a_claim_that_both_manifests_use():
  validate = pytest.importorskip('kubernetes_validate')
  (claim,) = manifests(LAUNCH / 'gke' / 'share.yaml')
  validate.validate(claim, validate.latest_version(), strict=True)
  for path in JOBSETS:
    volumes = job_of(path)['template']['spec']['volumes']
    claims = [v.get('persistentVolumeClaim') for v in volumes]
    assert {'claimName': claim['metadata']['name']} in claims


@pytest.mark.parametrize('path', JOBSETS, ids=lambda p: p.stem)
def test_only_what_the_user_must_mend_is_final(path):
  job = job_of(path)
  (rule,) = job['podFailurePolicy']['rules']
  codes = rule['onExitCodes']
  assert codes['operator'] == 'In' and codes['values'] == [1, 2]
  assert codes['containerName'] == container_of(path)['name']
  # What Kubernetes asks of a pod failure policy, and what makes all pods start
  # again when one of them ends.
  assert job['template']['spec']['restartPolicy'] == 'Never'
  assert job['backoffLimit'] == 0
  assert job['completions'] == job['parallelism']
  assert job['completionMode'] == 'Indexed'


def test_the_processes_on_gpus_find_the_first_one():
  path = LAUNCH / 'gke' / 'gpu.yaml'
  (jobset,) = manifests(path)
  name, job = jobset['metadata']['name'], job_of(path)
  (replicated,) = jobset['spec']['replicatedJobs']
  # JobSet's name of the first pod of the first job, in the subdomain that is
  # named like the set.
  host = f'{name}-{replicated["name"]}-0-0.{name}'
  port = container_of(path)['ports'][0]['containerPort']
  args = container_of(path)['args']
  assert f'--coordinator={host}:{port}' in args
  assert f'--num_processes={job["completions"]}' in args


def test_a_slice_has_as_many_workers_as_its_topology_asks_for():
  path = LAUNCH / 'gke' / 'tpu.yaml'
  job = job_of(path)
  topology = job['template']['spec']['nodeSelector'][
    'cloud.google.com/gke-tpu-topology'
  ]
  across, down = map(int, topology.split('x'))
  chips = container_of(path)['resources']['limits']['google.com/tpu']
  assert job['completions'] * chips == across * down


@pytest.mark.parametrize('path', JOBSETS, ids=lambda p: p.stem)
def test_the_command_takes_the_arguments_of_a_manifest(path):
  args = [
    a
    for a in container_of(path)['args']
    if not a.startswith(('--coordinator', '--num_processes', '--process_id'))
  ]
  done = subprocess.run(
    [sys.executable, '-m', 'shared_bert.main', *args],
    cwd=ROOT,
    env=os.environ | {'JAX_NUM_CPU_DEVICES': '1'},
    capture_output=True,
    text=True,
  )
  # It gets as far as the corpus, which is not here.
  assert done.returncode == 1
  assert '/mnt/share/corpus' in done.stderr, done.stderr
