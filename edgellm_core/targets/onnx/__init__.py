"""Target ``onnx``: standard operators only, for ONNX Runtime and TensorRT."""
