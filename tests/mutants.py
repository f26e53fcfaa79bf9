"""Mutants of a module: its source with one small thing changed, as a slip of the hand would.

Left alone is what no test could or should notice: docstrings, texts, annotations, decorators, and
assertions, which are notes to readers, as is the strict=True of a `zip`.
"""

import ast
import copy
from typing import NamedTuple


class Mutant(NamedTuple):
    """line: of the change, from 1. change: in words. source: of the whole module."""

    line: int
    change: str
    source: str


COMPARISONS = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq, ast.In: ast.NotIn, ast.NotIn: ast.In, ast.Is: ast.IsNot, ast.IsNot: ast.Is,
}  # fmt: skip
OPERATORS = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult,
    ast.FloorDiv: ast.Div, ast.Mod: ast.Mult, ast.Pow: ast.Mult, ast.LShift: ast.RShift,
    ast.RShift: ast.LShift, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd, ast.BitXor: ast.BitAnd,
}  # fmt: skip
LEFT_ALONE = {"annotation", "returns", "decorator_list", "bases"}


def mutants(source):
    """Every one, in the order of their lines.

    Example:
      >>> [(mutant.line, mutant.change) for mutant in mutants("def f(x):\\n    return x < 1")]
      [(2, 'return x < 1 -> None'), (2, '< -> <='), (2, '1 -> 2'), (2, '1 -> 0')]
    """
    tree, found = ast.parse(source), []
    for place, node in _places(tree):
        for other, words in _changed(node):
            _put(place, other)
            found.append(Mutant(node.lineno, words, ast.unparse(tree)))
        _put(place, node)
    return sorted(found, key=lambda mutant: mutant.line)


def _places(node):
    """((parent, field, index or None), node) of all below that may be changed, parents first."""
    for field, value in list(ast.iter_fields(node)):
        if field in LEFT_ALONE:
            continue
        children = list(enumerate(value)) if isinstance(value, list) else [(None, value)]
        for index, child in children:
            if isinstance(child, ast.AST) and not _is_left_alone(child):
                if hasattr(child, "lineno"):
                    yield (node, field, index), child
                yield from _places(child)


def _put(place, node):
    parent, field, index = place
    if index is None:
        setattr(parent, field, node)
    else:
        getattr(parent, field)[index] = node


def _is_left_alone(node):
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
        return True  # a docstring
    if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
        return True
    if isinstance(node, ast.Assign) and isinstance(node.value, ast.Subscript):
        return ast.unparse(node.value.value)[:1].isupper()  # a name for a type
    if isinstance(node, ast.keyword) and node.arg == "strict":
        return isinstance(node.value, ast.Constant) and node.value.value is True
    return isinstance(node, ast.JoinedStr | ast.Import | ast.ImportFrom | ast.Assert)


def _changed(node):
    """(another node in its place, what has been changed) for each way to change one of its kind."""
    if isinstance(node, ast.Compare):
        for place, operator in enumerate(node.ops):
            other = COMPARISONS[type(operator)]()
            ops = [*node.ops[:place], other, *node.ops[place + 1 :]]
            yield _with(node, ops=ops), f"{_sign(operator)} -> {_sign(other)}"
    elif isinstance(node, ast.BinOp | ast.AugAssign) and type(node.op) in OPERATORS:
        other = OPERATORS[type(node.op)]()
        yield _with(node, op=other), f"{_sign(node.op)} -> {_sign(other)}"
    elif isinstance(node, ast.Constant) and isinstance(node.value, bool):
        yield ast.Constant(not node.value), f"{node.value} -> {not node.value}"
    elif isinstance(node, ast.Constant) and isinstance(node.value, int | float):
        for value in (node.value + 1, node.value - 1):
            if value == node.value:
                continue  # a float that large
            yield ast.Constant(value), f"{node.value} -> {value}"
    elif isinstance(node, ast.BoolOp):
        was_and = isinstance(node.op, ast.And)
        words = "and -> or" if was_and else "or -> and"
        yield _with(node, op=ast.Or() if was_and else ast.And()), words
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not | ast.USub):
        yield node.operand, f"{_short(node)} -> {_short(node.operand)}"
    elif isinstance(node, ast.Return) and node.value is not None:
        if not (isinstance(node.value, ast.Constant) and node.value.value is None):
            yield ast.Return(ast.Constant(None)), f"{_short(node)} -> None"
    elif isinstance(node, ast.If | ast.IfExp | ast.While):
        if not isinstance(node.test, ast.Compare | ast.UnaryOp):
            test = ast.UnaryOp(ast.Not(), node.test)
            yield _with(node, test=test), f"if {_short(node.test)} -> if not"
    elif isinstance(node, ast.Raise) or (
        isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)
    ):
        yield ast.Pass(), f"{_short(node)} -> pass"


def _with(node, **fields):
    other = copy.copy(node)
    for name, value in fields.items():
        setattr(other, name, value)
    return other


def _sign(operator):
    left, right = ast.Name("a"), ast.Name("b")
    if isinstance(operator, ast.cmpop):
        return ast.unparse(ast.Compare(left, [operator], [right]))[2:-2]
    return ast.unparse(ast.BinOp(left, operator, right))[2:-2]


def _short(node):
    return " ".join(ast.unparse(node).split())[:60]
