"""Parsers of flags: literals, paths, places that moved, tuples."""

import ast
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections.config_flags import tuple_parser

from lr_study import paths


class LiteralParser(flags.ArgumentParser):
  """Parses an override of a field that is None: a number or a tuple, else a text."""

  def parse(self, argument: str) -> Any:
    try:
      return ast.literal_eval(argument)
    except (SyntaxError, ValueError, MemoryError, RecursionError):
      return argument


class PathParser(flags.ArgumentParser):
  """A path, with `~` as the user's home: no shell sees to that in `--workdir=~/x`."""

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
  """OLD=NEW: two places."""

  syntactic_help = 'two places, OLD=NEW'

  def flag_type(self) -> str:
    return 'OLD=NEW'

  def parse(self, argument: str) -> tuple[str, str]:
    old, sign, new = argument.partition('=')
    if not (old and sign and new):
      raise ValueError('give OLD=NEW, the place that is on record and where its content is now')
    return paths.absolute(old), paths.absolute(new)


class TupleParser(tuple_parser.TupleParser):
  """Parses an override of a tuple: numbers, or names between commas that need no quotes."""

  def parse(self, argument: Any) -> tuple[Any, ...]:
    try:
      values = super().parse(argument)
    except ValueError:  # names that are no words, as `my_metrics.py:margin,top5`
      values = (argument,)
    return tuple(argument.split(',')) if values == (argument,) else values


class AxisParser(flags.ArgumentParser):
  """NAME=V1,V2,... as it is; `lr_study.cli` reads it."""

  def flag_type(self) -> str:
    return 'NAME=V1,V2,...'
