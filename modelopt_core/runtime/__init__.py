"""Running a model: PyTorch or ONNX Runtime, float or integer, and how long it takes."""
