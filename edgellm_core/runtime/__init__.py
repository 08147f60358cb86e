"""Generation over ONNX Runtime from a bundle alone; ``edgellm run`` and verification use it."""
