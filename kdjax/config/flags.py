"""How the flags of config keys read their values: `--config.KEY=VALUE`."""

import ast
import contextlib
from typing import Any

import ml_collections
from absl import flags
from ml_collections import config_flags


class _Literal(flags.ArgumentParser):  # type: ignore[type-arg]
    """Reads a number or a schedule; whether it fits its key, `validate` tells."""

    def parse(self, argument: Any) -> Any:
        for read in (ast.literal_eval, float) if isinstance(argument, str) else ():
            with contextlib.suppress(ValueError, SyntaxError):
                found = read(argument.strip())
                # ml_collections would make a number of a truth value.
                return argument if isinstance(found, bool) else found
        return argument


class _Tuple(_Literal):
    """Reads a tuple, or one item of it; whether it is one, `validate` tells."""

    def parse(self, argument: Any) -> Any:
        found = super().parse(argument)
        return (found,) if isinstance(found, int | float) else found


class _Switch(flags.BooleanParser):
    """Reads true or false; that it is neither, `validate` tells."""

    def parse(self, argument: Any) -> Any:
        try:
            return super().parse(argument)
        except ValueError:
            return argument


def read_literals() -> None:
    """Lets every flag of a number take a schedule as well, and the other way round.

    By default a flag for a number takes no schedule, and one for a schedule no number;
    and what they do not take, they refuse in other words than `validate`.
    """
    for kind in (int, float, ml_collections.ConfigDict):
        config_flags.register_flag_parser_for_type(kind, _Literal())
    config_flags.register_flag_parser_for_type(tuple, _Tuple())
    config_flags.register_flag_parser_for_type(bool, _Switch())
