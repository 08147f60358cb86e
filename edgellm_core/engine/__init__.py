"""TensorRT and TensorRT for RTX: one builder over both packages."""
