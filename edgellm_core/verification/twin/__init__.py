"""The twin: a model's config with its sizes shrunk, run at lengths on both sides of every threshold."""
