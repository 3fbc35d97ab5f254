"""This module converts TOML to config dataclasses and back, and checks every key and type.

A mistake raises a `UserError` with the key, the expected type, and the nearest known key.
"""

import dataclasses
import difflib
import json
import tomllib
import types
import typing
from pathlib import Path
from typing import Any, Literal

from minirft import UserError, as_user_error

ACCEPTED = {int: (int,), float: (int, float), bool: (bool,), str: (str,), Path: (str,)}
"""Type of a field -> types of TOML's values that it takes."""


def read_toml(path: Path) -> dict[str, Any]:
    """Read the table in a TOML file.  Raises `UserError` if it cannot be read or has a syntax error, with the line."""
    with as_user_error("cannot be read: {why}", OSError, UnicodeDecodeError):
        text = path.read_text(encoding="utf-8")
    with as_user_error("not valid TOML: {why}", tomllib.TOMLDecodeError):
        return tomllib.loads(text)


def from_table(kind: type, table: dict[str, Any], prefix: str = "") -> Any:
    """Convert a TOML table to a config dataclass.  Raises `UserError` for an unknown key or a wrong type.

    >>> Example = dataclasses.make_dataclass("Example", [("steps", int, 60)])
    >>> from_table(Example, {"stpes": 3}, "data.")
    Traceback (most recent call last):
    minirft.UserError: unknown key 'data.stpes'; did you mean 'data.steps'?
    """
    hints = typing.get_type_hints(kind)
    for key in table:
        if key not in hints:
            near = difflib.get_close_matches(key, hints, n=1, cutoff=0.5)
            advice = f"did you mean '{prefix}{near[0]}'?" if near else f"known: {', '.join(hints)}"
            raise UserError(f"unknown key '{prefix}{key}'; {advice}")
    return kind(**{key: _convert(value, hints[key], prefix + key) for key, value in table.items()})


def _convert(value: Any, hint: Any, key: str) -> Any:
    """Convert a value from TOML to the type `hint`."""
    if dataclasses.is_dataclass(hint) and isinstance(value, dict):
        return from_table(hint, value, key + ".")
    origin, options = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):  # only `X | None` occurs; TOML has no null
        return _convert(value, options[0], key)
    if origin is Literal and value in options and isinstance(value, str):
        return value
    if origin is tuple and isinstance(value, list):
        return tuple(_convert(item, options[0], key) for item in value)
    if origin is dict and isinstance(value, dict):
        return {name: _convert(item, options[1], f"{key}.{name}") for name, item in value.items()}
    if type(value) in ACCEPTED.get(hint, ()):
        return hint(value)
    raise UserError(f"{key} = {value!r}: expected {_in_words(hint)}")


def _in_words(hint: Any) -> str:
    """Describe a type in words.

    >>> _in_words(tuple[str, ...]), _in_words(Literal["none", "nf4"])
    ('a list of text in quotes', 'one of none, nf4')
    """
    origin, options = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return "one of " + ", ".join(options)
    if origin is tuple:
        return "a list of " + _in_words(options[0])
    plain = {int: "a whole number", float: "a number", bool: "true or false", str: "text in quotes", Path: "a path"}
    return plain.get(hint, "a table")


def to_toml(config: Any, prefix: str = "") -> str:
    """Convert the configuration to TOML with all its fields; `from_table` converts it back to an equal one.

    >>> Example = dataclasses.make_dataclass("Example", [("steps", int, 60), ("names", tuple[str, ...], ("cat",))])
    >>> print(to_toml(Example()))
    steps = 60
    names = ["cat"]
    <BLANKLINE>
    """
    lines, tables = [], []
    for item in dataclasses.fields(config):
        value = getattr(config, item.name)
        if dataclasses.is_dataclass(value):
            tables.append(f"\n[{prefix}{item.name}]\n" + to_toml(value, f"{prefix}{item.name}."))
        elif isinstance(value, dict):
            inner = ", ".join(f"{json.dumps(name)} = {number!r}" for name, number in value.items())
            lines.append(f"{item.name} = {{{inner}}}\n")
        elif value is not None:
            lines.append(f"{item.name} = {json.dumps(value, ensure_ascii=False, default=str)}\n")  # a path as text
    return "".join(lines + tables)


def differences(old: Any, new: Any, prefix: str = "") -> list[str]:
    """Return the names of the fields in which two configurations differ, such as "data.seed".

    >>> Example = dataclasses.make_dataclass("Example", [("steps", int, 60)])
    >>> differences(Example(1), Example(2))
    ['steps']
    """
    names: list[str] = []
    for item in dataclasses.fields(old):
        before, after = getattr(old, item.name), getattr(new, item.name)
        if dataclasses.is_dataclass(before):
            names += differences(before, after, f"{prefix}{item.name}.")
        elif before != after:
            names.append(prefix + item.name)
    return names
