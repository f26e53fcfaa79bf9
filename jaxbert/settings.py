"""Settings: dataclasses whose fields carry their help, made from mappings; imports no jax.

A field says once what it is called, what it defaults to and what it means: the command line makes
its flags of that (`cli.flags`), TOML and JSON files name the same fields.
"""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

from jaxbert.errors import InputError

T = TypeVar("T")


def setting(
    help: str,
    *,
    default: Any = dataclasses.MISSING,
    default_factory: Any = dataclasses.MISSING,
    group: str = "run",
    choices: Sequence[str] = (),
    metavar: str | None = None,
    flag: str | None = None,
    aliases: Sequence[str] = (),
) -> Any:
    """A field of a dataclass of settings.

    Args:
      help: what `--help` says of it; the default is added there.
      group: under which heading, see `cli.flags.GROUPS`.
      choices: the names that it may have.
      metavar: what its value is called.
      flag: the flag's name, where it is not the field's.
      aliases: what it was called in files of earlier versions.
    """
    about = {"help": help, "group": group, "choices": tuple(choices), "metavar": metavar}
    about |= {"flag": flag, "aliases": tuple(aliases)}
    if default_factory is not dataclasses.MISSING:
        return dataclasses.field(default_factory=default_factory, metadata=about)
    return dataclasses.field(default=default, metadata=about)


def part(cls: type[Any], **defaults: Any) -> Any:
    """A field that holds another dataclass of settings.

    Args:
      defaults: of some of its fields, where they differ here.
    """
    return dataclasses.field(
        default_factory=lambda: cls(**defaults), metadata={"defaults": defaults}
    )


class Kind(NamedTuple):
    """What a plain value may be: of which type, or None, or any number of them."""

    type: type[Any]
    optional: bool = False
    repeated: bool = False


def kind_of(hint: Any) -> Kind | None:
    """Of a field's type; None for what is no plain value, and has no flag."""
    plain = (bool, int, float, str)
    if hint in plain:
        return Kind(hint)
    if typing.get_origin(hint) is tuple and typing.get_args(hint)[0] in plain:
        return Kind(typing.get_args(hint)[0], repeated=True)
    if isinstance(hint, types.UnionType):
        found = [alternative for alternative in typing.get_args(hint) if alternative in plain]
        return Kind(found[0], type(None) in typing.get_args(hint)) if found else None
    return None


def part_of(hint: Any) -> type[Any] | None:
    """The dataclass that a field's type is, if it is one."""
    return hint if isinstance(hint, type) and dataclasses.is_dataclass(hint) else None


def fields_of(cls: type[Any]) -> dict[str, tuple[dataclasses.Field[Any], Any]]:
    """{name: (field, its type)}."""
    hints = typing.get_type_hints(cls)
    return {field.name: (field, hints[field.name]) for field in dataclasses.fields(cls)}


def build(cls: type[T], given: Mapping[str, Any], where: str) -> T:
    """The dataclass from settings by name, with its parts from settings by name in them.

    Args:
      where: what the settings are called in an error.

    Raises:
      InputError: unknown names, all of them; a value where settings by name are wanted; what the
        dataclass itself refuses.
    """
    fields = fields_of(cls)
    given = modern(cls, given)
    check_keys(where, given, list(fields))
    values = dict(given)
    for name, (field, hint) in fields.items():
        inner = part_of(hint)
        if inner is None or name not in given:
            continue
        if isinstance(given[name], Mapping):
            values[name] = build(inner, {**field.metadata.get("defaults", {}), **given[name]}, name)
        elif not isinstance(given[name], inner):
            raise not_settings(name, given[name])
    return cls(**values)


def not_settings(place: str, value: Any) -> InputError:
    """What to raise where a plain value stands in the place of settings by name."""
    return InputError(
        f"{place}={value!r}: {place} is no single value, it holds settings by name (in TOML: a "
        f"table, [{place}])"
    )


def modern(cls: type[Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """The settings under today's names, also in the parts.

    Raises:
      InputError: one is given under both names.
    """
    renamed = dict(given)
    for name, (field, hint) in fields_of(cls).items():
        for alias in field.metadata.get("aliases", ()):
            if alias in renamed and name in renamed:
                raise InputError(f"{alias} is now {name}, and both are given: leave {alias} out")
            if alias in renamed:
                renamed[name] = renamed.pop(alias)
        inner = part_of(hint)
        if inner is not None and isinstance(renamed.get(name), Mapping):
            renamed[name] = modern(inner, renamed[name])
    return renamed


def check_keys(what: str, given: Iterable[str], known: Sequence[str]) -> None:
    """Raises InputError naming every unknown key and all the known ones."""
    unknown = sorted(set(given) - set(known))
    if unknown:
        raise InputError(f"{what}: unknown {', '.join(unknown)}; known are {', '.join(known)}")


def check_kinds(instance: Any) -> None:
    """Raises InputError naming every plain value of a dataclass that is not of its field's type."""
    wanted = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}
    problems = []
    for name, (_, hint) in fields_of(type(instance)).items():
        kind, value = kind_of(hint), getattr(instance, name)
        if kind is None or (value is None and kind.optional):
            continue
        values = value if kind.repeated and isinstance(value, tuple) else (value,)
        if not all(_is(kind.type, item) for item in values):
            problems.append(f"{name}={value!r} must be {wanted[kind.type]}")
    if problems:
        raise InputError("; ".join(problems))


def _is(kind: Any, value: Any) -> bool:
    if kind is float:
        return is_number(value)
    return isinstance(value, kind) and (kind is bool or not isinstance(value, bool))


def check_choices(instance: Any) -> None:
    """Raises InputError naming every value of a dataclass that is not among its field's choices."""
    problems = [
        f"{field.name}={value!r} must be one of {', '.join(choices)}"
        for field in dataclasses.fields(instance)
        if (choices := field.metadata.get("choices"))
        and (value := getattr(instance, field.name)) not in (*choices, field.default)
    ]
    if problems:
        raise InputError("; ".join(problems))


def is_number(value: Any) -> bool:
    """Whether it is a finite int or float (a bool is neither)."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # of a whole number that no float is as large as
        return False


def is_count(value: Any, least: int = 1) -> bool:
    """Whether it is a whole number, not under the least (a bool is none)."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= least
