"""Files, hub ids and Python objects as named columns; knows formats, not what a column means.

A table is a mapping from column name to values. Whatever cannot be read without guessing is an
error of one line that names the place, what was found there and what to do.
"""

from __future__ import annotations

import csv
import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jaxbert.data.conll import read_conll
from jaxbert.data.lines import read_lines, read_text
from jaxbert.data.squad import is_squad, squad_columns
from jaxbert.errors import InputError

Columns = Mapping[str, Any]
# What to say where a header looks like none.
NO_HEADER = (
    "; if its first line is no header, --no-header (header=False) calls its columns 1, 2, ..."
)


class Table(NamedTuple):
    """Columns by name, and what to call them all in a message.

    Example:
      >>> Table({"text": ["good"]}, "films.csv").name
      'films.csv'
    """

    columns: Columns
    name: str


class Headed(dict[str, Any]):
    """Columns that a file's first line names."""


def read_table(source: Any, split: str | None = None, *, header: bool = True) -> Table:
    """The columns of `source`.

    Args:
      source: path of a .csv, .tsv, .jsonl, .json, .parquet, .txt (of which each line is a text, in
        the column "text") or .conll file (columns "tokens" and "tags", a row a sentence); a hub id
        ("owner/name", or "owner/name:config"), of which no code is run; dicts; a dict of columns; a
        `pandas.DataFrame`; a `datasets.Dataset` or `datasets.DatasetDict`.
      split: which split of a hub data set or a `DatasetDict`; not for others.
      header: whether the first line of a .csv or .tsv file names its columns; without it they are
        called 1, 2, ...

    Raises:
      InputError: content that cannot be read; FileNotFoundError: no such file; ConnectionError: the
        hub did not answer.
    """
    if isinstance(source, Path) or (isinstance(source, str) and _is_file(source)):
        if split is not None:
            raise InputError(f"split={split!r} is for hub data sets; {source} is a file: leave out")
        return Table(_read_file(Path(source).expanduser(), header), str(source))
    if not header:
        raise _no_lines(source if isinstance(source, str) else "the source")
    if isinstance(source, str):
        return _read_hub(source, split)
    if isinstance(source, Mapping) and source and all(map(_is_dataset, source.values())):
        split, source = _choose_split(source, split, "data set")
        return Table(_dataset_columns(source), f"data set[{split}]")
    if split is not None:
        raise InputError(f"split={split!r}: the source has no splits; leave split out")
    return _from_memory(source)


def _from_memory(source: Any) -> Table:
    if _is_dataset(source):
        return Table(_dataset_columns(source), "data set")
    if isinstance(source, Mapping):
        return Table(source, "dict of columns")
    if hasattr(source, "iloc") and hasattr(source, "columns"):  # of pandas, which is not imported
        return Table(_frame_columns(source), "data frame")
    if isinstance(source, Iterable) and not isinstance(source, bytes):
        return Table(_records_to_columns(enumerate(source, 1), "records, item"), "records")
    raise InputError(
        f"source: got {type(source).__name__}, want a path, a hub id, dicts, a dict of columns, a "
        "pandas.DataFrame, a datasets.Dataset or a datasets.DatasetDict"
    )


def _is_dataset(source: Any) -> bool:
    return hasattr(source, "features") and hasattr(source, "column_names")


def _choose_split(data: Mapping[str, Any], split: str | None, name: str) -> tuple[str, Any]:
    """(the split, its data) of several."""
    if split is None and len(data) == 1:
        (split,) = data
    if split is None:
        raise InputError(f"{name} has the splits {', '.join(data)}: name one with split")
    if split not in data:
        raise InputError(f"{name} has no {split=}, it has {', '.join(data)}: name one of them")
    return split, data[split]


def _frame_columns(frame: Any) -> Columns:
    names = [str(name) for name in frame.columns]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InputError(f"data frame: it has {', '.join(map(repr, twice))} twice: rename one")
    return {name: frame.iloc[:, place] for place, name in enumerate(names)}


def some(items: Iterable[str], limit: int = 5) -> str:
    """The first few items, and how many more there are."""
    items = list(items)
    more = f" and {len(items) - limit} more" if len(items) > limit else ""
    return ", ".join(items[:limit]) + more


