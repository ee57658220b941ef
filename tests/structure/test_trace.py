"""Tracing beside other threads: what they run stays out of the graph and comes out right."""

import threading

import torch
from torch import nn

from modelopt_core.structure.trace import trace
from tests.waiting import LIMIT_S, join


def test_a_model_that_runs_in_another_thread_is_not_traced():
    net = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)).eval()
    other = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Linear(3, 1)).eval()
    inputs, stop, errors, wrong = torch.ones(2, 3), threading.Event(), [], []
    with torch.no_grad():
        expected = other(inputs)

    def run() -> None:
        while not stop.is_set():
            try:
                with torch.no_grad():
                    result = other(inputs)
                if not torch.equal(result, expected):
                    wrong.append(result)
            except Exception as error:
                errors.append(error)

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    targets = {tuple(str(n.target) for n in trace(net).nodes) for _ in range(150)}
    stop.set()
    join(threads, "the runs of the other model to end")
    assert (errors[:1], wrong[:1]) == ([], [])
    assert targets == {("input", "0", "1", "2", "output")}


def test_tracers_in_several_threads_do_not_disturb_each_other():
    net = nn.Sequential(nn.Linear(4, 4), nn.ReLU()).eval()
    graphs: list[int] = []
    threads = [
        threading.Thread(target=lambda: graphs.extend(len(trace(net).nodes) for _ in range(30))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    join(threads, "thirty traces of each thread", LIMIT_S)
    assert graphs == [4] * 120
    assert nn.Module.__call__.__name__ != "module_call_wrapper"
