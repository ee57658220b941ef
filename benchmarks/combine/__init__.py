"""Several models as one, measured: `python -m benchmarks.combine [part …]`.

Whatever is chosen is chosen on val; what is reported is test.
"""
