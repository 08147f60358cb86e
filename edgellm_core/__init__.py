"""edgellm: from a Hugging Face language model to a verified bundle for an edge device."""

from __future__ import annotations
