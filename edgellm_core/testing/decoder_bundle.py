"""A whole bundle around the small hand-written decoder."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from edgellm_core.testing.checkpoints import write_tokenizer
from edgellm_core.testing.decoder_graph import DecoderShape, write_decoder_graph

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from edgellm_core.bundle import Bundle


def write_decoder_bundle(
    directory: Path,
    *,
    shape: DecoderShape | None = None,
    element_type: str = "FLOAT",
    config: Mapping[str, Any] | None = None,
    files: Mapping[str, str] | None = None,
) -> Bundle:
    """Write and load a bundle that ``edgellm run`` and ``edgellm engine`` take.

    Args:
        directory: folder to create.
        shape: sizes of the decoder; small ones by default.
        element_type: ONNX's name of the type of its weights.
        config: contents of config.json.
        files: further files of ``llm`` by name, or other contents for tokenizer files.
    """
    from edgellm_core.bundle import load_bundle

    shape = shape or DecoderShape()
    llm = directory / "llm"
    llm.mkdir(parents=True)
    write_decoder_graph(llm / "model.onnx", shape, element_type=element_type)
    write_tokenizer(llm, vocab_size=shape.vocab)
    stated = {"max_position_embeddings": 64} if config is None else config
    (llm / "config.json").write_text(json.dumps(stated), encoding="utf-8")
    for name, text in (files or {}).items():
        (llm / name).write_text(text, encoding="utf-8")
    _write_manifest(directory)
    return load_bundle(directory)


def _write_manifest(directory: Path) -> None:
    from edgellm_core.bundle import (
        FamilyRecord,
        Manifest,
        SourceRecord,
        VerificationRecord,
        file_records,
        write_manifest,
    )

    manifest = Manifest(
        source=SourceRecord(kind="directory", id="hand-written", revision=None, digest="none"),
        family=FamilyRecord(name="llama", plugin="none", version="0"),
        target="onnx",
        precision="fp32",
        versions={},
        stages=(),
        verification=VerificationRecord(status="skipped"),
        surgery=(),
        files=tuple(file_records(directory)),
    )
    write_manifest(directory, manifest)
