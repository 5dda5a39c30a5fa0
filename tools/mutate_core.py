"""Do the tests notice mistakes? Plant one in the core at a time and see whether a test fails.

    python tools/mutate_core.py --count 120 --seed 0
    python tools/mutate_core.py --only schedule --count 40

A mutant is one small, plausible mistake: a wrong sign, × for /, a factor of two, an index off by
one, swapped arguments, α for σ, a variance used as a standard deviation, < for >=, a flipped flag.
It is planted in a copy of the package by rewriting the syntax tree; then the tests of that module
run until the first failure. The share caught is printed with every survivor. A survivor is either
a missing test or a mutant that means the same (a tolerance, a buffer size): read it and decide.

Every mutant runs in a forked process that already holds torch, so it costs a second or two.
"""

import argparse
import ast
import copy
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]

# module -> the tests that have to notice, the quickest to do so first
TESTS = {
    "scaling": ["scaling", "schedule"],
    "schedule": ["schedule"],
    "predict": ["predict", "objective"],
    "denoiser": ["predict", "denoiser"],
    "oracle": ["oracle"],
    "noise": ["noise"],
    "pixels": ["pixels"],
    "gaussian": ["gaussian"],
    "objective": ["objective"],
    "ode": ["ode"],
    "likelihood": ["likelihood"],
    "sampling": ["sampling", "solver_formulas"],
    "guidance": ["guidance"],
    "models": ["models", "formulations"],
    "formulations": ["formulations", "models"],
    "solvers/table": ["solver_tables", "sampling"],
    "solvers/rules": ["solver_tables", "solver_walks"],
    "solvers/frames": ["solver_frames", "solver_tables", "solver_formulas"],
    "solvers/multistep": ["solver_frames", "solver_formulas", "solver_tables"],
    "solvers/unipc": ["solver_formulas", "solver_frames"],
    "solvers/singlestep": ["solver_formulas", "solver_tables"],
    "solvers/stochastic": ["solver_tables", "solver_formulas"],
    "solvers/langevin": ["solver_tables", "solver_formulas"],
    "solvers/grids": ["solver_grids", "solver_tables"],
    "solvers/fitted": ["fitted_table"],
    "solvers/choice": ["fitted_table"],
    "paths": ["fitting"],
    "fitting": ["fitting"],
    "convergence": ["solver_orders"],
}
TIME_LIMIT = 150  # seconds; a mutant that hangs is caught
OPERATORS = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.Pow: ast.Mult,
    ast.Lt: ast.GtE, ast.LtE: ast.Gt, ast.Gt: ast.LtE, ast.GtE: ast.Lt,
    ast.Eq: ast.NotEq, ast.NotEq: ast.Eq, ast.And: ast.Or, ast.Or: ast.And,
    ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd,
}  # fmt: skip
NAMES = {
    "alpha": "sigma", "sigma": "alpha", "lam_min": "lam_max", "lam_max": "lam_min",
    "exp": "expm1", "expm1": "exp", "log": "log1p", "log1p": "log", "sin": "cos", "cos": "sin",
    "sum": "mean", "mean": "sum", "all": "any", "any": "all", "floor": "ceil",
}  # fmt: skip
UNWRAP = {"sqrt", "square", "exp", "log", "clamp", "flatten"}


class Mutant(NamedTuple):
    """One planted mistake; ``node`` is a position in ``ast.walk`` order."""

    module: str
    line: int
    about: str
    node: int
    change: Callable[[ast.AST], ast.AST]


def _untouchable(tree: ast.AST) -> set[int]:
    """Nodes that carry no arithmetic: types, messages, decorators."""
    skip: list[ast.AST] = []
    for node in ast.walk(tree):
        skip.extend(getattr(node, "decorator_list", []))
        if isinstance(node, ast.Raise | ast.JoinedStr | ast.Import | ast.ImportFrom):
            skip.append(node)
        if isinstance(node, ast.arg | ast.AnnAssign) and node.annotation:
            skip.append(node.annotation)
        if isinstance(node, ast.FunctionDef) and node.returns:
            skip.append(node.returns)
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") in {"TypeVar", "cast"}:
            skip.extend(node.args[:1])
    return {id(inner) for node in skip for inner in ast.walk(node)}


def _set(field: str, value: object) -> Callable[[ast.AST], ast.AST]:
    def change(node: ast.AST) -> ast.AST:
        setattr(node, field, value)
        return node

    return change


def _swap(field: str) -> Callable[[ast.AST], ast.AST]:
    def change(node: ast.AST) -> ast.AST:
        items = getattr(node, field)
        items[0], items[1] = items[1], items[0]
        return node

    return change


def _operator(node: ast.AST) -> Iterator[tuple[str, Callable[[ast.AST], ast.AST]]]:
    """The other operator, the other sign."""
    if isinstance(node, ast.BinOp | ast.BoolOp | ast.AugAssign):
        new = OPERATORS.get(type(node.op))
        if new:
            yield f"{type(node.op).__name__} -> {new.__name__}", _set("op", new())
    if isinstance(node, ast.Compare):
        new = OPERATORS.get(type(node.ops[0]))
        if new:
            rest = node.ops[1:]
            yield f"{type(node.ops[0]).__name__} -> {new.__name__}", _set("ops", [new(), *rest])
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.Not):
        yield "sign dropped", lambda found: found.operand  # type: ignore[attr-defined]


