"""Benchmarks: each prints a markdown table with machine, date, medians and spreads."""
