"""Dataclasses from plain mappings (YAML), with errors that name the key."""

from __future__ import annotations

import dataclasses
import difflib
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

from mlip_studies.errors import InputError

T = TypeVar("T")


def read_options(cls: type[T], values: Any, where: str) -> T:
    """Build a dataclass from a mapping; nested dataclasses from nested mappings.

    Args:
        cls: a dataclass.
        values: its fields by name.
        where: where the mapping stands, for messages, such as ``training.optimizer``.

    Raises:
        InputError: unknown or missing key, or a value of another type.
    """
    if isinstance(values, cls):
        return values
    if not isinstance(values, Mapping):
        raise InputError(f"{where}: expected a mapping of options, found {values!r}")
    fields = {field.name: field for field in dataclasses.fields(cls) if field.init}  # type: ignore[arg-type]
    for key in values:
        if key not in fields:
            raise InputError(f"{where}: unknown key {key!r}{did_you_mean(key, fields)}")
    for name, field in fields.items():
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if required and name not in values:
            raise InputError(f"{where}: key {name!r} is missing")
    hints = typing.get_type_hints(cls)
    return cls(**{key: _convert(value, hints[key], f"{where}.{key}") for key, value in values.items()})


def did_you_mean(name: Any, known: typing.Iterable[str]) -> str:
    """The end of a message about an unknown name."""
    close = difflib.get_close_matches(str(name), list(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; known: {', '.join(sorted(known)) or 'none'}"


def _convert(value: Any, hint: Any, where: str) -> Any:
    """``value`` as the type that an annotation asks for."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        choices = [each for each in arguments if each is not type(None)]
        for index, each in enumerate(choices):
            try:
                return _convert(value, each, where)
            except InputError:
                if index == len(choices) - 1:
                    raise
    if dataclasses.is_dataclass(hint):
        return read_options(hint, value, where)  # type: ignore[arg-type]
    if origin is tuple:
        if isinstance(value, str) or not isinstance(value, (list, tuple)):
            raise InputError(f"{where}: expected a list, found {value!r}")
        if len(arguments) == 2 and arguments[1] is Ellipsis:
            return tuple(_convert(each, arguments[0], where) for each in value)
        if len(value) != len(arguments):
            raise InputError(f"{where}: expected {len(arguments)} values, found {value!r}")
        return tuple(_convert(each, kind, where) for each, kind in zip(value, arguments, strict=True))
    if origin is dict or hint is dict:
        if not isinstance(value, Mapping):
            raise InputError(f"{where}: expected a mapping, found {value!r}")
        return dict(value)
    if hint is float and not isinstance(value, bool):
        try:
            return float(value)  # also text: YAML reads 1e-3, without a point, as text
        except (TypeError, ValueError):
            raise InputError(f"{where}: expected a number, found {value!r}") from None
    if hint is int and isinstance(value, (int, float, str)) and not isinstance(value, bool):
        try:
            number = float(value)
            if number == int(number):
                return int(number)
        except (ValueError, OverflowError):
            pass
        raise InputError(f"{where}: expected a whole number, found {value!r}")
    if not isinstance(value, hint):
        raise InputError(f"{where}: expected {hint.__name__}, found {value!r}")
    return value


def check(condition: bool, where: str, expected: str, found: Any) -> None:
    """One line about a value out of range.

    Raises:
        InputError: the condition does not hold.
    """
    if not condition:
        raise InputError(f"{where}: expected {expected}, found {found!r}")
