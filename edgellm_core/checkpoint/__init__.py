"""From a source name to a checkpoint on disk: config, tokenizer files and an index of tensors; no weights are read."""
