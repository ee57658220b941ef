"""Parts of the Quantize page: one tab a file."""
