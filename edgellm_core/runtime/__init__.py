"""Generation over ONNX Runtime from a bundle alone; ``edgellm run`` and verification use it."""

from __future__ import annotations

from edgellm_core.runtime.generate import Timings, answer, generate, left_pad
from edgellm_core.runtime.sampling import Sampler, SamplingSettings
from edgellm_core.runtime.session import DecoderSession
from edgellm_core.runtime.text import GenerationResult, TextGenerator, generate_text
from edgellm_core.runtime.tokenizer import BundleTokenizer

__all__ = [
    "BundleTokenizer",
    "DecoderSession",
    "GenerationResult",
    "Sampler",
    "SamplingSettings",
    "TextGenerator",
    "Timings",
    "answer",
    "generate",
    "generate_text",
    "left_pad",
]
