"""Runs command lines in tests up to the point where training would start."""

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
CONFIG = 'configs/alexnet_letters.py:quick'

# Python's start and the imports take seconds: a child of one server parses each command line.
_SERVER = """
import importlib, json, os, sys, traceback
from lr_study import cli, config, plugs
from lr_study.commands import sweep  # for its flags
for module in plugs.MODULES.values():
  importlib.import_module(module)

def main():
  checked = config.check(cli.study_config()[0])
  if 'SHOW' in os.environ:
    print(json.dumps(checked.to_dict()))
  print('passed')

for line in sys.stdin:
  child = os.fork()
  if not child:
    sys.argv = json.loads(line)
    out = os.open(os.environ['OUT'], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(out, 1)
    os.dup2(out, 2)
    status = 1
    try:
      cli.run(main)
    except SystemExit as end:
      status = end.code or 0
    except BaseException:
      traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
  _, status = os.waitpid(child, 0)
  print(os.waitstatus_to_exitcode(status), flush=True)
"""


@contextlib.contextmanager
def answers(folder, **environment):
  """A function that returns the status and the output of the main command for some arguments.

  The command prints 'passed' once the config is checked; with SHOW set, also the config as JSON.
  """
  out = folder / 'out'
  server = subprocess.Popen(
    [sys.executable, '-W', 'ignore', '-c', _SERVER],
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
    text=True,
    cwd=ROOT,
    env=os.environ | environment | {'OUT': str(out)},
  )

  def ask(*arguments):
    server.stdin.write(json.dumps(['sweep.py', *arguments]) + '\n')
    server.stdin.flush()
    status = int(server.stdout.readline())
    return status, out.read_text('utf-8')

  yield ask
  server.stdin.close()
  server.wait(timeout=10)
  server.stdout.close()
