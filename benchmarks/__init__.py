"""Benchmarks: each prints a markdown table with machine, date, medians and spreads."""

import os

from modelopt_core import turns

turns.share_cores(os.environ)  # as the app does, before PyTorch is imported
