"""What a process keeps is bounded in bytes as a whole, and given back when nobody is there any more."""

import ast
import gc
import subprocess
import sys
import weakref

import numpy as np
import pytest
import torch
from torch import nn

import modelopt_core as mo
from benchmarks.soak import resident_mb
from modelopt_core import cache, memory, runtime
from modelopt_core.altered import damaged
from modelopt_core.cache import STORE, Store
from modelopt_core.composite import Composite
from modelopt_core.sound import CHECKED
from modelopt_core.sweep import SWEEPER
from modelopt_core.workload import SPLITS, Pixels
from pages.shared import rest
from pages.shared.rest import Rest
from tests.waiting import LIMIT_S


def test_all_stores_together_are_within_the_bound():
    from pages.shared.work import WATCHED

    own = {STORE, sys.modules["modelopt_core.measure"].SESSIONS, SWEEPER._kept, WATCHED, CHECKED}
    assert own <= set(cache.stores())
    assert sum(store.max_bytes for store in own) <= memory.MOST_BYTES


def test_nobody_has_a_store_beside_those(sources):
    made = [
        path
        for path, tree in sources.items()
        if path.startswith(("modelopt_core/", "pages/"))
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Store"
    ]
    assert sorted(made) == [
        "modelopt_core/cache.py",
        "modelopt_core/measure.py",
        "modelopt_core/sound.py",
        "modelopt_core/sweep.py",
        "pages/shared/work.py",
    ]


def test_a_store_never_holds_more_than_its_bytes():
    store, draw = Store(max_bytes=1000), torch.Generator().manual_seed(0)
    for i in range(300):
        size = int(torch.randint(1, 1500, (), generator=draw))
        store.get(i % 40, lambda i=i: object(), lambda _, size=size: size, lambda _: False)
        assert store.size_bytes == sum(size for _, size in store._items.values()) <= 1000


def test_sessions_weigh_what_their_graphs_weigh():
    w = mo.workload("digits")
    sessions = sys.modules["modelopt_core.measure"].SESSIONS
    sessions.clear()
    sizes = {}
    for name in ("cnn", "mlp"):
        model = mo.baseline("digits", name)
        before = sessions.size_bytes
        made = sys.modules["modelopt_core.measure"].compiled(model, w)
        weights = sum(p.nbytes for p in model.parameters())
        sizes[name] = made.size_bytes
        assert sessions.size_bytes - before == made.size_bytes >= 2 * weights
        assert made.size_bytes < 3 * weights + 2 * runtime.SESSION_BYTES
    assert sizes["cnn"] > sizes["mlp"], "the larger graph weighs more"
    cascade = mo.Cascade().apply([mo.baseline("digits", "mlp"), mo.baseline("digits", "cnn")], w)
    assert isinstance(cascade, Composite)
    for way in ("onnx", "eager"):
        assert runtime.compile(cascade, w, way).size_bytes > sum(p.nbytes for p in cascade.parameters())


def test_many_sessions_of_one_large_network_stay_within_the_bound(monkeypatch):
    """Forty networks of 2 MB: more than fits, counted by an independent sum over what is still alive."""
    measure = sys.modules["modelopt_core.measure"]
    monkeypatch.setattr(measure, "SESSIONS", Store(max_bytes=12 * 2**20))
    w, alive = mo.workload("digits"), []
    for seed in range(40):
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Flatten(), nn.Linear(64, 2000), nn.ReLU(), nn.Linear(2000, 200), nn.Linear(200, 10))
        made = measure.compiled(model.eval(), w)
        alive.append((weakref.ref(made), made.size_bytes))
        del made
    gc.collect()
    held = [size for ref, size in alive if ref() is not None]
    assert 0 < sum(held) <= 12 * 2**20 < sum(size for _, size in alive)


def test_sessions_share_the_memory_that_they_compute_in():
    """Each ran a large batch; with an arena each, thirty would hold thirty times that batch's memory."""
    if not sys.platform.startswith("linux"):
        pytest.skip("reads /proc")
    w, model = mo.workload("digits"), mo.baseline("digits", "cnn")
    batch = w.train.inputs[:1].repeat(4000, 1, 1, 1)

    def one():
        session = runtime.compile(model, w)
        session(batch)
        return session

    kept = [one()]
    before = resident_mb()
    kept += [one() for _ in range(30)]
    grown = resident_mb() - before
    assert grown < 30 * 8, f"30 more sessions took {grown:.0f} MB"
    assert len(kept) == 31


