"""``edgellm surgery``: ONNX files of other exporters, rewritten and compared with what they were."""
