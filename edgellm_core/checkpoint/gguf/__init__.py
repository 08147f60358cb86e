"""GGUF files: reading them, accounting for everything in them, and turning them into safetensors checkpoints."""
