"""Dataclasses from plain mappings (YAML), with errors that name the key."""

from __future__ import annotations

import dataclasses
import difflib
import types
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import yaml

from mlip_studies.artifacts import PathLike
from mlip_studies.errors import InputError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T")
D = TypeVar("D", bound="DataclassInstance")


def read_options(cls: type[D], values: Any, where: str) -> D:
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
    fields = {field.name: field for field in dataclasses.fields(cls) if field.init}
    for key in values:
        if key not in fields:
            raise InputError(f"{where}: unknown key {key!r}{did_you_mean(key, fields)}")
    for name, field in fields.items():
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if required and name not in values:
            raise InputError(f"{where}: key {name!r} is missing")
    hints = typing.get_type_hints(cls)
    return cls(**{key: _convert(value, hints[key], f"{where}.{key}") for key, value in values.items()})


def read_options_file(build: Callable[[Any], T], path: PathLike) -> T:
    """Build options from a YAML file.

    Args:
        build: makes the options from the file's content, such as ``MDConfig.from_dict``.
        path: the file.

    Raises:
        InputError: no such file, not YAML, or what ``build`` raises, with the file's name before it.
    """
    path = Path(path)
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: cannot read ({error.strerror}); name the run's YAML file") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not valid YAML ({' '.join(str(error).split())})") from error
    try:
        return build(values)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


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
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return read_options(hint, value, where)
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
