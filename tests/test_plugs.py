"""Functions by name: known ones, a user's in a file, their arguments, and the command line."""

import functools
import importlib
import json
import re
import sys

import flax.linen as nn
import pytest
from command_line import CONFIG, ROOT, answers
from ml_collections import ConfigDict

from configs import alexnet_letters
from lr_study import models, optimizers, plugs
from lr_study.config import check
from lr_study.errors import StudyError
from lr_study.plugs import BELOW_1, COUNT, POSITIVE, REQUIRED, limits, one_of
from lr_study.search import strategies

OWN = """import flax.linen as nn

SIZE = 3


class MyNet(nn.Module):
  classes: int
  depth: int
  width: float = 1
  features: tuple[int, ...] = (8, 16)
  activation: str | None = None
  kernel: object = nn.initializers.zeros

  @nn.compact
  def __call__(self, x):
    return nn.Dense(self.classes)(x.reshape(len(x), -1))


def narrow(classes, width=0.5):
  if width < 0.1:
    raise RuntimeError(f'too narrow: {width}')
  return MyNet(classes, 2, width)


def no_rate(width=1.0):
  return None


def two_rates(config, told, *, epochs=1, factor=10.0):
  best = max(config.learning_rates)
  return [] if told else [(best, epochs), (best / factor, epochs)]


def no_rates(config, told):
  return [0.1, 0.2]
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
  """The current folder, with my_plugs.py in it."""
  (tmp_path / 'my_plugs.py').write_text(OWN)
  monkeypatch.chdir(tmp_path)
  monkeypatch.setattr(sys, 'path', [*sys.path])
  return tmp_path


@limits(width=POSITIVE, dropout=BELOW_1, norm=one_of(('batch', 'group')), depth=COUNT)
def net(
  classes,
  depth: int,
  width: float = 1,
  dropout=0.0,
  norm='batch',
  bias=True,
  stages=(2, 2),
  sizes: tuple[float, ...] = (),
  rest=None,
  options=(1, 'x', None),
  activation=nn.relu,
  dtype='float32',
):
  return {name: value for name, value in locals().items() if name != 'classes'}


ORIGIN = {'weights': '', 'redraw': (), 'freeze': ()}  # what all networks have in common


def test_fields_are_the_arguments_that_a_config_can_hold():
  assert plugs.fields('model', net) == ORIGIN | {
    'depth': REQUIRED,
    'width': 1.0,
    'dropout': 0.0,
    'norm': 'batch',
    'bias': True,
    'stages': (2, 2),
    'sizes': (),
    'rest': None,
    'options': (1, 'x', None),
  }
  wide = functools.partial(net, width=2.0)
  assert plugs.fields('model', wide)['width'] == 2.0
  with pytest.raises(StudyError, match=r'model\.width is 0; it must be a number above 0'):
    plugs.checked('model', wide, {'width': 0})


def test_values_get_the_types_of_the_defaults():
  values = {'depth': 3, 'width': 2, 'dropout': 0, 'stages': [3, 4], 'sizes': (1, 2)}
  values |= {'rest': {'a': [1, None]}, 'options': ('x', 1), 'name': 'net'}
  checked = plugs.checked('model', net, ConfigDict(values))
  assert checked == ORIGIN | {
    'depth': 3,
    'width': 2.0,
    'dropout': 0.0,
    'norm': 'batch',
    'bias': True,
    'stages': (3, 4),
    'sizes': (1.0, 2.0),
    'rest': {'a': (1, None)},
    'options': ('x', 1),
  }
  assert [type(checked[name]) for name in ('width', 'dropout')] == [float, float]
  assert plugs.checked('model', net, checked) == checked


@pytest.mark.parametrize(
  ('values', 'message'),
  [
    ({}, r'model\.depth is missing; net has no default for it'),
    ({'depth': None}, r'model\.depth is missing'),
    ({'depth': 1, 'widht': 1}, r'config\.model\.widht: no such field of net; .* model\.width\?'),
    ({'depth': 1, 'dtype': 'float16'}, r'config\.model\.dtype: a config cannot set this argument'),
    ({'depth': 1, 'activation': 'gelu'}, r'config\.model\.activation: a config cannot set this'),
    ({'depth': True}, r'model\.depth is True; it must be a whole number from 1'),
    ({'depth': 1.5}, r'model\.depth is 1\.5; it must be a whole number from 1'),
    ({'depth': 1, 'width': -1}, r'model\.width is -1; it must be a number above 0'),
    ({'depth': 1, 'width': '1'}, r"model\.width is '1'; it must be a number above 0"),
    ({'depth': 1, 'dropout': float('nan')}, r'model\.dropout is nan; it must be a number from 0'),
    ({'depth': 1, 'norm': 'layer'}, "norm is 'layer'; it must be one of batch, group"),
    ({'depth': 1, 'bias': 1}, r'model\.bias is 1; it must be True or False'),
    ({'depth': 1, 'stages': (1, 0.5)}, r'stages is \(1, 0\.5\); it must be whole numbers, such as'),
    ({'depth': 1, 'stages': 2}, r'model\.stages is 2; it must be whole numbers, such as'),
    ({'depth': 1, 'sizes': ('a',)}, r'model\.sizes is .*; it must be numbers, such as'),
    ({'depth': 1, 'rest': nn.relu}, r'model\.rest is .*; it must be None, a number, a text'),
  ],
)
def test_values_that_do_not_fit(values, message):
  with pytest.raises(StudyError, match=message):
    plugs.checked('model', net, values)


@pytest.mark.parametrize(
  ('section', 'name', 'close'),
  [
    ('model', 'restnet18', 'resnet18'),
    ('optimizer', 'adamww', 'adamw'),
    ('schedule', 'cosin', 'cosine'),
    ('loss', 'cross_entrophy', 'cross_entropy'),
    ('input', 'image', 'images'),
    ('metrics', 'f_1', 'f1'),
    ('search', 'bisekt', 'bisect'),
  ],
)
def test_the_nearest_name_is_suggested(section, name, close):
  with pytest.raises(StudyError, match=rf'is {name!r}; it must be one of .*did you mean {close}\?'):
    plugs.find(section, name)


@pytest.mark.parametrize('section', plugs.MODULES)
def test_every_known_function_has_fields_that_fit_it(section):
  known = importlib.import_module(plugs.MODULES[section]).KNOWN
  for name in known:
    factory = plugs.find(section, name)
    assert factory is known[name]
    values = {n: v for n, v in plugs.fields(section, factory).items() if v is not REQUIRED}
    checked = plugs.checked(section, factory, values)
    assert checked == values, name
    json.dumps(checked, allow_nan=False)


def test_a_network_of_ones_own(own):
  found = plugs.find('model', 'my_plugs.py:MyNet')
  assert plugs.is_own(found)
  assert plugs.find('model', str(own / 'my_plugs.py:MyNet')) is found  # imported once
  assert plugs.fields('model', found) == ORIGIN | {
    'depth': REQUIRED,
    'width': 1.0,
    'features': (8, 16),
    'activation': None,
  }
  made = plugs.call('model', found, {'classes': 10, 'dtype': 'float32'}, {'depth': 2, 'width': 3.0})
  assert (made.classes, made.depth, made.width) == (10, 2, 3.0)
  config = alexnet_letters.get_config('quick')
  config.model = {'name': 'my_plugs.py:MyNet', 'depth': 2}
  assert check(config).model.features == (8, 16)


def test_files_of_one_name_are_two(own):
  (own / 'other').mkdir()
  (own / 'other' / 'my_plugs.py').write_text('def narrow(classes, height=1.0):\n  pass\n')
  first, other = (plugs.find('model', f'{f}my_plugs.py:narrow') for f in ('', 'other/'))
  assert 'width' in plugs.fields('model', first)
  assert 'height' in plugs.fields('model', other)


def test_a_file_may_import_what_lies_beside_it(own):
  (own / 'parts_beside.py').write_text('WIDTH = 7.0\n')
  (own / 'uses_parts.py').write_text(
    'from parts_beside import WIDTH\n\ndef net(classes, width=WIDTH):\n  pass\n'
  )
  found = plugs.find('model', 'uses_parts.py:net')
  assert plugs.fields('model', found) == ORIGIN | {'width': 7.0}


@pytest.mark.parametrize(
  ('name', 'message'),
  [
    ('none.py:MyNet', "model.name is 'none.py:MyNet'; there is no file none.py in "),
    ('my_plugs.py:MyNets', r'my_plugs\.py has no MyNets; did you mean MyNet\?'),
    ('my_plugs.py:', r'my_plugs\.py has no $'),
    ('my_plugs.py:SIZE', r'SIZE is 3, not a function or class'),
    ('my_plugs.py', r"model\.name is 'my_plugs\.py'; it must be .* or file\.py:Name"),
    ('a\0b.py:MyNet', 'there is no file'),
    ('x' * 300 + '.py:MyNet', 'there is no file'),
    ('~nobody_of_this_name/x.py:MyNet', 'there is no file'),
    ('..py:MyNet', 'there is no file'),
  ],
)
def test_names_that_lead_nowhere(own, name, message):
  with pytest.raises(StudyError, match=message) as caught:
    plugs.find('model', name)
  assert '\n' not in str(caught.value)


@pytest.mark.parametrize(
  ('text', 'message'),
  [
    ('x = 1\ndef net(:\n', r'model\.name: broken\.py:2 cannot be imported: SyntaxError: '),
    (
      'import no_such_module_here\n',
      r'broken\.py:1 cannot .* ModuleNotFoundError: No module named',
    ),
    ('def f():\n  return {}["a"]\n\nf()\n', r"broken\.py:2 cannot be imported: KeyError: 'a'"),
    ('raise SystemExit(3)\n', r'broken\.py:1 cannot be imported: SystemExit: 3'),
    ('raise ValueError\n', r'broken\.py:1 cannot be imported: ValueError$'),
    ('a = "\0"\n', r'broken\.py.* cannot be imported: '),
  ],
)
def test_files_that_cannot_be_imported(own, text, message):
  (own / 'broken.py').write_text(text)
  with pytest.raises(StudyError, match=message) as caught:
    plugs.find('model', 'broken.py:net')
  assert '\n' not in str(caught.value)
  (own / 'broken.py').write_text('# mended\ndef net(classes):\n  pass\n')
  assert callable(plugs.find('model', 'broken.py:net'))


def test_errors_of_ones_own_function_name_its_line(own):
  narrow = plugs.find('model', 'my_plugs.py:narrow')
  line = 1 + OWN.splitlines().index("    raise RuntimeError(f'too narrow: {width}')")
  message = rf'^my_plugs\.py:{line}: in narrow, a model: RuntimeError: too narrow: 0\.05$'
  with pytest.raises(StudyError, match=message):
    plugs.call('model', narrow, {'classes': 10}, {'width': 0.05})
  first = 1 + OWN.splitlines().index('def narrow(classes, width=0.5):')
  with pytest.raises(
    StudyError, match=rf'^my_plugs\.py:{first}: in narrow, a model: TypeError: .*'
  ):
    plugs.call('model', narrow, {'classes': 10}, {'width': '1'} | {'wide': 1})
  message = (
    r"^no_rate \(my_plugs\.py:\d+\) takes no argument 'learning_rate'; every optimizer must take "
    'it$'
  )
  with pytest.raises(StudyError, match=message):
    plugs.call('optimizer', plugs.find('optimizer', 'my_plugs.py:no_rate'), {}, {})


def test_errors_of_known_functions_name_the_field():
  def refuses(classes, heights=()):
    raise ValueError('heights has 2 entries')

  with pytest.raises(StudyError, match=r'^model\.heights has 2 entries$'):
    plugs.call('model', refuses, {'classes': 1}, {})

  def fails(classes):
    raise RuntimeError('a mistake of ours')

  with pytest.raises(RuntimeError, match='a mistake of ours'):
    plugs.call('model', fails, {'classes': 1}, {})


def test_what_a_function_does_not_take_is_not_passed():
  def two(classes, width=1.0):
    return classes, width

  assert plugs.call('model', two, {'classes': 3, 'dtype': 'float32'}, {'width': 2.0}) == (3, 2.0)

  def any_of_them(classes, **rest):
    return rest

  values = plugs.checked('model', any_of_them, {'depth': 2, 'name': 'own'})
  assert plugs.call('model', any_of_them, {'classes': 3, 'dtype': 'x'}, values) == {
    'dtype': 'x',
    'depth': 2,
  }


def test_fields_of_all_of_a_kind():
  adam = plugs.find('optimizer', 'adam')
  fields = plugs.fields('optimizer', adam)
  assert set(plugs.common('optimizer')) < set(fields)
  assert not set(plugs.common('optimizer')) & set(optimizers.SUPPLIED)
  with pytest.raises(StudyError, match=r'optimizer\.clip_norm is -1; it must be a number from 0'):
    plugs.checked('optimizer', adam, {'clip_norm': -1})


def test_a_search_of_ones_own(own):
  config = alexnet_letters.get_config('quick')
  config.search = {'name': 'my_plugs.py:two_rates', 'factor': 4}
  config = check(config)
  assert [ask[:2] for ask in strategies.ask(config, [])] == [(0.1, 1), (0.025, 1)]
  told = [strategies.Told(0.1, 1, False, True, 0.5, False)]
  assert strategies.ask(config, told) == []
  with config.unlocked():
    config.search = {'name': 'my_plugs.py:no_rates'}
  with pytest.raises(
    StudyError, match=r'no_rates \(my_plugs\.py:\d+\) gave \[0\.1, 0\.2\]; .* list'
  ):
    strategies.ask(config, [])


def test_models_are_named_for_people():
  assert plugs.title('model', models.KNOWN['resnet18']) == 'resnet18'


@pytest.fixture(scope='module')
def answer(tmp_path_factory):
  """A function: the checked config that a command line gives, and what is said."""
  with answers(tmp_path_factory.mktemp('command'), SHOW='1') as ask:

    def answer(*arguments):
      status, text = ask(f'--config={CONFIG}', *arguments)
      *notes, shown, passed = ['', *text.splitlines()] if status else text.splitlines()
      assert status or passed == 'passed'
      return (None, passed) if status else (json.loads(shown), '\n'.join(notes))

    yield answer


def test_another_network_on_the_command_line(answer):
  config, said = answer('--config.model.name=resnet18')
  assert said == 'model.name is resnet18: dropout=0.0, width=0.25 of digits_tensorflow are dropped'
  fields = plugs.fields('model', models.KNOWN['resnet18']) | {'name': 'resnet18'}
  assert config['model'] == json.loads(json.dumps(fields))  # lists, where there were tuples
  config, said = answer('--config.model.norm=group', '--config.model', 'resnet18')
  assert said == 'model.name is resnet18: dropout=0.0, width=0.25 of digits_tensorflow are dropped'
  assert config['model']['norm'] == 'group'
  config, said = answer('--config.model=resnet18', '--config.model.width=0.5')
  assert said == 'model.name is resnet18: dropout=0.0 of digits_tensorflow is dropped'
  assert config['model']['width'] == 0.5
  assert answer('--config.model.name=digits_tensorflow')[1] == ''


def test_every_section_swaps_on_the_command_line(answer):
  config, said = answer(
    '--config.optimizer=adamw',
    '--config.optimizer.b1=0.8',
    '--config.optimizer.nesterov',
    '--config.optimizer.mu_dtype=bfloat16',
    '--config.schedule=one_cycle',
    '--config.schedule.rise_share=1',
    '--config.loss.name=focal',
    '--config.loss.gamma=3',
    '--config.data=image_folder',
    '--config.data.dir=photos',
    '--config.data.classes=ant,bee',
    '--config.search=bisect',
    '--config.search.epochs=2',
  )
  assert said.splitlines() == [
    'optimizer.name is adamw: momentum=0.0, weight_decay=0.0 of sgd are dropped',
    'schedule.name is one_cycle: every_epochs=1.0, factor=0.1 of step_decay are dropped',
  ]
  optimizer = config['optimizer']
  assert (optimizer['b1'], optimizer['nesterov'], optimizer['mu_dtype']) == (0.8, True, 'bfloat16')
  assert config['schedule']['rise_share'] == 1.0
  assert config['loss']['gamma'] == 3.0
  data = config['data']
  assert (data['dir'], data['classes'], data['per_class']) == (
    str(ROOT / 'photos'),
    ['ant', 'bee'],
    500,
  )
  assert config['search'] == {'name': 'bisect', 'epochs': 2, 'factor': 1.25}


def test_ones_own_on_the_command_line(answer, own):
  name = f'{own}/my_plugs.py:MyNet'
  config, said = answer(
    f'--config.model={name}', '--config.model.depth=3', '--config.model.width=2'
  )
  assert said == f'model.name is {name}: dropout=0.0 of digits_tensorflow is dropped'
  assert (config['model']['depth'], config['model']['width']) == (3, 2.0)
  _, said = answer(f'--config.model={name}')
  assert said.startswith('error: model.depth is missing; MyNet (')
  _, said = answer(f'--config.model={name}', '--config.model.depht=3')
  assert said == f'error: config.model.depht: no such field of {name}; did you mean model.depth?'


def test_names_between_commas_need_no_quotes(answer, own):
  names = [f'{own}/my_plugs.py:narrow', 'top5']
  config, _ = answer(f'--config.metrics={",".join(names)}', '--config.data.classes=01,a b')
  assert config['metrics'] == names
  assert config['data']['classes'] == ['01', 'a b']


def test_further_schedules_and_axes_on_the_command_line(answer):
  config, _ = answer(
    '--axis=schedule.name=step_decay,piecewise', '--config.schedule.heights=(0.5, 0.25)'
  )
  assert config['schedule']['heights'] == [0.5, 0.25]
  config, _ = answer('--axis=optimizer.momentum=0,0.9', '--axis=schedule.warmup_steps=0,100')
  assert config['axes'] == {'optimizer.momentum': [0.0, 0.9], 'schedule.warmup_steps': [0, 100]}
  config, _ = answer('--config.model=mlp', '--axis=model.hidden=(8,),(16, 4)')
  assert config['axes'] == {'model.hidden': [[8], [16, 4]]}


@pytest.mark.parametrize(
  ('flags', 'said'),
  [
    (['--config.model=resnet81'], r'model\.name is .*; did you mean resnet18\?'),
    (['--config.model=resnet18', '--config.model.dropout=0'], 'dropout: no such field of resnet18'),
    (
      ['--config.model.widht=1'],
      r'no such field of digits_tensorflow; did you mean model\.width\?',
    ),
    (
      ['--config.modle.name=mlp'],
      r'config\.modle\.name: no such field; did you mean model\.name\?',
    ),
    (
      ['--config.optimizer=sgd', '--config.optimizer.b1=0.5'],
      r'optimizer\.b1: no such field of sgd',
    ),
    (
      ['--config.search=bisect', '--config.search.keep=2'],
      r'search\.keep: no such field of bisect',
    ),
    (['--config.search=grid', '--config.search.name=grid'], 'config.search.name is given twice'),
    (['--config.model.width=-1'], r'model\.width is -1\.0; it must be a number above 0'),
    (['--config.model.width=wide'], '--config.model.width=wide: it must be a number'),
    (['--axis=optimizer.momentm=0,1'], r'axes has .*; did you mean optimizer\.momentum\?'),
    (['--axis=optimizer.momentum'], '--axis optimizer.momentum: give NAME=V1,V2,'),
    (['--axis=optimizer.momentum=0', '--axis=optimizer.momentum=1'], 'momentum is given twice'),
  ],
)
def test_command_lines_that_are_refused(answer, flags, said):
  config, line = answer(*flags)
  assert config is None
  assert line.startswith('error: ')
  assert re.search(said, line), line
