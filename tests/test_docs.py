"""README.md and the pages of docs/: each command and each example in them works."""

import functools
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import commands
import pytest
from ml_collections import ConfigDict

import lr_study
from configs import alexnet_letters
from lr_study.config import SECTIONS, check

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / 'README.md', ROOT / 'CONTRIBUTING.md', *sorted((ROOT / 'docs').glob('*.md'))]
LINK = re.compile(r'(?:\]\(|srcset="|src="|{download}`[^`]+<)([^)"#>\s]+)')

# Here every command is parsed, and its config checked, by what parses it for users. Where each
# script, and each config of a sweep, is also run:
RUN_BY = {
  'benchmark.py': 'test_benchmark.py',
  'classify.py': 'test_classify.py',
  'diagnose.py': 'test_diagnose.py',
  'export.py': 'test_export.py',
  'gpu_check.py': 'test_gpu_check.py',
  'kill.py': 'test_faults.py',
  'range_test.py': 'test_paths.py',
  'report.py': 'test_page.py',
  'reproduce.py': 'test_studies.py',
  'show_data.py': 'test_commands.py',
  'configs/alexnet_letters.py': 'conftest.py',  # shrunk, as all tests do
  'configs/alexnet_folder.py': 'test_checks.py',
  'configs/finetune_letters.py': 'test_weights.py',
  'configs/letters_to_photos.py': 'test_weights.py',
  'examples/resnet_folder.py': 'test_examples.py',
  'examples/weight_decay.py': 'test_examples.py',
  'my_data.py': 'test_docs.py',
}
# What no test runs as it stands, and why.
NOT_RUN = {
  'kill_cluster.py': 'takes minutes and needs Ray; test_cluster.py has what it runs',
  'calibrate.py': 'trains 40 studies; test_calibration.py has the function it calls, on two',
  'optuna_store.py': 'Optuna is not among the requirements; test_search.py has the function',
  'my_config.py': 'configs/alexnet_letters.py with two fields changed',
  'configs/alexnet_letters_caffe.py': 'days at full size; test_torch.py has its network and solver',
}
OTHER = (
  r'(?:\.venv/bin/)?'
  r'(?:python3? -m (?:venv|pytest)|pip install|sphinx-build|tensorboard|for k in 0 1)'
)


def fenced(page, language):
  """The blocks of a page in this language."""
  return re.findall(rf'^```{language}\n(.*?)^```', page.read_text('utf-8'), re.M | re.S)


def commands_of(page):
  """Its commands as lists of words, one for each; a shell's variables are numbers."""
  for block in fenced(page, 'bash'):
    for line in re.sub(r'\\\n\s*', '', re.sub(r'\$\w+/?', '1', block)).splitlines():
      for command in re.split(r'&& ', line):
        words = shlex.split(command, comments=True)
        if words and words[0] not in ('done;', 'wait'):
          yield [word for word in words if word != '&']


def script_of(words):
  """The name of the script that a command runs, and its arguments; None if it runs none."""
  places = [i for i, word in enumerate(words) if re.fullmatch(r'scripts/\w+\.py', word)]
  return (Path(words[places[0]]).name, words[places[0] + 1 :]) if places else None


def subject(script, arguments):
  """What of `RUN_BY` or `NOT_RUN` a command belongs to."""
  if script != 'sweep.py':
    return script
  return arguments[arguments.index('--config') + 1].partition(':')[0]


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  """A current folder with the project's own and every file that a page says to save."""
  folder = tmp_path_factory.mktemp('reader')
  for name in ('configs', 'examples', 'scripts'):
    (folder / name).symlink_to(ROOT / name)
  for page in PAGES:
    for block in fenced(page, 'python'):
      if name := re.match(r'# (my_\w+\.py)\n', block):
        (folder / name[1]).write_text(block)
  return folder


