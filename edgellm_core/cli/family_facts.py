"""What a config.json says of its family: claims, modeling code, a small config, and what can't be read out of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgellm_core.cli.errors import ClaimedFamilyError, ConfigWithoutFamilyError
from edgellm_core.contract import ModelFamily
from edgellm_core.untrusted import read_json_object

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from transformers import PreTrainedConfig

    from edgellm_core.host import PluginHost


@dataclass(frozen=True, kw_only=True)
class FamilyFacts:
    """What a family's folder is written from.

    Attributes:
        model_type: value of config.json that the family claims.
        architectures: values that it claims; may be empty.
        modeled_as: ``model_type`` of transformers that computes it; empty where that is its own.
        tiny_config: contents of a small config.json.
        unread: keys of config.json that nothing reads.
    """

    model_type: str
    architectures: tuple[str, ...]
    modeled_as: str
    tiny_config: Mapping[str, Any]
    unread: tuple[str, ...] = ()


def read_family_facts(path: Path, modeled_as: str, host: PluginHost) -> FamilyFacts:
    """Read what a real config.json says of its family.

    Args:
        path: the file, or the folder that holds it.
        modeled_as: ``model_type`` of transformers whose code computes it; empty for its own.
        host: the families that exist.

    Raises:
        ConfigWithoutFamilyError: it names no model, or one that transformers does not know.
        ClaimedFamilyError: a family claims it already.
        TwinNotMadeError: there is no small model of the kind.
        EdgellmError: it can't be read, or transformers refuses its values.
    """
    from edgellm_core.verification.twin.small_config import small_config

    file = path / "config.json" if path.is_dir() else path
    stated = read_json_object(file)
    model_type, architectures = _claims(file, stated, host)
    loaded, unread = _load(file, stated, model_type, modeled_as)
    tiny = {"model_type": model_type, "architectures": list(architectures), **small_config(loaded)}
    return FamilyFacts(
        model_type=model_type,
        architectures=architectures,
        modeled_as=modeled_as,
        tiny_config={key: value for key, value in tiny.items() if value != []},
        unread=unread,
    )


def _claims(file: Path, stated: Mapping[str, Any], host: PluginHost) -> tuple[str, tuple[str, ...]]:
    from edgellm_core.host.selection import GENERIC, architectures_of

    model_type = stated.get("model_type")
    if not isinstance(model_type, str) or not model_type:
        raise ConfigWithoutFamilyError(file, "has no model_type", "Give the config.json of a checkpoint.")
    architectures = tuple(architectures_of(stated))
    selected = host.select({"model_type": model_type, "architectures": list(architectures)})
    if selected.family.name != GENERIC:
        raise ClaimedFamilyError(file, selected.family.name, selected.reason)
    return model_type, architectures


def _load(
    file: Path, stated: Mapping[str, Any], model_type: str, modeled_as: str
) -> tuple[PreTrainedConfig, tuple[str, ...]]:
    """Return transformers' config, without the keys that nothing reads, and these keys."""
    from edgellm_core.tracing.configuration import load_config
    from edgellm_core.tracing.errors import UnreadConfigKeysError, UnsupportedArchitectureError

    family = _unwritten_family(model_type, modeled_as)
    try:
        return load_config(file.parent, stated, family), ()
    except UnreadConfigKeysError as error:
        read = {key: value for key, value in stated.items() if key not in error.keys}
        return load_config(file.parent, read, family), error.keys
    except UnsupportedArchitectureError as error:
        problem = f"has model_type {modeled_as or model_type!r}, which transformers has no causal language model for"
        remedy = (
            "Name the model_type of transformers that computes it with --modeled-as, such as llama, or bring modeling "
            "code with register_model (docs/how-to/add-a-family.md)."
        )
        raise ConfigWithoutFamilyError(file, problem, remedy) from error


def _unwritten_family(model_type: str, computed_as: str) -> ModelFamily:
    """Return the family as it will be before anybody adds to it."""

    class Unwritten(ModelFamily):
        name = model_type
        model_types = (model_type,)
        modeled_as = computed_as

    return Unwritten()


def open_questions(facts: FamilyFacts) -> Sequence[str]:
    """Say what config.json does not tell about a family, a sentence each."""
    questions = [
        "A chat template for checkpoints that ship without one (chat_template.jinja in the folder).",
        "How its GGUF files are written (gguf_forms); without it GGUF files of the family are refused.",
        "What is special about it, for README.md.",
    ]
    if not facts.architectures:
        questions.insert(0, "The architectures that it claims: config.json names none.")
    if facts.unread:
        keys = ", ".join(repr(key) for key in facts.unread)
        questions.insert(
            0,
            f"Whether {keys} of config.json, which nothing reads, can change the math: if not, list them in "
            "harmless_config_keys; if they can, compute them (module_forwards, prepare_config).",
        )
    return questions
