"""R14 with faults put into the job's own process: the state is told, the last good model stays, the next run works."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import modelopt_core as mo
from modelopt_core.studies import jobs
from tests.waiting import wait_until

# Python runs sitecustomize at its start. The first report of the job comes when PyTorch is there and training is not.
SITECUSTOMIZE = """
import os
from modelopt_core.studies.jobs.worker import Worker

report, left = Worker.__call__, [int(os.environ.get("FAULT_AT", "0"))]

def first_report(worker, event):
    from modelopt_core.training import loop as train
    step = train._step

    def faulty(*arguments):
        left[0] -= 1
        if left[0] == 0 and os.environ["FAULT"] == "memory":
            raise MemoryError
        return float("nan") if left[0] == 0 else step(*arguments)

    Worker.__call__, train._step = report, faulty
    return report(worker, event)

if left[0]:
    Worker.__call__ = first_report
"""
BATCHES = 17  # of digits, in an epoch


@pytest.mark.parametrize(
    ("fault", "sentence"), [("nan", "loss is nan in epoch 4; choose lr below"), ("memory", "out of memory; choose a ")]
)
def test_a_fault_in_the_fourth_epoch(
    fault: str, sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sitecustomize.py").write_text(SITECUSTOMIZE)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("FAULT", fault)
    monkeypatch.setenv("FAULT_AT", str(3 * BATCHES + 5))
    step = mo.Finetune(epochs=6)
    job = jobs.start((step,), ["mlp"], "digits", threads=1, folder=tmp_path / "jobs")
    wait_until(lambda: job.ended, "the job to end")
    assert job.state == "failed"
    assert sentence in (job.error or "")
    assert job.progress is not None
    assert job.progress.values["epoch"] == 3  # the last that went well
    best = job.best()
    assert best is not None
    assert all(bool(torch.isfinite(p).all()) for p in best.parameters())

    monkeypatch.delenv("FAULT_AT")
    seen = len(job.events())
    job.resume()
    wait_until(lambda: job.ended, "the job to end")
    assert (job.state, job.error) == ("done", None)
    assert any(e.get("values", {}).get("epoch") == 6 for e in job.events(seen))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    expected = step.apply(mo.baseline("digits", "mlp"), mo.workload("digits"))
    torch.set_num_threads(threads)
    result = job.result()[-1].model
    assert all(torch.equal(a, b) for a, b in zip(result.parameters(), expected.parameters(), strict=True))
