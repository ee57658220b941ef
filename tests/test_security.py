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

# Streamlit's calls whose first argument is drawn as Markdown, and the arguments of any of its calls that are.
TEXTS = {"badge", "caption", "error", "header", "info", "markdown", "metric", "subheader", "success", "title", "toast",
         "warning", "write"}  # fmt: skip
LABELS = {"button", "checkbox", "download_button", "expander", "form_submit_button", "link_button", "multiselect",
          "number_input", "pills", "popover", "radio", "segmented_control", "selectbox", "select_slider", "slider",
          "text_input", "toggle"}  # fmt: skip
OURS = {"pages/draw/say.py", "pages/state/controls.py"}  # escapes; and draws the Field lines of our own steps


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


def fixed(node: ast.expr) -> bool:
    """Is the text written in the source, or escaped? Names in capitals are constants."""
    if isinstance(node, ast.Constant):
        return True
    if isinstance(node, ast.Name | ast.Attribute | ast.Subscript):
        name = node.value if isinstance(node, ast.Subscript) else node
        return ast.unparse(name).rpartition(".")[2].isupper()
    if isinstance(node, ast.IfExp):
        return fixed(node.body) and fixed(node.orelse)
    if isinstance(node, ast.BoolOp):
        return all(map(fixed, node.values))
    return isinstance(node, ast.Call) and ast.unparse(node.func) == "plain"


def drawn_as_markdown(tree: ast.AST) -> Iterator[str]:
    """Text that a call of Streamlit's draws as Markdown and that may be a stranger's, as `line: what`."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            continue
        name, owner = node.func.attr, ast.unparse(node.func.value)
        texts = [k.value for k in node.keywords if k.arg == "help" or (k.arg == "text" and name == "progress")]
        if name in TEXTS | LABELS and owner not in ("say", "bench"):
            texts += node.args[:1] + [k.value for k in node.keywords if k.arg in ("label", "body")]
        yield from (f"{node.lineno}: {name}({ast.unparse(text)})" for text in texts if not fixed(text))


@pytest.mark.parametrize(
    "code",
    [
        "st.error(str(error))",
        "st.caption(f'{name} is absent')",
        "column.button(names[0])",
        "st.button('Run', help=problem)",
        "st.toast(body=note)",
        "st.progress(0.5, text=said)",
        "st.warning('no ' + name)",
        "st.caption(HIDDEN if hidden else why)",
    ],
)
def test_a_strangers_markdown_is_seen(code: str) -> None:
    assert len(list(drawn_as_markdown(ast.parse(code)))) == 1


@pytest.mark.parametrize("code", ["say.error(error)", "st.caption(plain(name))", "st.button('Run', help=ABOUT)"])
def test_escaped_and_constant_text_passes(code: str) -> None:
    assert list(drawn_as_markdown(ast.parse(code))) == []


def test_no_strangers_text_is_drawn_as_markdown(sources: Sources) -> None:
    """An image in it would be fetched. pages/draw/say.py escapes; that its escapes hold is seen in a browser."""
    screens = {path: tree for path, tree in sources.items() if path == "app.py" or path.startswith("pages/")}
    assert screens.keys() >= OURS
    found = {p: list(drawn_as_markdown(tree)) for p, tree in screens.items() if p not in OURS}
    assert {path: texts for path, texts in found.items() if texts} == {}


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
