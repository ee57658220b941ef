"""Quantization against nearest rounding and against peers, in one run: `python -m benchmarks.quantize`."""
