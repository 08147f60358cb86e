"""Rules over weightless ONNX graphs, run through onnx-graphsurgeon."""
