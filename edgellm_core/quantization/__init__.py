"""Quantized checkpoints: the forms in which a linear layer is stored, and which layer of a checkpoint has which.

Everything speaks of one form on disk, NVIDIA ModelOpt's unified Hugging Face checkpoint; others are converted to it.
"""
