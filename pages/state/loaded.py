"""Workloads and baselines, read once for the whole process."""

from __future__ import annotations

import streamlit as st
from torch import nn

import modelopt_core as mo
from modelopt_core.workloads.workload import Workload


@st.cache_resource(show_spinner="Reading the data …")
def load_workload(name: str) -> Workload:
    """The workload, one for the whole process; nothing writes to it."""
    return mo.workload(name)


@st.cache_resource(show_spinner=False)
def load_model(workload: str, name: str) -> nn.Module:
    """The baseline, one for the whole process; steps work on copies of it."""
    return mo.baseline(workload, name)
