"""Compact model files that are counted, saved and loaded again."""
