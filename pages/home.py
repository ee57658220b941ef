"""Home: what this is, three doors to a live Dial, and the baselines of the workload, measured here and now."""

import streamlit as st

from pages.frame import doors
from pages.state import bench
from pages.tabs import baselines

here = bench.current()
st.html(
    '<header class="mo-hero"><h1>Make a model smaller and faster, and see what it costs.</h1>'
    "<p>Move one slider. Score, size and latency are measured on this machine, with intervals, "
    "and every number can be traced to a recipe.</p></header>"
)
doors.draw("pages/prune.py")
baselines.draw(here)
baselines.gallery(here)
