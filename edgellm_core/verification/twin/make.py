"""Makes a model's twin: a checkpoint with small sizes, short lengths and random weights in a folder."""

from __future__ import annotations

import contextlib
import json
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from edgellm_core.untrusted import read_json_object
from edgellm_core.verification.twin.lengths import shorten
from edgellm_core.verification.twin.original import original_of
from edgellm_core.verification.twin.shrink import shrink
from edgellm_core.verification.twin.thresholds import find_thresholds

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from transformers import PreTrainedConfig, PreTrainedModel

    from edgellm_core.verification.twin.lengths import Edge

KEPT_KEYS: Final = ("model_type", "architectures", "auto_map")
"""What config.json of a twin says as the checkpoint's does, whatever class of transformers wrote it."""


@dataclass(frozen=True, kw_only=True)
class Twin:
    """A twin on disk.

    Attributes:
        directory: a checkpoint in float32: config.json and safetensors.
        config: transformers config.
        edges: the lengths where its behaviour changes.
    """

    directory: Path
    config: PreTrainedConfig
    edges: list[Edge]

    @property
    def vocabulary(self) -> int:
        """Number of tokens."""
        return int(self.config.get_text_config().vocab_size)

    def original(self) -> PreTrainedModel:
        """Return the model as transformers loads it from the files, in float32."""
        import torch

        from edgellm_core.tracing.weightless import causal_lm_class

        model_class: Any = causal_lm_class(self.config)
        with _no_progress_bars():
            model: PreTrainedModel = model_class.from_pretrained(
                self.directory, config=self.config, dtype=torch.float32, attn_implementation="eager"
            )
        model.eval()
        return model


def make_twin(
    config: PreTrainedConfig,
    prepare: Callable[[PreTrainedConfig], None],
    stated: Mapping[str, Any],
    directory: Path,
    *,
    code: Path | None = None,
) -> Twin:
    """Write the twin of a model.

    Args:
        config: transformers config of the model; not changed.
        prepare: what the family changes in a config.
        stated: contents of the model's config.json.
        directory: folder to create.
        code: folder with the checkpoint's own Python files; None where transformers' code runs.

    Raises:
        TwinNotMadeError: there is no small model of the kind.
    """

    def make_config(fields: Mapping[str, Any]) -> PreTrainedConfig:
        made: PreTrainedConfig = type(config).from_dict(dict(fields))
        prepare(made)
        return made

    with one_thread():
        small = shrink(config, make_config)
        fields, edges = shorten(small.fields, find_thresholds(small))
        made = make_config(fields)
        model = original_of(made, dict(small.model.named_parameters()))
        with _no_progress_bars():
            model.save_pretrained(directory)
    path = directory / "config.json"
    kept = {key: stated[key] for key in KEPT_KEYS if key in stated}
    path.write_text(json.dumps({**read_json_object(path), **kept}, indent=2), encoding="utf-8")
    for file in code.glob("*.py") if code else ():
        shutil.copyfile(file, directory / file.name)
    return Twin(directory=directory, config=made, edges=edges)


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Run torch on one thread in the body: the threads of a twin would mostly wait for each other."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@contextlib.contextmanager
def _no_progress_bars() -> Iterator[None]:
    """Keep transformers' bars off the terminal."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
