"""What memory is free to this process, by the limits of the cgroups that it is in."""

from types import SimpleNamespace

import pytest

from lr_study import memory, nvml

GB = 2**30


@pytest.fixture
def root(tmp_path):
  """A function that makes the cgroups of a machine, {folder: {file: text}}, and gives its root."""

  def make(own, groups):
    (tmp_path / 'proc' / 'self').mkdir(parents=True)
    (tmp_path / 'proc' / 'self' / 'cgroup').write_text(own)
    for folder, files in groups.items():
      path = tmp_path / 'sys' / 'fs' / 'cgroup' / folder
      path.mkdir(parents=True, exist_ok=True)
      for name, text in files.items():
        (path / name).write_text(f'{text}\n')
    return tmp_path

  return make


def version_2(limit, used, reclaimable=0):
  stat = f'anon 1\ninactive_file {reclaimable}\nactive_file 7'
  return {'memory.max': limit, 'memory.current': used, 'memory.stat': stat}


def version_1(limit, used, reclaimable=0):
  stat = f'cache 1\ninactive_file 5\ntotal_inactive_file {reclaimable}'
  names = 'memory.limit_in_bytes', 'memory.usage_in_bytes', 'memory.stat'
  return dict(zip(names, (limit, used, stat), strict=True))


UNLIMITED = 2**63 - 4096  # as version 1 writes it


@pytest.mark.parametrize(
  ('own', 'groups', 'left'),
  [
    # A limit of a group above: of the pod, and not of the container in it.
    (
      '0::/pod/container/job\n',
      {
        '': {'cgroup.controllers': 'memory'},
        'pod': version_2(4 * GB, 3 * GB),
        'pod/container': version_2('max', 2 * GB),
        'pod/container/job': version_2(8 * GB, GB),
      },
      GB,
    ),
    (
      '9:name=systemd:/\n4:cpu,memory:/slurm/job_1/step_0\n0::/\n',
      {
        'memory': version_1(UNLIMITED, 9 * GB),
        'memory/slurm/job_1': version_1(6 * GB, 2 * GB),
        'memory/slurm/job_1/step_0': version_1(UNLIMITED, GB),
        'unified': {},
      },
      4 * GB,
    ),
    # A container that sees its own group as the top one, by whatever path the machine knows it.
    ('0::/\n', {'': version_2(2 * GB, GB)}, GB),
    ('4:memory:/docker/1234\n', {'memory': version_1(2 * GB, GB)}, GB),
    # Both are mounted, and memory belongs to version 2.
    ('4:pids:/\n0::/user\n', {'unified/user': version_2(3 * GB, 2 * GB)}, GB),
    # What holds files can be reclaimed.
    ('0::/a\n', {'a': version_2(4 * GB, 4 * GB, 3 * GB)}, 3 * GB),
    ('4:memory:/a\n', {'memory/a': version_1(4 * GB, 4 * GB, 3 * GB)}, 3 * GB),
    ('0::/a\n', {'a': version_2(GB, 2 * GB)}, 0),  # the limit was lowered since
  ],
)
def test_the_smallest_limit_of_nested_cgroups_counts(root, own, groups, left):
  assert min(memory.room_in_cgroups(root(own, groups))) == left


def test_without_limits_there_are_none(root, tmp_path):
  assert memory.room_in_cgroups(tmp_path) == []
  files = version_2('max', GB) | {'memory.stat': '\x00 not this'}
  assert memory.room_in_cgroups(root('0::/a\nodd\n', {'a': files})) == []


def test_a_limit_of_a_cgroup_is_what_is_free(monkeypatch):
  monkeypatch.setattr(memory, 'room_in_cgroups', lambda: [9 * 2**60, 12345])
  assert memory.free_memory() == memory.free_of_machine() == 12345


@pytest.mark.parametrize(
  ('stats', 'on_card', 'free'),
  [
    # JAX keeps to its share, of which it has taken all at its start.
    ({'bytes_limit': 60 * GB, 'bytes_in_use': 10 * GB, 'pool_bytes': 60 * GB}, 20 * GB, 50 * GB),
    # It takes memory as it needs it, and another process has most of the card.
    ({'bytes_limit': 60 * GB, 'bytes_in_use': 10 * GB, 'pool_bytes': 12 * GB}, 20 * GB, 22 * GB),
    ({'bytes_limit': 60 * GB, 'bytes_in_use': 10 * GB}, 20 * GB, 20 * GB),
    # Nobody tells of the card, or of JAX.
    ({'bytes_limit': 60 * GB, 'bytes_in_use': 10 * GB}, None, 50 * GB),
    (None, 20 * GB, 20 * GB),
    ({}, None, 7),
  ],
)
def test_what_is_free_on_a_gpu(monkeypatch, stats, on_card, free):
  device = SimpleNamespace(platform='gpu', memory_stats=lambda: stats)
  monkeypatch.setattr(memory.jax, 'local_devices', lambda: [device])
  monkeypatch.setattr(memory.nvml, 'free_memory', lambda: on_card)
  monkeypatch.setattr(memory, 'free_of_machine', lambda: 7)
  assert memory.free_memory() == free


def test_what_decides_over_a_gpu_is_told(monkeypatch):
  assert memory.about() == ''
  monkeypatch.setattr(memory.jax, 'local_devices', lambda: [SimpleNamespace(platform='gpu')])
  for name in memory._SETTINGS:
    monkeypatch.delenv(name, raising=False)
  assert memory.about() == ' (XLA_CLIENT_MEM_FRACTION is 0.75 by default)'
  monkeypatch.setenv('XLA_PYTHON_CLIENT_PREALLOCATE', 'false')
  monkeypatch.setenv('XLA_CLIENT_MEM_FRACTION', '.9')
  assert memory.about() == ' (XLA_CLIENT_MEM_FRACTION=.9, XLA_PYTHON_CLIENT_PREALLOCATE=false)'


def test_a_machine_without_a_card_is_no_error():
  nvml._library.cache_clear()
  if nvml._library() is None:
    assert nvml.joules() is None
    assert nvml.free_memory() is None
