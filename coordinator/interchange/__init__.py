"""Models going in and out: PyTorch's tensors, ONNX, LiteRT. docs/models.md has the layouts."""
