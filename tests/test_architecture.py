"""The house rules that a syntax tree can prove: imports point one way, and everything stays short."""

from __future__ import annotations

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

Sources = dict[str, ast.Module]

TECHNIQUES = ("prune", "quantize", "distill", "finetune", "ensemble", "cascade", "pipeline", "fuse")
FILE_LINES, FUNCTION_LINES, PAGE_LINES, ROOT_ENTRIES = 300, 60, 60, 14
PAGE_ROOMS = ("draw", "server", "state", "work", "tabs", "frame")  # each imports only what stands before it
OF_ONE_PAGE = ("combining", "distilling", "fusing", "pruning", "quantizing")  # these may import all of those

# Who may not import what, by path prefix. app → pages → rooms of pages → modelopt_core
FORBIDDEN = {
    "modelopt_core/": ("streamlit", "plotly", "app", "pages", "benchmarks", "tests"),
    "pages/": ("app", "benchmarks", "tests"),
    "app.py": ("benchmarks", "tests", "torch"),
    "benchmarks/": ("tests",),
}


WAITS = ("join", "wait", "get", "result", "acquire", "communicate", "readline")
RUNS = (
    "subprocess.run",
    "subprocess.check_output",
    "subprocess.check_call",
    "subprocess.call",
    "urllib.request.urlopen",
)
SLEEPS = ("sleep", "wait_for_timeout")
POLLS = "tests/waiting.py"  # the one file that polls, with a deadline


def imported(tree: ast.AST) -> set[str]:
    """Dotted names of all that is imported anywhere in the tree: `from a import b` gives a and a.b."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            names.add(module)
            names.update(f"{module.rstrip('.')}.{alias.name}" for alias in node.names)
    return names


def touches(tree: ast.AST, modules: tuple[str, ...]) -> list[str]:
    """Those of `modules` that the tree imports, themselves or something inside them."""
    return [m for m in modules if any(name == m or name.startswith(f"{m}.") for name in imported(tree))]


def dotted(path: str) -> str:
    """`a.b` for a/b.py and for a/b/__init__.py."""
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def room(path: str) -> str:
    """`machine` for modelopt_core/machine/cache.py, `errors` for modelopt_core/errors.py, `draw` for pages/draw/…"""
    return dotted(path).split(".")[1] if "/" in path.removesuffix("/__init__.py") else ""


def rooms_in_order(sources: Sources) -> list[str]:
    """The rooms of the core as the docstring of its `__init__` lists them."""
    told = (ast.get_docstring(sources["modelopt_core/__init__.py"]) or "").splitlines()
    return [first.rstrip("/").removesuffix(".py") for first in (line.split(" ")[0] for line in told)
            if first.endswith(("/", ".py"))]  # fmt: skip


def arrows(sources: Sources, top: str) -> dict[str, set[str]]:
    """File → the files that it imports anywhere in it, within one top folder, by dotted names."""
    names = {dotted(path): tree for path, tree in sources.items() if path.startswith(f"{top}/")}
    return {name: imported(tree) & names.keys() - {name, top} for name, tree in names.items() if name != top}


def technique(path: str) -> str | None:
    """`prune` for modelopt_core/steps/prune.py and for modelopt_core/steps/prune/criteria.py."""
    parts = Path(path).with_suffix("").parts
    return parts[2] if parts[:2] == ("modelopt_core", "steps") and parts[2] in TECHNIQUES else None


def functions(tree: ast.AST) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Every function and method of a file."""
    return [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]


def test_imports_are_seen_wherever_they_hide() -> None:
    tree = ast.parse(
        "import a.b\ndef f():\n    from c import d\n    if 1:\n        import streamlit as st\nfrom .e import g"
    )
    assert imported(tree) == {"a.b", "c", "c.d", "streamlit", ".e", ".e.g"}
    assert touches(tree, ("streamlit", "c.d", "b", "stream")) == ["streamlit", "c.d"]


def test_a_technique_may_be_a_folder() -> None:
    assert technique("modelopt_core/steps/finetune.py") == "finetune"
    assert technique("modelopt_core/steps/prune/criteria.py") == "prune"
    assert technique("modelopt_core/training/loop.py") is technique("pages/prune.py") is None
    assert room("modelopt_core/errors.py") == "errors"
    assert room("modelopt_core/steps/prune/__init__.py") == "steps"
    assert dotted("modelopt_core/steps/prune/__init__.py") == "modelopt_core.steps.prune"


