"""From a config to a weightless ONNX graph in semantic operators, one decoder layer of each kind."""
