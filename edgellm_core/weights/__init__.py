"""Weights: recipes, the streaming binder, and strict accounting of what was used."""