def test_imports_point_one_way(sources: Sources) -> None:
    wrong = [
        f"{path} imports {name}"
        for path, tree in sources.items()
        for prefix, modules in FORBIDDEN.items()
        if path.startswith(prefix)
        for name in touches(tree, modules)
    ]
    assert wrong == []


def test_the_core_has_few_rooms_and_lists_them_all(sources: Sources) -> None:
    entries = {path.split("/")[1].removesuffix(".py") for path in sources if path.startswith("modelopt_core/")}
    assert len(entries) <= ROOT_ENTRIES
    assert {*rooms_in_order(sources)} == entries - {"__init__"}


def test_each_room_imports_only_what_stands_above_it(sources: Sources) -> None:
    order = {name: at for at, name in enumerate(rooms_in_order(sources))}
    wrong = [
        f"{name} imports {other}"
        for name, others in arrows(sources, "modelopt_core").items()
        for other in others
        if order[other.split(".")[1]] > order[name.split(".")[1]]
    ]
    assert wrong == []


def test_the_rooms_of_the_pages_have_an_order_too(sources: Sources) -> None:
    order = {name: at for at, name in enumerate(PAGE_ROOMS)} | dict.fromkeys(OF_ONE_PAGE, len(PAGE_ROOMS))
    found = {path.split("/")[1] for path in sources if path.startswith("pages/") and path.count("/") > 1}
    assert found == order.keys()
    wrong = [
        f"{name} imports {other}"
        for name, others in arrows(sources, "pages").items()
        for other in others
        if order.get(other.split(".")[1], 99) > order.get(name.split(".")[1], 99)
    ]
    assert wrong == []


@pytest.mark.parametrize("top", ["modelopt_core", "pages"])
def test_no_two_files_import_each_other(sources: Sources, top: str) -> None:
    """Nor do three in a ring; imports inside functions and those for types alone count."""
    found = arrows(sources, top)
    try:
        order = list(TopologicalSorter(found).static_order())
    except CycleError as cycle:
        pytest.fail(f"imports go round: {' → '.join(cycle.args[1])}")
    assert set(order) == set(found)


def test_tests_stand_in_the_rooms_of_what_they_test(sources: Sources, root: Path) -> None:
    rooms = {*rooms_in_order(sources), "pages", "apps"}
    folders = {p.name for p in (root / "tests").iterdir() if p.is_dir() and list(p.rglob("*.py"))}
    assert folders <= rooms
    assert {"machine", "models", "steps", "pages"} <= folders


def test_techniques_do_not_know_each_other(sources: Sources) -> None:
    own = {path: name for path in sources if (name := technique(path))}
    wrong = []
    for path, name in own.items():
        others = tuple(f"modelopt_core.steps.{t}" for t in (*TECHNIQUES, "recipe") if t != name)
        wrong += [f"{path} imports {other}" for other in touches(sources[path], others)]
    assert own
    assert wrong == []


def test_tensors_of_the_core_may_be_trained_with(sources: Sources) -> None:
    """What is made under `inference_mode` and kept, in a cache or by a property, no training can use."""
    used = [p for p, tree in sources.items() if any(getattr(n, "attr", "") == "inference_mode" for n in ast.walk(tree))]
    assert [path for path in used if path.startswith("modelopt_core/")] == []
    assert used  # tests and benchmarks keep nothing


def test_the_core_imports_itself_by_full_name(sources: Sources) -> None:
    wrong = [p for p, tree in sources.items() if any(name.startswith(".") for name in imported(tree))]
    assert wrong == []


def test_pages_describe_screens(sources: Sources, root: Path) -> None:
    """A page is at most 60 lines and never imports torch."""
    pages = [p for p in sources if Path(p).parent == Path("pages")]
    assert [p for p in pages if touches(sources[p], ("torch",))] == []
    assert [p for p in pages if len((root / p).read_text("utf-8").splitlines()) > PAGE_LINES] == []


