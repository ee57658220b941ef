"""What a file from a stranger could run, or a page be made to show, is banned in source: read from the syntax tree."""

from __future__ import annotations

import ast
from collections.abc import Iterator

import pytest

Sources = dict[str, ast.Module]

LOADERS = {  # calls that run what a file says
    "pickle.load",
    "pickle.loads",
    "pickle.Unpickler",
    "cloudpickle.load",
    "cloudpickle.loads",
    "dill.load",
    "dill.loads",
    "joblib.load",
    "marshal.load",
    "marshal.loads",
    "pandas.read_pickle",
    "shelve.open",
    "torch.export.load",
    "torch.jit.load",
}
BUILTINS = {"eval", "exec"}


def full_names(tree: ast.AST) -> dict[str, str]:
    """What each imported name of a file stands for: `import torch as t` gives t → torch."""
    names: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                names[alias.asname or alias.name.split(".")[0]] = (
                    alias.name if alias.asname else alias.name.split(".")[0]
                )
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.update({alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names})
    return names


def dotted(node: ast.AST, names: dict[str, str]) -> str:
    """`t.jit.load` → `torch.jit.load`; empty for anything that is not a plain chain of names."""
    if isinstance(node, ast.Name):
        return names.get(node.id, node.id)
    if isinstance(node, ast.Attribute) and (owner := dotted(node.value, names)):
        return f"{owner}.{node.attr}"
    return ""


def is_constant(node: ast.AST | None, value: object) -> bool:
    """Whether the node is written as exactly that constant."""
    return isinstance(node, ast.Constant) and node.value is value


def banned_in_call(call: ast.Call, name: str) -> Iterator[str]:
    """The banned arguments of one call."""
    keywords = {keyword.arg: keyword.value for keyword in call.keywords}
    if name == "torch.load" and "weights_only" not in keywords:
        yield "torch.load without weights_only=True"
    if "weights_only" in keywords and not is_constant(keywords["weights_only"], True):
        yield "weights_only other than True"
    if "allow_pickle" in keywords and not is_constant(keywords["allow_pickle"], False):
        yield "allow_pickle other than False"
    for unsafe in ("unsafe_allow_html", "unsafe_allow_javascript"):
        if unsafe in keywords and not is_constant(keywords[unsafe], False):
            body = call.args[0] if call.args else keywords.get("body")
            if not isinstance(body, ast.Constant):
                yield f"{unsafe} with data"


def banned(tree: ast.AST) -> Iterator[str]:
    """Every banned use in a file, as `line: what`."""
    names = full_names(tree)
    for node in ast.walk(tree):
        found: list[str] = []
        if isinstance(node, ast.Name | ast.Attribute):
            name = dotted(node, names)
            found += [name] if name in LOADERS else []
            found += [name] if name.removeprefix("builtins.") in BUILTINS else []
        if isinstance(node, ast.Call):
            found += banned_in_call(node, dotted(node.func, names))
        yield from (f"{node.lineno}: {what}" for what in found)


@pytest.mark.parametrize(
    "code",
    [
        "import pickle\npickle.load(f)",
        "import pickle as p\np.loads(f)",
        "from pickle import load as read\nread(f)",
        "from pickle import Unpickler\nclass Safe(Unpickler): ...",
        "import torch\ntorch.export.load(f)",
        "import torch as t\nt.jit.load(f)",
        "from torch import jit\njit.load(f)",
        "import torch.jit\ntorch.jit.load(f)",
        "import torch\ntorch.load(f)",
        "import torch\ntorch.load(f, weights_only=False)",
        "import torch\ntorch.load(f, weights_only=flag)",
        "import numpy as np\nnp.load(f, allow_pickle=True)",
        "import joblib\njoblib.load(f)",
        "import pandas as pd\npd.read_pickle(f)",
        "eval('1')",
        "run = exec",
        "map(eval, lines)",
        "import builtins\nbuiltins.exec(x)",
        "st.markdown(name, unsafe_allow_html=True)",
        "st.markdown(f'<b>{name}</b>', unsafe_allow_html=True)",
        "st.markdown('<b>' + name, unsafe_allow_html=True)",
        "st.markdown(body=name, unsafe_allow_html=True)",
        "st.html(name, unsafe_allow_javascript=True)",
    ],
)
def test_the_checker_catches(code: str) -> None:
    assert list(banned(ast.parse(code)))


@pytest.mark.parametrize(
    "code",
    [
        "model.eval()",
        "frame.eval('a + b')",
        "import torch\ntorch.load(f, weights_only=True)",
        "import numpy as np\nnp.load(f, allow_pickle=False)",
        "import json\njson.load(f)",
        "load(f)",
        "st.markdown('<b>fixed</b>', unsafe_allow_html=True)",
        "st.markdown(name)",
    ],
)
def test_the_checker_lets_pass(code: str) -> None:
    assert list(banned(ast.parse(code))) == []


def test_nothing_banned_in_source(sources: Sources) -> None:
    assert sources
    assert [f"{path}:{found}" for path, tree in sources.items() for found in banned(tree)] == []