def _is_file(source: str) -> bool:
    path = Path(source)
    looks_like_path = path.is_absolute() or source.startswith((".", "~"))
    return path.exists() or looks_like_path or path.suffix.lower() in _READERS


def _no_lines(name: Any) -> InputError:
    return InputError(f"header=False is for .csv and .tsv files: {name} has names of its own")


def _read_file(path: Path, header: bool) -> Columns:
    known = ", ".join(_READERS)
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file; want a {known} file or a hub id")
    if path.is_dir():
        raise InputError(f"{path} is a directory; give one of the files in it ({known})")
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise InputError(f"{path}: unknown extension {path.suffix!r}; want one of {known}")
    if path.stat().st_size == 0:
        raise InputError(f"{path} is empty: there must be at least one example")
    if header:
        return reader(path)
    if path.suffix.lower() not in (".csv", ".tsv"):
        raise _no_lines(path)
    return _read_csv(path, header=False) if reader is _read_csv else _read_tsv(path, header=False)


def _read_hub(source: str, split: str | None) -> Table:
    import datasets

    name, _, config = source.partition(":")
    try:
        data = datasets.load_dataset(name, config or None, split=split)
    except Exception as error:  # the library raises a dozen kinds; each becomes one line of ours
        kind = ConnectionError if isinstance(error, ConnectionError) else InputError
        raise kind(
            f"{source}: no such file, and as a hub data set it cannot be loaded: "
            f"{_first_line(error)}; check the name, the split and the network"
        ) from error
    if isinstance(data, Mapping):
        split, data = _choose_split(data, split, source)
    return Table(_dataset_columns(data), f"{source}[{split}]")


def _dataset_columns(data: Any) -> Columns:
    """Columns of a `datasets.Dataset`; class numbers become class names, -1 (unlabelled) None.

    So do those in lists.
    """
    columns = {column: data[column] for column in data.column_names}
    for column, feature in data.features.items():
        values = columns[column]
        if (classes := getattr(feature, "names", None)) is not None:
            columns[column] = [_class_name(value, classes) for value in values]
        elif (classes := getattr(getattr(feature, "feature", None), "names", None)) is not None:
            columns[column] = [
                None if row is None else [_class_name(value, classes) for value in row]
                for row in values
            ]
    return columns


def _class_name(value: int | None, classes: Sequence[str]) -> str | None:
    return None if value is None or value < 0 else classes[value]


def _read_csv(path: Path, delimiter: str = ",", *, header: bool = True) -> Columns:
    previous = csv.field_size_limit(2**31 - 1)  # the default refuses a text of 128 KiB
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, delimiter=delimiter, strict=True)
        try:
            return _rows_to_columns(((reader.line_num, row) for row in reader), path, header)
        except csv.Error as error:
            raise InputError(
                f"{path}, line {reader.line_num}: {error}; a field that holds quotes must stand in "
                "quotes, with each quote inside doubled"
            ) from None
        except UnicodeDecodeError:
            read_text(path)  # it says where
            raise
        finally:
            csv.field_size_limit(previous)


def _read_tsv(path: Path, *, header: bool = True) -> Columns:
    """Tab-separated text, where quotes are ordinary characters unless a CSV writer put them there.

    Most TSV files never quote, and a lone quote in them must not swallow the next lines; others
    come from CSV writers, which wrap fields that hold quotes, tabs or line ends. Fields are split
    at every tab; one wrapped in quotes with its inner quotes doubled is unwrapped. If that leaves
    lines without the header's number of fields, the file is read by the rules of CSV.
    """
    first = next(_tab_separated(path), (0, []))[1]
    if any(len(row) != len(first) for _, row in _tab_separated(path)):
        try:
            return _read_csv(path, "\t", header=header)
        except InputError:
            return _rows_to_columns(_tab_separated(path), path, header)
    always = bool(first) and all(_unquote(field, True) != field for field in first)
    rows = ((n, [_unquote(field, always) for field in row]) for n, row in _tab_separated(path))
    return _rows_to_columns(rows, path, header)


def _tab_separated(path: Path) -> Iterator[tuple[int, list[str]]]:
    """(line's number, what stands between its tabs), without empty lines."""
    for number, line in enumerate(read_lines(path), 1):
        if line:
            yield number, line.split("\t")


