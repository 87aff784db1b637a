"""Parsers of flags: literals, paths, moved locations, tuples."""

import ast
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections.config_flags import tuple_parser

from lr_study import paths


class LiteralParser(flags.ArgumentParser):
  """Parses an override of a field that is None: a number, a tuple or a text."""

  def parse(self, argument: str) -> Any:
    try:
      return ast.literal_eval(argument)
    except (SyntaxError, ValueError, MemoryError, RecursionError):
      return argument


class PathParser(flags.ArgumentParser):
  """A path. Expands `~`, which a shell does not do in `--workdir=~/x`."""

  syntactic_help = 'a path'

  def flag_type(self) -> str:
    return 'PATH'

  def parse(self, argument: str | Path) -> Path:
    if not argument:
      raise ValueError('it is empty')
    try:
      return Path(argument).expanduser()
    except RuntimeError as error:
      raise ValueError(str(error)) from error


class MovedParser(flags.ArgumentParser):
  """OLD=NEW: two paths."""

  syntactic_help = 'two paths, OLD=NEW'

  def flag_type(self) -> str:
    return 'OLD=NEW'

  def parse(self, argument: str) -> tuple[str, str]:
    old, sign, new = argument.partition('=')
    if not (old and sign and new):
      raise ValueError('give OLD=NEW, the recorded path and the one with its content now')
    return paths.absolute(old), paths.absolute(new)


class TupleParser(tuple_parser.TupleParser):
  """Parses an override of a tuple: numbers, or names separated by commas, without quotes."""

  def parse(self, argument: Any) -> tuple[Any, ...]:
    try:
      values = super().parse(argument)
    except ValueError:  # names with other characters, such as `my_metrics.py:margin,top5`
      values = (argument,)
    return tuple(argument.split(',')) if values == (argument,) else values


class AxisParser(flags.ArgumentParser):
  """NAME=V1,V2,... unchanged; `lr_study.cli` parses it."""

  def flag_type(self) -> str:
    return 'NAME=V1,V2,...'
