"""One mistake in one function, and tests run in a process where the module is imported with it. No file is changed.

    python benchmarks/mutants/rewrite.py machine.cache:Store.peek "return None" "pass" tests/machine/test_cache.py -x
    python benchmarks/mutants/rewrite.py       the same, again and again: a line of JSON in, an exit status out

It is run by its path: importing it as a part of `benchmarks` would import the core before the finder is there. What
tests import beside the core is imported once, and every mistake is made in a fork: half of the time.
"""

from __future__ import annotations

import ast
import json
import os
import signal
import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from types import CodeType

BESIDE = ("pytest", "torch", "onnx", "onnxruntime", "pydantic", "hypothesis", "scipy.optimize", "sklearn.ensemble")
PACKAGE = "modelopt_core"  # mutants name modules of it
NOT_IMPORTED, BROKEN = 70, 71  # exit statuses: the tests never imported the module; nothing was run


class Gone(Exception):
    """What a mutant changes is not there, or not once."""


def source_of(module: str, root: Path) -> Path:
    """The file of a dotted name under `root`."""
    path = root.joinpath(PACKAGE, *module.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def rewritten(source: str, name: str, before: str, after: str) -> ast.Module:
    """The tree of `source` with `before` in the function, class or constant `name` (dotted) replaced by `after`.

    Both are one expression, or both statements, of which `before` is one; layout does not matter. Gone where `before`
    is not there exactly once.
    """
    tree = ast.parse(source)
    scope = _find(tree, name)
    old, new = ast.parse(before).body, ast.parse(after).body
    if isinstance(old[0], ast.Expr) != isinstance(new[0], ast.Expr):
        old_is, new_is = (type(body[0]).__name__ for body in (old, new))
        raise Gone(f"{name}: {before!r} is {old_is} and {after!r} is {new_is}; give twice an expression or a statement")
    wanted: ast.AST = old[0].value if isinstance(old[0], ast.Expr) else old[0]
    put: ast.AST | list[ast.stmt] = new[0].value if isinstance(new[0], ast.Expr) else new
    found = [node for node in ast.walk(scope) if ast.dump(node) == ast.dump(wanted)]
    if len(found) != 1:
        raise Gone(f"{name}: {before!r} is there {len(found)} times, not once; it is no longer there as it was")
    _Replace(found[0], put).visit(scope)
    return ast.fix_missing_locations(tree)


class _Replace(ast.NodeTransformer):
    """Puts a node, or statements, in the place of one."""

    def __init__(self, old: ast.AST, new: ast.AST | list[ast.stmt]) -> None:
        self.old, self.new = old, new

    def visit(self, node: ast.AST) -> ast.AST | list[ast.stmt]:
        return self.new if node is self.old else self.generic_visit(node)


def _find(tree: ast.Module, name: str) -> ast.AST:
    """What is called `name` in a module: a function, a class, a method, a constant."""
    at: ast.AST = tree
    for part in name.split("."):
        inside = [node for node in getattr(at, "body", []) if part in _names(node)]
        if len(inside) != 1:
            raise Gone(f"{name}: {part!r} is defined {len(inside)} times, not once; it is no longer there as it was")
        at = inside[0]
    return at


def _names(node: ast.stmt) -> list[str]:
    """What a statement defines."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return [node.name]
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    return [name.id for target in targets for name in ast.walk(target) if isinstance(name, ast.Name)]


class Finder(MetaPathFinder):
    """Imports one module from a tree instead of its file."""

    def __init__(self, module: str, tree: ast.Module) -> None:
        self.module, self.tree, self.used = module, tree, False

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: object = None) -> ModuleSpec | None:
        """As any finder; nothing for other modules."""
        if fullname != self.module:
            return None
        spec = PathFinder.find_spec(fullname, path)
        assert spec is not None
        assert spec.origin is not None
        self.used, spec.loader = True, _Loader(fullname, spec.origin, self.tree)
        return spec


class _Loader(SourceFileLoader):
    def __init__(self, fullname: str, path: str, tree: ast.Module) -> None:
        super().__init__(fullname, path)
        self.tree = tree

    def get_code(self, fullname: str) -> CodeType:
        return compile(self.tree, self.path, "exec", dont_inherit=True)


def main(function: str, before: str, after: str, *arguments: str) -> int:
    """pytest's exit status, or NOT_IMPORTED."""
    import pytest

    module, _, name = function.partition(":")
    root = Path(__file__).resolve().parents[2]
    sys.path[0] = str(root)  # not this folder: its files are nobody's modules
    finder = Finder(f"{PACKAGE}.{module}", rewritten(source_of(module, root).read_text("utf-8"), name, before, after))
    sys.meta_path.insert(0, finder)
    status = int(pytest.main(list(arguments)))
    return status if finder.used else NOT_IMPORTED


def serve() -> None:
    """Read [seconds that it may take, file for what is printed, arguments of `main`], one a line; print the status.

    A status below zero is the signal that ended the fork: SIGALRM where the time was up.
    """
    for name in BESIDE:
        import_module(name)
    for line in sys.stdin:
        limit_s, log, arguments = json.loads(line)
        child = os.fork()
        if not child:
            with Path(log).open("w") as file:
                os.dup2(file.fileno(), 1), os.dup2(file.fileno(), 2)
            os.setpgid(0, 0)
            signal.alarm(limit_s)
            status = BROKEN
            try:
                status = main(*arguments)
            except Gone as error:
                print(error)
            finally:
                sys.stdout.flush()
                os._exit(status)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        print(status, flush=True)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        sys.exit(main(*sys.argv[1:]))
    serve()