def _unquote(field: str, always: bool) -> str:
    """`field` without CSV quoting: where it must be that or, with `always`, where it can be."""
    inner = field[1:-1]
    if len(field) < 2 or field[0] + field[-1] != '""' or '"' in inner.replace('""', ""):
        return field
    return inner.replace('""', '"') if always or not inner or '"' in inner else field


def _rows_to_columns(lines: Iterable[tuple[int, list[str]]], path: Path, header: bool) -> Columns:
    """Of (line's number, fields) of a file, of which one at a time is held."""
    rows = ((number, row) for number, row in lines if row)
    first = next(rows, (0, []))
    names = _names(first[1], path, header)
    columns: list[list[str]] = [[] for _ in names]
    for line, row in rows if header else itertools.chain([first], rows):
        if len(row) != len(names):
            whose = "the header" if header else "the first line"
            raise InputError(
                f"{path}, line {line}: {len(row)} fields where {whose} has {len(names)}; check "
                "its quotes and separators"
            )
        for column, field in zip(columns, row, strict=True):
            column.append(field)
    if not any(columns):
        wanted = "a header line and at least one more" if header else "at least one line"
        raise InputError(f"{path} holds no examples: want {wanted}")
    named = zip(names, columns, strict=True)
    return Headed(named) if header else dict(named)


def _names(first: list[str], path: Path, header: bool) -> list[str]:
    """Of the columns, from the first line; InputError where two have the same."""
    if not header:
        return [str(place) for place, _ in enumerate(first, 1)]
    names = [field.strip() for field in first]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InputError(
            f"{path}: the header has {', '.join(map(repr, twice))} twice: rename one{NO_HEADER}"
        )
    return names


def _read_json_lines(path: Path) -> Columns:
    lines = enumerate(read_lines(path), 1)
    records = ((n, _parse_json(line, path, n)) for n, line in lines if line.strip())
    return _records_to_columns(records, f"{path}, line")


def _parse_json(line: str, path: Path, number: int) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"{path}, line {number} is not JSON: {_first_line(error)}; want one object a line"
        ) from None


def _read_json(path: Path) -> Columns:
    """An array of objects, an object of arrays, SQuAD's, or JSON lines under another name."""
    text = read_text(path)
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        if text.lstrip().startswith("["):
            raise InputError(f"{path} is not JSON: {_first_line(error)}; mend it there") from None
        return _read_json_lines(path)
    if is_squad(value):
        return squad_columns(value, str(path))
    if isinstance(value, dict) and value and all(isinstance(v, list) for v in value.values()):
        return value
    records = value if isinstance(value, list) else [value]
    return _records_to_columns(enumerate(records, 1), f"{path}, item")


def _records_to_columns(records: Iterable[tuple[int, Any]], where: str) -> Columns:
    """Of (number, record), of which one at a time is held; what a record lacks is None."""
    columns: dict[str, list[Any]] = {}
    count = 0
    for number, record in records:
        if not isinstance(record, Mapping):
            raise InputError(
                f"{where} {number}: got {type(record).__name__}, want an object with a key for "
                "each column"
            )
        for name in record:
            if name not in columns:
                columns[name] = [None] * count
        for name, column in columns.items():
            column.append(record.get(name))
        count += 1
    if not count:
        raise InputError(f"{where.rpartition(', ')[0]}: no examples, there must be at least one")
    return columns


def _read_lines(path: Path) -> Columns:
    return {"text": list(read_lines(path))}


def _read_parquet(path: Path) -> Columns:
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.read_table(path)
        table.validate(full=True)  # text that is UTF-8, lists that end where they are said to
    except (ValueError, OSError, pyarrow.ArrowException) as error:
        raise InputError(
            f"{path} is no readable parquet file: {_first_line(error)}; write it again"
        ) from None
    return {name: table.column(name) for name in table.column_names}


_READERS: dict[str, Callable[[Path], Columns]] = {
    ".csv": _read_csv,
    ".tsv": _read_tsv,
    ".jsonl": _read_json_lines,
    ".json": _read_json,
    ".parquet": _read_parquet,
    ".txt": _read_lines,
    ".conll": read_conll,
}


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
