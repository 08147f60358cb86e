"""Comparison of an exported graph with the original model before anything is published."""