def _value(node: ast.AST) -> Iterator[tuple[str, Callable[[ast.AST], ast.AST]]]:
    """Another number, flag, name, order of arguments; a root or square left out."""
    if isinstance(node, ast.Constant):
        if isinstance(node.value, bool):
            yield f"{node.value} -> {not node.value}", _set("value", not node.value)
        elif isinstance(node.value, int):
            yield f"{node.value} -> {node.value + 1}", _set("value", node.value + 1)
        elif isinstance(node.value, float):
            new = 2.0 * node.value if node.value else 1.0
            yield f"{node.value} -> {new}", _set("value", new)
    if isinstance(node, ast.Attribute) and node.attr in NAMES:
        yield f".{node.attr} -> .{NAMES[node.attr]}", _set("attr", NAMES[node.attr])
    if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load) and node.id in NAMES:
        yield f"{node.id} -> {NAMES[node.id]}", _set("id", NAMES[node.id])
    if isinstance(node, ast.Call):
        if len(node.args) >= 2:
            yield "arguments swapped", _swap("args")
        if isinstance(node.func, ast.Attribute) and node.func.attr in UNWRAP:
            inner = node.args[0] if getattr(node.func.value, "id", "") == "math" else None
            position = "args" if inner is not None else "func"
            yield f"{node.func.attr} left out", _unwrap(position)
    if isinstance(node, ast.Tuple) and isinstance(node.ctx, ast.Load) and len(node.elts) >= 2:
        yield "pair swapped", _swap("elts")


def _unwrap(position: str) -> Callable[[ast.AST], ast.AST]:
    return lambda call: call.args[0] if position == "args" else call.func.value  # type: ignore[attr-defined]


def mutants(module: str, source: str) -> Iterator[Mutant]:
    """Every mistake this tool knows how to make in a module."""
    tree = ast.parse(source)
    skip = _untouchable(tree)
    for index, node in enumerate(ast.walk(tree)):
        if id(node) not in skip:
            for about, change in (*_operator(node), *_value(node)):
                yield Mutant(module, getattr(node, "lineno", 0), about, index, change)


class _Replace(ast.NodeTransformer):
    def __init__(self, old: ast.AST, new: ast.AST) -> None:
        self.old, self.new = old, new

    def visit(self, node: ast.AST) -> ast.AST:
        return self.new if node is self.old else super().visit(node)


def plant(mutant: Mutant, source: str) -> str:
    """The source of the module with the mistake in it."""
    tree = ast.parse(source)
    node = list(ast.walk(tree))[mutant.node]
    changed = mutant.change(copy.copy(node))
    return ast.unparse(ast.fix_missing_locations(_Replace(node, changed).visit(tree)))


def run_tests(source: Path, tests: list[str]) -> bool:
    """True if all tests pass in the copy at ``source``. Runs in a child of this process."""
    child = os.fork()
    if child == 0:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        os.dup2(null, 2)
        signal.alarm(TIME_LIMIT)
        sys.path.insert(0, str(source / "src"))
        import pytest

        files = [str(source / "tests/core" / f"test_{name}.py") for name in tests]
        options = ["-x", "-q", "-p", "no:cacheprovider", f"-c{ROOT / 'pyproject.toml'}"]
        os._exit(int(pytest.main([*options, *files]) != 0))
    return os.waitpid(child, 0)[1] == 0


def main() -> None:
    parser = argparse.ArgumentParser(description="Plant mistakes in the core; see if tests notice.")
    parser.add_argument("--count", type=int, default=80, help="how many mutants (0 = all)")
    parser.add_argument("--seed", type=int, default=0, help="which ones")
    parser.add_argument("--only", default="", help="one module, e.g. schedule or solvers/rules")
    asked = parser.parse_args()
    modules = [asked.only] if asked.only else list(TESTS)

    import pytest  # noqa: F401, held by every child
    import torch

    torch.set_num_threads(1)
    os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
    sys.dont_write_bytecode = True
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder)  # tests and all, so that the working tree may change meanwhile
        stale = shutil.ignore_patterns("__pycache__")
        for part in ("src", "tests/core"):
            shutil.copytree(ROOT / part, source / part, ignore=stale)
        files = {module: source / "src/marginals" / f"{module}.py" for module in modules}
        every = [m for name, file in files.items() for m in mutants(name, file.read_text())]
        random.Random(asked.seed).shuffle(every)
        chosen = every[: asked.count or None]
        print(f"{len(chosen)} of {len(every)} mutants", flush=True)
        used = sorted({name for module in modules for name in TESTS[module]})
        if not run_tests(source, used):
            sys.exit("The tests fail without any mutant; mend that first.")
        survivors, start = [], time.monotonic()
        for done, mutant in enumerate(chosen, 1):
            target = files[mutant.module]
            original = target.read_text()
            target.write_text(plant(mutant, original))
            survived = run_tests(source, TESTS[mutant.module])
            target.write_text(original)
            if survived:
                survivors.append(mutant)
                line = original.splitlines()[mutant.line - 1].strip()
                print(f"SURVIVED {mutant.module}.py:{mutant.line} {mutant.about}: {line}")
            if done % 20 == 0:
                print(f"{done} done, {len(survivors)} survived", flush=True)
    share = 1.0 - len(survivors) / max(len(chosen), 1)
    seconds = time.monotonic() - start
    print(f"caught {len(chosen) - len(survivors)} of {len(chosen)} ({share:.1%}), {seconds:.0f} s")


if __name__ == "__main__":
    main()