def test_files_are_short(sources: Sources, root: Path) -> None:
    scripts = [p for p in (root / "pages").rglob("*") if p.suffix in {".js", ".css"}]
    lengths = {p: len(p.read_text("utf-8").splitlines()) for p in [*(root / s for s in sources), *scripts]}
    assert {p.relative_to(root).as_posix(): n for p, n in lengths.items() if n > FILE_LINES} == {}


def lines(node: ast.stmt) -> int:
    """Lines from the first to the last of a statement."""
    return (node.end_lineno or node.lineno) - node.lineno + 1


def test_functions_are_short(sources: Sources) -> None:
    """At most 60 lines of code; a docstring that explains arguments is not held against its function."""
    long = []
    for path, tree in sources.items():
        for f in functions(tree):
            length = lines(f) - (lines(f.body[0]) if ast.get_docstring(f, clean=False) is not None else 0)
            long += [f"{path}:{f.lineno} {f.name} has {length} lines"] if length > FUNCTION_LINES else []
    assert long == []


def test_the_public_core_is_documented(sources: Sources) -> None:
    """Every module, public class and public function of modelopt_core has a docstring."""
    silent = []
    for path, tree in sources.items():
        if not path.startswith("modelopt_core/"):
            continue
        kinds = (ast.FunctionDef, ast.ClassDef)
        public = [n for n in tree.body if isinstance(n, kinds) and not n.name.startswith("_")]
        silent += [path] if ast.get_docstring(tree) is None else []
        silent += [f"{path}:{n.lineno} {n.name}" for n in public if ast.get_docstring(n) is None]
    assert silent == []


def test_no_drawer_for_odds_and_ends(sources: Sources) -> None:
    assert [p for p in sources if Path(p).stem in {"utils", "util", "helpers", "misc", "common"}] == []


def endless(tree: ast.AST) -> list[str]:
    """Waits of a test without a limit: as `line: what`."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.While) and isinstance(node.test, ast.Constant):
            found.append(f"{node.lineno}: while {node.test.value}")
        if isinstance(node, ast.While) or (isinstance(node, ast.For) and _has(node, ast.Break)):
            found += [f"{node.lineno}: a loop that sleeps" for call in _calls(node) if call in SLEEPS][:1]
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            given = {keyword.arg for keyword in node.keywords}
            whole = ast.unparse(node.func)
            name, alone = node.func.attr, not node.args and "timeout" not in given and whole != "job.result"
            if (name in WAITS and alone) or (whole in RUNS and "timeout" not in given):
                found.append(f"{node.lineno}: {whole} without a timeout")
    return found


def _has(tree: ast.AST, kind: type[ast.AST]) -> bool:
    return any(isinstance(node, kind) for node in ast.walk(tree))


def _calls(tree: ast.AST) -> list[str]:
    """The last names of all that is called: sleep for time.sleep."""
    functions = [node.func for node in ast.walk(tree) if isinstance(node, ast.Call)]
    return [f.attr if isinstance(f, ast.Attribute) else ast.unparse(f) for f in functions]


@pytest.mark.parametrize(
    "code",
    [
        "while True:\n    ask()",
        "while not job.ended:\n    time.sleep(1)",
        "while not there():\n    page.wait_for_timeout(20)",
        "for _ in range(9):\n    if told():\n        break\n    sleep(1)",
        "thread.join()",
        "process.wait()",
        "event.wait(timeout_s=3)",
        "queue.get()",
        "future.result()",
        "lock.acquire()",
        "process.communicate()",
        "process.stdout.readline()",
        "subprocess.run(['true'], check=True)",
        "urllib.request.urlopen(url)",
    ],
)
def test_a_wait_without_a_limit_is_seen(code: str) -> None:
    assert len(endless(ast.parse(code))) == 1


def test_waits_with_a_limit_pass() -> None:
    code = """
thread.join(5); ', '.join(names); process.wait(3); row.get('a'); subprocess.run(command, timeout=3)
while tokens:
    tokens.pop()
for _ in range(3):
    time.sleep(0.1)
"""
    assert endless(ast.parse(code)) == []


def test_every_wait_of_a_test_has_a_limit(sources: Sources) -> None:
    """Polls go through tests/waiting.py, which says what never came."""
    tests = {path: tree for path, tree in sources.items() if path.startswith("tests/")}
    assert endless(tests.pop(POLLS))
    assert [f"{path}:{wait}" for path, tree in tests.items() for wait in endless(tree)] == []
