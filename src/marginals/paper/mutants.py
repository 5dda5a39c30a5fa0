"""Planted errors: one small change to the code of a function, compiled but not yet in use.

The changes are those a person makes when typing a formula: a wrong sign, a factor of two, an index
off by one, α for σ, two arguments exchanged, a standard deviation for a variance, log for exp. Each
becomes a code object that can take the place of the function's own (``function.__code__``), so the
planted error is in force wherever the function is called, and nothing is written to disk.
"""

import ast
import inspect
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass
from functools import lru_cache
from types import CodeType, FunctionType
from typing import Any

OPERATORS = {
    ast.Add: (ast.Sub, "+ ↔ −"),
    ast.Sub: (ast.Add, "+ ↔ −"),
    ast.Mult: (ast.Div, "× ↔ ÷"),
    ast.Div: (ast.Mult, "× ↔ ÷"),
}
ALPHA_SIGMA = {"alpha": "sigma", "sigma": "alpha"}
FUNCTIONS = {
    "log": "exp",
    "exp": "log",
    "log1p": "log",
    "expm1": "exp",
    "sigmoid": "logsigmoid",
    "sum": "mean",
    "mean": "sum",
    "sin": "cos",
    "cos": "sin",
    "logsumexp": "sum",
    "log_softmax": "softmax",
    "softmax": "log_softmax",
    "cumsum": "cumprod",
    "cumprod": "cumsum",
    "minimum": "maximum",
    "maximum": "minimum",
}
ROOTS = {"sqrt", "square"}
SYMMETRIC = {"minimum", "maximum", "allclose", "equal", "logaddexp", "zip", "max", "min", "cat"}
"""Functions for which an exchange of arguments changes nothing, or only a shape."""
SHAPES = {"flatten", "reshape", "view", "unsqueeze", "squeeze", "expand", "size", "transpose"}
SHAPES |= {
    "sum",
    "mean",
    "cumsum",
    "cumprod",
    "softmax",
    "log_softmax",
    "logsumexp",
    "diff",
    "flip",
}
SHAPES |= {"arange", "zeros", "ones", "eye", "full", "movedim", "permute", "split", "repeat"}
KEYWORDS = {"dim", "dtype", "device", "keepdim", "generator", "min", "eps", "strict", "indexing"}


@dataclass(frozen=True)
class Mutant:
    """One planted error: in which plain function, where, what kind, the expression before and
    after, and the code."""

    function: Any
    line: int
    kind: str
    before: str
    after: str
    code: CodeType

    @property
    def name(self) -> str:
        """The function it is in, "chain.posterior_variance"."""
        name = f"{self.function.__module__}.{self.function.__qualname__}"
        return name.removeprefix("marginals.")

    def __str__(self) -> str:
        return f"{self.kind}: {self.before} → {self.after}"


@dataclass
class Site:
    """A place in the syntax tree that can be replaced: an attribute (or list entry) of a parent."""

    parent: ast.AST
    attribute: str
    index: int | None
    node: ast.expr

    def put(self, node: ast.expr) -> None:
        if self.index is None:
            setattr(self.parent, self.attribute, node)
        else:
            getattr(self.parent, self.attribute)[self.index] = node


def mutants(function: FunctionType) -> list[Mutant]:
    """Every single change of the kinds above in the body of a function.

    Error messages, docstrings, annotations and the sizes of tensors are left alone.
    """
    tree, target = _pruned(function)
    found: list[Mutant] = []
    for site in list(_sites(target)):
        shown = _shown(site)
        before = ast.unparse(shown)
        for kind, replacement in _variants(site, target):
            site.put(ast.fix_missing_locations(ast.copy_location(replacement, site.node)))
            after = ast.unparse(replacement if shown is site.node else shown)
            code = _compiled(tree, function)
            site.put(site.node)
            found.append(Mutant(function, site.node.lineno, kind, before, after, code))
    return list({m.code: m for m in found}.values())