def test_every_command_is_parsed(folder):
  """Its flags, the fields of its config and the files that it names are there."""
  found = set()
  for page in PAGES:
    started = []
    for words in commands_of(page):
      ran = script_of(words)
      if ran is None:
        assert re.match(OTHER, ' '.join(words)), (page.name, words)
        for i, word in enumerate(words[:-1]):
          assert word != '-r' or (ROOT / words[i + 1]).is_file(), (page.name, words)
        continue
      script, arguments = ran
      found.add(subject(script, arguments))
      command = commands.Command(script, *arguments, folder=folder, parses=True)
      started.append((words, command))
    for words, command in started:
      done = command.wait()
      assert not done.returncode, (page.name, words, done.stderr)
  assert found == RUN_BY.keys() | NOT_RUN.keys()


def test_what_runs_each_script_is_there():
  for what, test in RUN_BY.items():
    name = 'digits' if what == 'my_data.py' else what.rpartition('/')[2]
    text = (ROOT / 'tests' / test).read_text()
    assert name in text or Path(name).stem in text, (what, test)


@pytest.mark.parametrize('page', [p for p in PAGES if fenced(p, 'python')], ids=lambda p: p.stem)
def test_the_examples_of_a_page_run(page, folder, monkeypatch, capsys):
  """In their order, as one program; each study with fewer epochs and seeds."""
  monkeypatch.chdir(folder)
  monkeypatch.syspath_prepend(folder)
  few = functools.partial(
    lr_study.sweep, epochs=1, seeds=1, accelerate='off', parallel='vmap', progress=False
  )
  monkeypatch.setattr(lr_study, 'sweep', lambda *a, **of: few(*a, **{**of, **few.keywords}))
  names = {}
  for block in fenced(page, 'python'):
    if not block.startswith('# my_'):
      exec(block, names)
  for name in [name for name in sys.modules if name.startswith('my_')]:
    monkeypatch.delitem(sys.modules, name)
  if 'study' in names:
    assert len(names['study'].trials) >= 3
    assert names['study'].verdict.sentence


def test_the_readme_is_short():
  lines = (ROOT / 'README.md').read_text('utf-8').splitlines()
  assert len(lines) <= 150


def test_the_answer_shown_is_that_of_the_committed_study():
  verdict = json.loads((ROOT / 'docs/quick/results.json').read_text('utf-8'))['verdict']
  for page in (ROOT / 'README.md', ROOT / 'docs/answer.md'):
    text = page.read_text('utf-8')
    assert verdict['sentence'] in text
    for rate, interval in verdict['intervals'].items():
      if interval:
        low, high = (f'{100 * end:.1f}' for end in interval)
        assert re.search(rf'{rate}\b.*\| {low} to {high} %', text), (page.name, rate)


def test_the_defaults_shown_are_those_of_the_configs():
  text = (ROOT / 'docs/your_network.md').read_text('utf-8').partition('## Defaults')[2]
  rows = re.findall(r'^\| `(\w+)` \| (.*?) \| (.*?) \|$', text, re.M)
  assert len(rows) == 5
  line = check(ConfigDict({'learning_rates': (0.1,)}))
  for name, *shown in rows:
    for config, value in zip((line, alexnet_letters.get_config('quick')), shown, strict=True):
      held = config[name].name if name in SECTIONS else config[name]
      held = ', '.join(map(str, held)) if isinstance(held, tuple) else str(held)
      assert held == value.strip('`'), name


def test_links_lead_somewhere():
  """In a checkout; Sphinx checks those between pages once more."""
  for page in PAGES:
    for target in LINK.findall(page.read_text('utf-8')):
      assert '://' in target or _is_committed(page.parent / target), (page.name, target)


def _is_committed(path):
  """True if it exists, and Git has it: not if Sphinx made it."""
  listed = subprocess.run(
    ['git', 'check-ignore', '-q', path], cwd=ROOT, check=False, capture_output=True
  )
  return path.exists() and listed.returncode != 0
