"""Leases: who may write a wave's files, without locks of the file system."""

import multiprocessing
import os
import signal
import time

import pytest

from lr_study.cluster import lease

LAPSES = 0.6


def never():
  return False


def hold(folder, pipe, lapses):
  """In another process: takes the lease, says so, and tries to write whenever it is told to."""
  with lease.taken(folder, 'wave_0', never, lapses) as held:
    pipe.send(os.getpid())
    while pipe.recv():
      try:
        held.check()
        pipe.send('wrote')
      except lease.Lost:
        pipe.send('lost')


@pytest.fixture
def other(tmp_path):
  """Starts processes that hold the lease of tmp_path; returns each with its end of a pipe."""
  context, started = multiprocessing.get_context('forkserver'), []

  def start(lapses=LAPSES):
    ours, theirs = context.Pipe()
    process = context.Process(target=hold, args=(tmp_path, theirs, lapses), daemon=True)
    process.start()
    started.append(process)
    return process, ours

  yield start
  for process in started:
    process.kill()
    process.join()


def wait_for(pipe, seconds=60):
  assert pipe.poll(seconds)
  return pipe.recv()


def try_to_write(pipe):
  pipe.send(True)
  return wait_for(pipe)


def test_one_that_is_paused_past_its_expiry_writes_no_more(other, tmp_path):
  """Stopped, its lease lapses, and another process takes it: then only that one may write."""
  first, of_first = other()
  wait_for(of_first)
  assert try_to_write(of_first) == 'wrote'
  os.kill(first.pid, signal.SIGSTOP)
  second, of_second = other()
  assert not of_second.poll(LAPSES / 2)  # it waits until the lease has lapsed
  wait_for(of_second)
  os.kill(first.pid, signal.SIGCONT)
  assert try_to_write(of_first) == 'lost'
  assert try_to_write(of_second) == 'wrote'
  assert second.is_alive()


def test_one_that_is_renewed_is_never_taken(other, tmp_path):
  """For three times the time after which it would lapse."""
  _, of_first = other()
  wait_for(of_first)
  _, of_second = other()
  assert not of_second.poll(3 * LAPSES)
  assert try_to_write(of_first) == 'wrote'


def test_one_that_was_killed_is_taken_at_once(other, tmp_path):
  first, of_first = other(lapses=600.0)
  wait_for(of_first)
  assert lease.holder_of(tmp_path, 'wave_0')['pid'] == first.pid
  first.kill()
  started = time.monotonic()
  with lease.taken(tmp_path, 'wave_0', never, 600.0):
    assert time.monotonic() - started < 30


def test_of_another_machine_only_the_clock_tells(other, tmp_path, monkeypatch):
  """A process number says nothing there, even if no process of this machine has it."""
  first, of_first = other()
  wait_for(of_first)
  first.kill()
  first.join()
  monkeypatch.setattr(lease, '_machine', lambda: 'another')
  started = time.monotonic()
  with lease.taken(tmp_path, 'wave_0', never, 600.0):
    assert time.monotonic() - started >= LAPSES


def test_of_many_that_want_it_one_gets_it(other, tmp_path):
  started = [other() for _ in range(4)]
  time.sleep(2 * LAPSES)
  got = [pipe for _, pipe in started if pipe.poll(0)]
  assert len(got) == 1
  wait_for(got[0])
  got[0].send(False)  # it releases the lease, and the next one has it
  others = [pipe for _, pipe in started if pipe is not got[0]]
  deadline = time.monotonic() + 30
  while not any(pipe.poll(0.05) for pipe in others):
    assert time.monotonic() < deadline


def test_a_study_that_was_deleted_is_not_written(tmp_path):
  with lease.taken(tmp_path / 'leases', 'wave_0', never) as held:
    held.check(surely=True)
    (tmp_path / 'leases' / 'wave_0.1').unlink()
    held.check()  # within the time in which nobody can have taken it
    with pytest.raises(lease.Lost):
      held.check(surely=True)
    with pytest.raises(lease.Lost):
      held.check()


def test_nobody_waits_for_what_is_done(other, tmp_path):
  _, of_first = other()
  wait_for(of_first)
  done = iter([False, False, True])
  with lease.taken(tmp_path, 'wave_0', lambda: next(done)) as held:
    assert held is None
