"""Turns: timings exclude each other and hold up batches; background work waits for a person."""

import threading
import time

from filelock import FileLock

from modelopt_core.machine import cores
from tests.waiting import join, person


def in_thread(work) -> threading.Thread:
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


def test_pause_waits_for_a_stopwatch_but_not_for_ones_own():
    went: list[str] = []
    with cores.stopwatch():
        cores.pause()  # our own: returns at once
        other = in_thread(lambda: (cores.pause(), went.append("batch")))
        time.sleep(0.05)
        assert went == []
    join(other, "the batch that the stopwatch held up")
    assert went == ["batch"]


def test_background_waits_for_a_person_and_others_do_not():
    went: list[str] = []

    def background() -> None:
        with cores.background():
            cores.pause()
            went.append("background")

    with person():
        thread = in_thread(background)
        cores.pause()
        went.append("foreground")
        time.sleep(0.05)
        assert went == ["foreground"]
    join(thread, "the background")
    assert went == ["foreground", "background"]


def test_workers_of_a_background_thread_stand_still_too():
    made = []
    with cores.background():
        made.append(cores.pauser(limit_s=5))
    went: list[str] = []
    with person():
        thread = in_thread(lambda: (made[0](), went.append("worker")))
        time.sleep(0.05)
        assert went == []
    join(thread, "the worker")
    assert went == ["worker"]


def test_stopwatches_exclude_each_other():
    running, most = [0], [0]

    def time_something() -> None:
        with cores.stopwatch():
            running[0] += 1
            most[0] = max(most[0], running[0])
            time.sleep(0.01)
            running[0] -= 1

    threads = [in_thread(time_something) for _ in range(4)]
    join(threads, "four timings, one after another")
    assert most == [1]


def test_nobody_waits_for_ever():
    with cores.stopwatch():
        join(in_thread(lambda: cores.pause(limit_s=0.05)), "a pause of at most 0.05 s")


def test_a_job_stands_still_for_the_timing_of_another_process(monkeypatch):
    other = FileLock(cores._machine.lock_file)  # another open file: to the kernel, another process
    went: list[str] = []
    with other:
        cores.pause()  # the app does not care
        monkeypatch.setattr(cores, "_probing", {"on": False, "next_s": 0.0})
        cores.heed_other_processes()
        thread = in_thread(lambda: (cores.pause(), went.append("batch")))
        time.sleep(0.05)
        assert went == []
        join(in_thread(lambda: cores.pause(limit_s=0.05)), "a pause of at most 0.05 s")  # nor for ever
    join(thread, "the batch that the other process held up")
    assert went == ["batch"]