def test_pictures_of_bytes_are_kept_as_bytes_and_taken_as_the_same_floats():
    every = torch.arange(256, dtype=torch.uint8).reshape(64, 1, 2, 2)
    split = Pixels(every, torch.arange(64), range(64))
    floats = torch.tensor([np.float32(v) / np.float32(255) for v in range(256)]).reshape(64, 1, 2, 2)
    assert (split.inputs.dtype, split.kept.dtype, len(split)) == (torch.float32, torch.uint8, 64)
    assert torch.equal(split.inputs, floats)
    at = torch.tensor([3, 60, 3])
    for some in (at, slice(5, 9), [1, 0], 7):
        assert torch.equal(split.take(some), floats[some])
    draw = torch.Generator().manual_seed(0)
    assert torch.equal(torch.cat([x for x, _ in split.batches(7)]), floats)
    assert all(torch.equal(x, floats[y]) for x, y in split.batches(7, draw))
    other = split.asking(torch.zeros(64)).on(torch.device("cpu"))
    assert (other.kept.data_ptr(), float(other.targets.sum())) == (every.data_ptr(), 0)


@pytest.mark.mnist
def test_mnist_and_its_parts_take_a_byte_for_a_pixel():
    w = mo.workload("mnist")
    for found in (w, mo.part(w, "groups"), mo.part(w, "experts/1")):
        for name in SPLITS:
            assert found.split(name).kept.nbytes == len(found.split(name)) * 784
    a = w.split("test").take(slice(3))
    assert (a.dtype, float(a.max())) == (torch.float32, 1.0)


def test_release_gives_everything_back_and_nothing_breaks():
    w, model = mo.workload("digits"), mo.baseline("digits", "cnn")
    small = mo.Prune(ratio=0.4).apply(model, w)
    said = mo.measure(small, w, baseline=model)
    gone = weakref.ref(damaged(w))
    assert STORE.size_bytes > 0
    memory.release()
    assert [(len(store), store.size_bytes) for store in cache.stores() if len(store)] == []
    assert gone() is None
    again = mo.workload("digits")
    assert (again is not w, again.data_hash) == (True, w.data_hash), "loaded anew, and the same"
    redone = mo.Prune(ratio=0.4).apply(mo.baseline("digits", "cnn"), again)
    assert all(torch.equal(a, b) for a, b in zip(small.parameters(), redone.parameters(), strict=True))
    assert mo.measure(redone, again, baseline=model).score == said.score


def test_release_hands_memory_back_to_the_system():
    if not sys.platform.startswith("linux"):
        pytest.skip("reads /proc")
    memory.release()
    before = resident_mb()
    for i in range(60):
        STORE.get(("ballast", i), lambda: np.ones(2**18, np.float64), lambda a: a.nbytes)  # 2 MB, touched
    assert resident_mb() - before > 90
    memory.release()
    assert resident_mb() - before < 40


HOLES = """
import sys
import numpy as np
from benchmarks.soak import resident_mb
from modelopt_core import memory
if sys.argv[1] == "with":
    memory.few_arenas()
np.ones(30 * 2**20, np.uint8)  # by itself malloc keeps blocks of up to this size in its heaps from now on
before, small = resident_mb(), []
large = []
for _ in range(10):
    large.append(np.ones(12 * 2**20, np.uint8))
    small.append(np.ones(50_000, np.uint8))
del large
print(resident_mb() - before)
"""


def test_large_blocks_leave_no_holes_between_small_ones():
    if not sys.platform.startswith("linux"):
        pytest.skip("asks glibc")

    def left(how: str) -> float:
        said = subprocess.run(
            [sys.executable, "-c", HOLES, how], capture_output=True, text=True, check=True, timeout=LIMIT_S
        )
        return float(said.stdout)

    assert left("without") > 100, "without it, there is nothing to mend"
    assert left("with") < 10


def test_while_somebody_is_here_what_the_sessions_compute_in_is_given_back(monkeypatch):
    class Enough(Exception):
        pass

    done = []

    def sleep(_: float) -> None:
        if done:
            raise Enough

    monkeypatch.setattr(rest.time, "sleep", sleep)
    monkeypatch.setattr(rest, "somebody", lambda: True)
    monkeypatch.setattr(runtime, "shrink", lambda: done.append("shrink"))
    monkeypatch.setattr(memory, "trim", lambda: done.append("trim"))
    with pytest.raises(Enough):
        rest._watch()
    assert done == ["shrink", "trim"]


def test_rest_comes_once_after_the_last_visitor():
    rest = Rest(absent_s=60)
    assert [rest.look(False, at) for at in (0, 100, 1000)] == [False] * 3, "the start prepares for the first visitor"
    assert not rest.look(True, 1000)
    assert [rest.look(False, at) for at in (1015, 1059, 1060, 1075, 5000)] == [False, False, True, False, False]
    assert not rest.look(True, 6000)
    assert [rest.look(False, 6030), rest.look(True, 6059), rest.look(False, 6100)] == [False, False, False]
    assert rest.look(False, 6119)
