"""A page with nothing but a Dial, for the browser tests. ?mode= chooses a knob; the value Python holds is printed."""

from __future__ import annotations

import json
import time

import streamlit as st

from pages.draw.dial import dial
from pages.draw.say import plain

BASELINE = {"size_bytes": 84_000, "latency_ms": 0.079}
GRID = 101


def row(x: float) -> dict[str, float]:
    """An invented response: the score falls late, size and latency fall with x."""
    score = 0.979 - 0.6 * max(0.0, x - 0.45) ** 4 / 0.55**4
    return {
        "x": x,
        "score": score,
        "score_low": score - 0.018,
        "score_high": min(1.0, score + 0.015),
        "size_bytes": BASELINE["size_bytes"] * (1 - x) ** 1.3,
        "latency_ms": BASELINE["latency_ms"] * (slow - 0.77 * x),
    }


mode = st.query_params.get("mode", "full")
if mode == "boom":
    raise RuntimeError("a secret of the server")
if mode == "text":
    texts = json.loads(st.query_params["texts"])
    for text in texts:
        st.caption(plain(text))
    st.multiselect("chosen", texts, default=texts)
    st.stop()
slow = 1.5 if mode == "slow" else 1.0
xs = [round(i * 0.99 / (GRID - 1), 4) for i in range(GRID)]
if mode == "bits":
    knob = {"low": 1, "high": 8, "step": 1, "label": "Bits per weight", "symbol": "b", "unit": "bits"}
    xs = list(range(1, 9))
elif mode == "log":
    knob = {"low": 1e-4, "high": 1e-1, "step": 0.1, "scale": "log", "label": "Learning rate", "symbol": "lr"}
    xs = [10 ** (-4 + i / 8) for i in range(25)]
else:
    knob = {"low": 0.0, "high": 0.99, "step": 0.01, "label": "Share of weights removed", "symbol": "p"}
if mode == "learn":
    knob["question"] = "Where will it break? Drag to your guess and let go."
if mode == "present":
    knob["height"] = 460
if mode == "sparse":
    xs = xs[::12]
if mode == "noisy":
    xs = [i / 20 for i in range(20)]

state = st.session_state
state.setdefault("ratio", {"bits": 4, "log": 0.01}.get(mode, 0.62))
state.setdefault("runs", 0)
if st.button("reset"):
    state.ratio = knob["low"]


@st.fragment(run_every=0.3 if mode == "stream" else None)
def bench() -> None:
    state.runs += 1
    state.setdefault("begun", time.monotonic())
    done = min(GRID, 5 + int((time.monotonic() - state.begun) / 0.3) * 8) if mode == "stream" else len(xs)
    shown = [xs[i * (len(xs) - 1) // max(1, done - 1)] for i in range(done)]
    points = [row((x - knob["low"]) / knob["high"] if mode in ("bits", "log") else x) | {"x": x} for x in shown]
    if mode == "noisy":  # two timings while somebody held the machine, one of them far above the plot
        for i, ratio in ((4, 1.04), (14, 3.0)):
            points[i] |= {"latency_ratio": ratio, "latency_ratio_low": 0.7 * ratio, "latency_ratio_high": 1.3 * ratio}
        points = [
            {"latency_ratio": p["latency_ms"] / BASELINE["latency_ms"], "noisy": "latency_ratio" in p} | p
            for p in points
        ]
    with st.container(border=True):
        state.ratio = dial(
            "knob",
            value=state.ratio,
            points=points,
            baseline=BASELINE,
            progress=(done, GRID) if mode == "stream" else None,
            **knob,
        )
    st.text(f"held {state.ratio:g} after {state.runs} runs with {done} points")


bench()
