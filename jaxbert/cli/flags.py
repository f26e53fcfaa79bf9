"""Flags from the fields of dataclasses of settings, and settings from flags; imports no jax."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, NoReturn

from jaxbert.errors import InputError
from jaxbert.settings import Kind, fields_of, kind_of, part_of

# The headings of `--help`, in its order: those of `settings.setting(group=...)`.
GROUPS = ("model", "data", "task", "learning rates", "training", "hardware", "run")
_WIDEST = 44  # a metavar that names all choices; longer ones are named in the help


class Parser(argparse.ArgumentParser):
    """A parser whose flags stand under the headings of `GROUPS`."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._sections = {title: self.add_argument_group(title) for title in GROUPS}

    def error(self, message: str) -> NoReturn:
        """One line instead of the usage, and the end."""
        name, command = visible(message), self.prog
        print(f"jaxbert: {name}; see {command} --help", file=sys.stderr)
        raise SystemExit(InputError.status)

    def section(self, title: str) -> argparse._ArgumentGroup:
        """What to add a flag to that shall stand under this heading."""
        return self._sections[title]


def visible(text: str) -> str:
    """With what would steer a terminal, or turn the order of letters around, spelled out.

    Example:
      >>> print(visible("a\\x1b[31mred"))
      a\\x1b[31mred
    """
    return "".join(
        c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text
    )


@dataclasses.dataclass(frozen=True)
class Flag:
    """A plain field of a dataclass of settings, or of one of its parts.

    place: the path of its value, as in training.optimizer.beta2. default: MISSING = required.
    """

    place: str
    field: dataclasses.Field[Any]
    kind: Kind
    default: Any

    @property
    def name(self) -> str:
        """As in --layer-decay."""
        return self.field.metadata["flag"] or "--" + self.field.name.replace("_", "-")


def flags_of(
    cls: type[Any], prefix: str = "", defaults: Mapping[str, Any] | None = None
) -> Iterator[Flag]:
    """Every flag of a dataclass: its plain fields that have a help, and those of its parts."""
    for name, (field, hint) in fields_of(cls).items():
        if (inner := part_of(hint)) is not None:
            yield from flags_of(inner, f"{prefix}{name}.", field.metadata.get("defaults"))
        elif "help" in field.metadata and (kind := kind_of(hint)) is not None:
            yield Flag(prefix + name, field, kind, (defaults or {}).get(name, field.default))


def add_flags(
    parser: Parser,
    cls: type[Any],
    *,
    only: Collection[str] | None = None,
    without: Collection[str] = (),
) -> None:
    """Gives a parser the flags of a dataclass.

    The value of a flag goes to its place, and no default does: what is not given is not there.

    Args:
      only, without: places, of flags ("training.epochs") or of whole parts ("training.optimizer").
    """
    by_strategy = any(field.name == "strategy" for field in dataclasses.fields(cls))
    for flag in flags_of(cls):
        if only is not None and not _is_among(flag.place, only):
            continue
        if not _is_among(flag.place, without):
            _add(parser, flag, by_strategy and flag.place.startswith("training.optimizer."))


def given(cls: type[Any], args: Mapping[str, Any]) -> dict[str, Any]:
    """The settings, nested as in the dataclass, of the flags that were given.

    Args:
      args: `vars` of what the parser returned.
    """
    settings: dict[str, Any] = {}
    for flag in flags_of(cls):
        if flag.place in args:
            *folders, name = flag.place.split(".")
            inner = settings
            for folder in folders:
                inner = inner.setdefault(folder, {})
            value = args[flag.place]
            inner[name] = tuple(value) if flag.kind.repeated else value
    return settings


def _is_among(place: str, places: Collection[str]) -> bool:
    return any(place == one or place.startswith(f"{one}.") for one in places)


def _add(parser: Parser, flag: Flag, by_strategy: bool) -> None:
    about = flag.field.metadata
    options: dict[str, Any] = {"dest": flag.place, "default": argparse.SUPPRESS}
    choices = "{" + ",".join(about["choices"]) + "}"
    text = about["help"]
    if about["choices"] and len(choices) > _WIDEST:
        text += f": {', '.join(about['choices'])}"
    options["help"] = (text + _default_of(flag, by_strategy)).replace("%", "%%")
    section = parser.section(about["group"])
    if flag.kind.type is bool:
        section.add_argument(flag.name, action=argparse.BooleanOptionalAction, **options)
        return
    if flag.kind.repeated:
        options["action"] = "append"
    short = choices if about["choices"] and len(choices) <= _WIDEST else None
    options["metavar"] = about["metavar"] or short or _METAVARS[flag.kind.type]
    section.add_argument(flag.name, type=_reader(flag.kind), **options)


_METAVARS = {str: "NAME", int: "N", float: "NUMBER"}


def _reader(kind: Kind) -> Callable[[str], Any]:
    """What argparse makes a value of a word with; a number that may be left out may be "none"."""
    if not kind.optional or kind.type is str:
        return kind.type

    def read(text: str) -> Any:
        return None if text.lower() == "none" else kind.type(text)

    read.__name__ = kind.type.__name__  # in argparse's message
    return read


def _default_of(flag: Flag, by_strategy: bool) -> str:
    """The default as the help ends; nothing where there is none."""
    default = flag.default
    if default in (dataclasses.MISSING, ()) or (default is None and flag.kind.type is str):
        return ""
    shown = str(default)
    if default is None or isinstance(default, bool):
        shown = {None: "none", True: "yes", False: "no"}[default]
    return f" (default: the strategy's, else {shown})" if by_strategy else f" (default: {shown})"
