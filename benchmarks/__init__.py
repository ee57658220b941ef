"""Benchmarks: each prints a markdown table with machine, date, medians and spreads."""

import os

from modelopt_core.machine import cores

cores.share_cores(os.environ)  # as the app does, before PyTorch is imported