def _shown(site: Site) -> ast.AST:
    """What a reader needs to see of a change: names and numbers with what is around them."""
    alone = not isinstance(site.node, ast.Name | ast.Constant)
    return site.node if alone or not isinstance(site.parent, ast.expr) else site.parent


# ---- the tree ----------------------------------------------------------------------------------


@lru_cache(maxsize=64)
def _module(file: str) -> ast.Module:
    with open(file, encoding="utf-8") as source:
        return ast.parse(source.read(), file)


def _pruned(function: FunctionType) -> tuple[ast.Module, ast.FunctionDef]:
    """The function in a tree that holds only the class or function around it; line numbers stay."""
    file = inspect.getsourcefile(function) or ""
    for statement in _module(file).body:
        last = statement.end_lineno or statement.lineno
        first = min(
            [statement.lineno, *(d.lineno for d in getattr(statement, "decorator_list", []))]
        )
        if first <= function.__code__.co_firstlineno <= last:
            tree = ast.Module([deepcopy(statement)], [])
            for node in ast.walk(tree):
                if isinstance(node, ast.FunctionDef) and node.name == function.__name__:
                    lines = {node.lineno, *(d.lineno for d in node.decorator_list)}
                    if function.__code__.co_firstlineno in lines:
                        return tree, node
    raise LookupError(f"{function.__qualname__} is not a plain function of {file}")


def _compiled(tree: ast.Module, function: FunctionType) -> CodeType:
    waiting = [compile(tree, inspect.getsourcefile(function) or "", "exec", dont_inherit=True)]
    while waiting:
        code = waiting.pop()
        if code.co_qualname == function.__code__.co_qualname:
            return code
        waiting += [part for part in code.co_consts if isinstance(part, CodeType)]
    raise LookupError(function.__qualname__)


def _sites(node: ast.AST) -> Iterator[Site]:
    """Every expression that computes something, parents first."""
    for name, value in ast.iter_fields(node):
        if name in ("decorator_list", "annotation", "returns", "args") and not isinstance(
            node, ast.Call
        ):
            continue
        for index, child in enumerate(value) if isinstance(value, list) else [(None, value)]:
            if not isinstance(child, ast.AST) or isinstance(child, ast.Raise | ast.JoinedStr):
                continue
            if isinstance(child, ast.keyword) and child.arg in KEYWORDS:
                continue
            if isinstance(child, ast.Expr) and isinstance(child.value, ast.Constant):
                continue
            if isinstance(child, ast.expr):
                yield Site(node, name, index, child)
            yield from _sites(child)


# ---- the changes -------------------------------------------------------------------------------


def _variants(site: Site, function: ast.FunctionDef) -> Iterator[tuple[str, ast.expr]]:
    node = site.node
    if isinstance(node, ast.BinOp):
        yield from _arithmetic(site, node)
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        axis = isinstance(node.operand, ast.Constant) and isinstance(site.parent, ast.Call)
        if not axis:
            yield "sign", node.operand
    elif isinstance(node, ast.Constant):
        yield from _number(site, node)
    elif isinstance(node, ast.Call):
        yield from _call(node)
    elif isinstance(node, ast.Attribute) and node.attr in ALPHA_SIGMA:
        yield "α ↔ σ", ast.Attribute(node.value, ALPHA_SIGMA[node.attr], node.ctx)
    elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
        yield from _name(site, node, function)
    yield from _result(site)


def _arithmetic(site: Site, node: ast.BinOp) -> Iterator[tuple[str, ast.expr]]:
    if type(node.op) in OPERATORS:
        other, kind = OPERATORS[type(node.op)]
        yield kind, ast.BinOp(node.left, other(), node.right)
    if isinstance(node.op, ast.Pow):
        yield "dropped square or root", node.left
    summand = isinstance(site.parent, ast.BinOp) and isinstance(site.parent.op, ast.Add | ast.Sub)
    if summand and isinstance(node.op, ast.Mult | ast.Div | ast.Pow):
        yield "factor 2", ast.BinOp(ast.Constant(2.0), ast.Mult(), node)


