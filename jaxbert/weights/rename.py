"""Names only: which Hugging Face tensor is which parameter of ours, one to one, as rows of data."""

from __future__ import annotations

import collections
import dataclasses
import re
from collections.abc import Iterable, Mapping
from typing import Any

from jaxbert.errors import InputError

ENCODER, HEAD = "encoder", "head"  # of our task models, whatever their family


@dataclasses.dataclass(frozen=True)
class Rename:
    """One row: the tensor `theirs` is our parameter `ours`.

    Args:
      theirs: dotted name in a Hugging Face file, `encoder.layer.{i}.output.dense.weight`. `{i}`
        stands for a layer's number, and must be in both names or in neither.
      ours: "/"-joined path in our tree, `encoder/layers/{i}/output/kernel`.
      transpose: their matrix is [out, in] and ours [in, out].
    """

    theirs: str
    ours: str
    transpose: bool = False

    def __post_init__(self) -> None:
        if not self.theirs.count("{i}") == self.ours.count("{i}") <= 1:
            raise InputError(f"{self}: {{i}} must be once in both names, or in neither")

    def turn(self, array: Any) -> Any:
        """The array in the other one's layout, [out, in] <-> [in, out]; its own inverse."""
        return array.T if self.transpose else array

    def turn_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape that `turn` gives an array of this one."""
        return shape[::-1] if self.transpose else shape

    def under(self, theirs: str, ours: str) -> Rename:
        """The same row one level down, in what they call `theirs` and we `ours`."""
        return Rename(f"{theirs}.{self.theirs}", f"{ours}/{self.ours}", self.transpose)

    def at(self, path: str) -> Rename | None:
        """The row without a placeholder for our parameter `path`, None if it is not its row."""
        found = re.fullmatch(re.escape(self.ours).replace(r"\{i\}", r"(\d+)"), path)
        if found is None:
            return None
        return Rename(self.theirs.replace("{i}", "".join(found.groups())), path, self.transpose)


def pair(rows: Iterable[Rename], leaves: Iterable[str]) -> tuple[Rename, ...]:
    """The rows for these parameters, one each, in their order, without placeholders.

    Args:
      rows: may hold rows for parameters that are not here.
      leaves: "/"-joined paths of a model's parameters.

    Raises:
      InputError: unless it is one to one; lists every parameter without a row, with several rows,
        and every tensor that two parameters claim.
    """
    rows, pairs, problems = tuple(rows), [], []
    for leaf in leaves:
        found = [row for row in (row.at(leaf) for row in rows) if row is not None]
        if len(found) != 1:
            names = ", ".join(row.theirs for row in found) or "none"
            problems.append(f"{leaf} must have one row, got {len(found)}: {names}")
        pairs += found
    claims = collections.defaultdict(list)
    for row in pairs:
        claims[row.theirs].append(row.ours)
    for theirs, ours in claims.items():
        if len(set(ours)) > 1:
            problems.append(f"{theirs} is claimed by {', '.join(ours)}")
    if problems:
        raise InputError("the renaming is not one to one:\n  " + "\n  ".join(problems))
    return tuple(pairs)


def linear(theirs: str, ours: str) -> tuple[Rename, ...]:
    """The rows of a product with a bias."""
    return (
        Rename(f"{theirs}.weight", f"{ours}/kernel", transpose=True),
        Rename(f"{theirs}.bias", f"{ours}/bias"),
    )


def norm(theirs: str, ours: str) -> tuple[Rename, ...]:
    """The rows of a LayerNorm."""
    return Rename(f"{theirs}.weight", f"{ours}/scale"), Rename(f"{theirs}.bias", f"{ours}/bias")


@dataclasses.dataclass(frozen=True)
class Head:
    """What an architecture adds to its encoder.

    Args:
      rows: of the head's parameters, without the `head/` that all of ours have.
      labelled: the beginning of the names of those that have one output for each label, along
        their first axis; "" = there are none.
      num_labels: the one number of labels that Hugging Face's class works with; None = any.
      copies: (name, original): tensors that files may hold a second time.
    """

    rows: tuple[Rename, ...] = ()
    labelled: str = ""
    num_labels: int | None = None
    copies: tuple[tuple[str, str], ...] = ()

    def of_labels(self) -> set[str]:
        """The names of those that have one output for each label."""
        if not self.labelled:
            return set()
        return {row.theirs for row in self.rows if row.theirs.startswith(self.labelled)}


@dataclasses.dataclass(frozen=True)
class Family:
    """How the tensors of one kind of model are called.

    Args:
      prefix: what their task models call the encoder, `bert.`; ours is `encoder/` in all of them.
      base: the architecture that is the encoder alone, with no prefix.
      encoder: rows of the encoder, without the prefix.
      heads: architecture -> what it adds to the encoder; has a key for every architecture.
      optional: beginnings of encoder names, without prefix, that a model or a file may lack.
      ambiguous: beginnings of head names that mean another head in another architecture.
      spellings: (regex, replacement) from older spellings of a name to today's.
      buffers: regexes of tensors that are no parameters.
    """

    prefix: str
    base: str
    encoder: tuple[Rename, ...]
    heads: Mapping[str, Head]
    optional: tuple[str, ...] = ()
    ambiguous: tuple[str, ...] = ()
    spellings: tuple[tuple[str, str], ...] = ()
    buffers: tuple[str, ...] = ()

    def rows(self, architecture: str) -> tuple[Rename, ...]:
        """All rows of a model, as its own tree and its own file have them."""
        if architecture == self.base:
            return self.encoder
        encoder = (row.under(self.prefix, ENCODER) for row in self.encoder)
        head = (
            dataclasses.replace(row, ours=f"{HEAD}/{row.ours}")
            for row in self.heads[architecture].rows
        )
        return (*encoder, *head)

    def must_have(self, full_name: str) -> bool:
        """Whether the encoder and the file must both have it: the encoder's, and not optional."""
        relative = full_name.removeprefix(f"{self.prefix}.")
        return relative != full_name and not relative.startswith(self.optional)

    def full_name(self, name: str) -> str:
        """A tensor's name in today's spelling and with the encoder's prefix."""
        for old, new in self.spellings:
            name = re.sub(old, new, name)
        roots = {row.theirs.partition(".")[0] for row in self.encoder}
        return f"{self.prefix}.{name}" if name.partition(".")[0] in roots else name

    def full_names(self, names: Iterable[str]) -> dict[str, str]:
        """{full name: name in the file}, without buffers.

        Raises:
          InputError: listing the names that mean the same tensor.
        """
        meanings = collections.defaultdict(list)
        for name in names:
            if not any(re.search(buffer, name) for buffer in self.buffers):
                meanings[self.full_name(name)].append(name)
        clashes = [" = ".join(same) for same in meanings.values() if len(same) > 1]
        if clashes:
            raise InputError("tensors that are there twice: " + "; ".join(clashes))
        return {full: same[0] for full, same in meanings.items()}