def _number(site: Site, node: ast.Constant) -> Iterator[tuple[str, ast.expr]]:
    value = node.value
    if isinstance(value, bool) or not isinstance(value, int | float):
        return
    parent = site.parent
    if isinstance(parent, ast.Subscript | ast.Slice):
        if isinstance(value, int):
            yield "index", ast.Constant(value + 1)
    elif isinstance(parent, ast.BinOp) and isinstance(parent.op, ast.Pow):
        return  # a dropped square says the same
    elif isinstance(parent, ast.BinOp) and isinstance(value, int) and value == 1:
        yield "index", ast.Constant(2)
    elif isinstance(parent, ast.BinOp) and value:
        yield "factor 2", ast.Constant(2 * value)


def _call(node: ast.Call) -> Iterator[tuple[str, ast.expr]]:
    function = node.func
    name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
    method = isinstance(function, ast.Attribute) and not node.args
    inside = function.value if isinstance(function, ast.Attribute) and method else None
    inside = inside or (node.args[0] if node.args else None)
    if name in ROOTS and inside is not None:
        yield "dropped square or root", inside
    if name in FUNCTIONS and isinstance(function, ast.Attribute):
        renamed = ast.Attribute(function.value, FUNCTIONS[name], function.ctx)
        kind = {"log": "log ↔ exp", "exp": "log ↔ exp"}.get(name, "function")
        yield kind, ast.Call(renamed, node.args, node.keywords)
    if name == "where" and len(node.args) == 3:
        a, b, c = node.args
        yield "swapped arguments", ast.Call(function, [a, c, b], node.keywords)
    elif name not in SYMMETRIC | SHAPES:
        yield from _swapped(node)


def _swapped(node: ast.Call) -> Iterator[tuple[str, ast.expr]]:
    """Neighbouring arguments exchanged, where both are expressions of the same kind."""
    for i, (first, second) in enumerate(zip(node.args, node.args[1:])):
        plain = not any(isinstance(part, ast.Constant | ast.Starred) for part in (first, second))
        if plain and ast.dump(first) != ast.dump(second):
            args = [*node.args[:i], second, first, *node.args[i + 2 :]]
            yield "swapped arguments", ast.Call(node.func, args, node.keywords)


def _name(site: Site, node: ast.Name, function: ast.FunctionDef) -> Iterator[tuple[str, ast.expr]]:
    """A parameter where its neighbour of the same type is meant; alpha for sigma."""
    if node.id in ALPHA_SIGMA and any(
        isinstance(n, ast.Name | ast.arg)
        and ALPHA_SIGMA[node.id] in (getattr(n, "id", ""), getattr(n, "arg", ""))
        for n in ast.walk(function)
    ):
        yield "α ↔ σ", ast.Name(ALPHA_SIGMA[node.id], node.ctx)
    if isinstance(site.parent, ast.Call) and site.attribute == "func":
        return
    parameters = [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]
    kinds = {p.arg: ast.unparse(p.annotation) for p in parameters if p.annotation}
    same = [name for name, kind in kinds.items() if kind == kinds.get(node.id) and name != node.id]
    if same:
        names = list(kinds)
        near = min(same, key=lambda name: abs(names.index(name) - names.index(node.id)))
        yield "swapped variable", ast.Name(near, node.ctx)


def _result(site: Site) -> Iterator[tuple[str, ast.expr]]:
    """The whole result with the wrong sign, or twice it."""
    if not isinstance(site.parent, ast.Return) or not isinstance(
        site.node, ast.BinOp | ast.Call | ast.Name | ast.UnaryOp
    ):
        return
    name = ast.unparse(site.node.func) if isinstance(site.node, ast.Call) else ""
    if name[:1].isupper() or name in ("cast", "list", "tuple", "dict"):
        return  # a record: its parts are changed instead
    yield "factor 2", ast.BinOp(ast.Constant(2.0), ast.Mult(), site.node)
    if not isinstance(site.node, ast.UnaryOp):
        yield "sign", ast.UnaryOp(ast.USub(), site.node)
