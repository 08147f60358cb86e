"""The transformers config of a checkpoint: loading it, and refusing keys of config.json that nothing reads."""

from __future__ import annotations

import dataclasses
import inspect
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from edgellm_core.checkpoint.family_code import register_model
from edgellm_core.checkpoint.own_code import own_classes
from edgellm_core.errors import one_line
from edgellm_core.tracing.errors import InvalidConfigError, UnreadConfigKeysError, UnsupportedArchitectureError
from edgellm_core.tracing.left_out import FURTHER_TOKENS
from edgellm_core.tracing.remote_code import load_own_config_class, refuse_untrusted

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from transformers import PreTrainedConfig

    from edgellm_core.contract import ModelFamily

METADATA_KEYS: Final = frozenset(
    {
        "_attn_implementation", "_attn_implementation_autoset", "_attn_implementation_internal", "_auto_class",
        "_commit_hash", "_configuration_file", "_experts_implementation", "_experts_implementation_internal",
        "_flash_attn_2_enabled", "_from_auto", "_from_pipeline", "_is_quantized", "_model_name_or_path",
        "_name_or_path", "_output_attentions", "architectures", "attn_implementation", "auto_map", "bos_token_id",
        "classifier_dropout", "custom_pipelines", "decoder_start_token_id", "dtype", "eos_token_id",
        "experts_implementation", "gguf_file", "id2label", "initializer_range", "label2id", "license",
        "model_max_length", "model_name_or_path", "model_type", "name_or_path", "output_attentions",
        "output_hidden_states", "pad_token_id", "pretraining_tp", "sep_token_id", "task_specific_params",
        "tokenizer_class", "torch_dtype", "transformers.js_config", "transformers_version", "unk_token_id",
        "unsloth_fixed", "unsloth_version", "use_cache",
    }
)  # fmt: skip
"""Keys of config.json that describe the checkpoint, its training or its loading and never the forward pass.

Most that begin with an underscore are written by loaders (transformers, ``PreTrainedConfig.to_dict``; Unsloth); others
with one, like ``_sliding_window_pattern``, do change it.
"""

HANDLED_ELSEWHERE: Final = frozenset(
    {
        "model_type", "quantization_config",
        "_attn_implementation", "_attn_implementation_autoset", "_attn_implementation_internal",
        "_experts_implementation", "_experts_implementation_internal", "attn_implementation", "experts_implementation",
        "output_attentions", "output_hidden_states", "return_dict", "torchscript", "use_cache",
    }
)  # fmt: skip
"""Keys that are not for the config that is traced: they choose its class or kernels that some machine has, say how
weights are stored, or what a forward returns beside the logits and in which container."""

GENERATION_KEYS: Final = frozenset(
    {
        "bad_words_ids", "begin_suppress_tokens", "cache_implementation", "diversity_penalty", "do_sample",
        "early_stopping", "encoder_no_repeat_ngram_size", "exponential_decay_length_penalty", "forced_bos_token_id",
        "forced_eos_token_id", "length_penalty", "max_length", "min_length", "no_repeat_ngram_size", "num_beam_groups",
        "num_beams", "num_return_sequences", "output_scores", "prefix", "remove_invalid_values", "repetition_penalty",
        "return_dict", "return_dict_in_generate", "suppress_tokens", "temperature", "tf_legacy_loss", "top_k", "top_p",
        "typical_p", "problem_type", "finetuning_task", "pruned_heads", "add_cross_attention",
        "chunk_size_feed_forward", "cross_attention_hidden_size", "is_encoder_decoder", "tie_encoder_decoder",
        "torchscript", "use_bfloat16",
    }
)  # fmt: skip
"""Generation and bookkeeping keys that transformers 4 wrote into every config.json."""

READS: Final = (
    r"\bconfig\.{key}\b(?!\s*=[^=])",
    r"\bgetattr\(\s*(?:self\.)?config,\s*[\"']{key}[\"']",
    r"\bkwargs\.(?:get|pop)\([\"']{key}[\"']",
)
"""How the code of a model reads a key that its config class does not declare."""

LEGACY_ROPE_KEYS: Final = frozenset({"rope_theta", "rope_scaling", "partial_rotary_factor", "rope_local_base_freq"})
"""RoPE keys of transformers 4 that transformers 5 moves into ``rope_parameters``."""

NO_CAUSAL_LM: Final = "has no causal language model for it"


def load_config(
    directory: Path,
    config: Mapping[str, Any],
    family: ModelFamily,
    nearest: Callable[[Mapping[str, Any]], Sequence[str]] = lambda _config: (),
    *,
    trust_remote_code: bool = False,
) -> PreTrainedConfig:
    """Return the transformers config of a checkpoint, as the family wants it.

    Args:
        directory: folder with config.json.
        config: its parsed contents.
        family: the family that was selected; what it is modeled as is used where transformers does not know the
            checkpoint's own ``model_type``.
        nearest: names of families near a config, for the error message.
        trust_remote_code: run the modeling code that the checkpoint brings itself, if it does; it then decides over
            transformers' own.

    Raises:
        UnsupportedArchitectureError: transformers has no causal language model for it.
        UntrustedCodeError: the checkpoint's own code does, and is not trusted.
        FailedCodeError: that code can't be used.
        InvalidConfigError: transformers refuses its values.
        UnreadConfigKeysError: it has keys that neither transformers nor the family reads.
    """
    register_model(family)
    if trust_remote_code and own_classes(config):
        config_class = load_own_config_class(directory, config)
    else:
        config_class = _known_class(directory, config, family, nearest)
    fields = {key: _special_floats(value) for key, value in config.items() if key not in HANDLED_ELSEWHERE}
    try:
        loaded: PreTrainedConfig = config_class.from_dict(fields)
    except Exception as error:  # a config class computes with what it is given, and can raise any class
        raise InvalidConfigError(directory, f"{type(error).__name__}: {one_line(error)}") from error
    refuse_unread_keys(config, loaded, family)
    family.prepare_config(loaded)
    return loaded


def _known_class(
    directory: Path,
    config: Mapping[str, Any],
    family: ModelFamily,
    nearest: Callable[[Mapping[str, Any]], Sequence[str]],
) -> type[PreTrainedConfig]:
    """Return transformers' own config class of a checkpoint."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

    model_type = config.get("model_type")
    known = next(
        (name for name in (model_type, family.modeled_as, *family.model_types) if name in CONFIG_MAPPING), None
    )
    found: type[PreTrainedConfig] | None = CONFIG_MAPPING[known] if known else None
    if found is None or found not in MODEL_FOR_CAUSAL_LM_MAPPING:
        refuse_untrusted(directory, config)
        reason = "the installed transformers " + ("does not know it" if known is None else NO_CAUSAL_LM)
        if family.model_types and known is None:
            reason += f", nor does family {family.name!r} register it (register_model, modeled_as)"
        families = None if known else [name for name in nearest(config) if name != family.name]
        raise UnsupportedArchitectureError(model_type, config.get("architectures"), reason, families)
    return found


def refuse_unread_keys(config: Mapping[str, Any], loaded: PreTrainedConfig, family: ModelFamily) -> None:
    """Refuse keys of config.json that transformers does not read for the model and that could change the math.

    A key whose value is None, False, 0 or empty switches nothing on and is let through.

    Raises:
        UnreadConfigKeysError: naming the keys.
    """
    known = (
        METADATA_KEYS
        | GENERATION_KEYS
        | HANDLED_ELSEWHERE
        | declared_keys(type(loaded))
        | set(family.harmless_config_keys)
        | set(FURTHER_TOKENS)
    )
    if hasattr(loaded, "rope_parameters"):
        known |= LEGACY_ROPE_KEYS
    stated = [key for key, value in config.items() if key not in known and value not in (None, False, "", [], {})]
    unread = [key for key in stated if not is_read(key, type(loaded)) and not is_derived(key, config, type(loaded))]
    if unread:
        raise UnreadConfigKeysError(unread, family.name)


def declared_keys(config_class: type[PreTrainedConfig]) -> set[str]:
    """Return the names that a transformers config class declares: its fields, arguments and aliases."""
    names = set(config_class.attribute_map) | set(config_class.attribute_map.values())
    if dataclasses.is_dataclass(config_class):
        names |= {field.name for field in dataclasses.fields(config_class)}
    return names | set(inspect.signature(config_class.__init__).parameters)


def is_derived(key: str, config: Mapping[str, Any], config_class: type[PreTrainedConfig]) -> bool:
    """Return whether the config class computes a key's value from the others, so that stating it changes nothing."""
    others = {name: value for name, value in config.items() if name != key and name not in HANDLED_ELSEWHERE}
    try:
        without: Any = config_class.from_dict({name: _special_floats(value) for name, value in others.items()})
    except Exception:  # noqa: BLE001 - the class can't do without the key, and can raise any class then
        return False
    return bool(getattr(without, key, None) == config[key])


def _special_floats(value: Any) -> Any:
    """Return a value of config.json with ``{"__float__": "Infinity"}`` as the number (transformers' spelling)."""
    if isinstance(value, dict):
        return float(value["__float__"]) if set(value) == {"__float__"} else value
    return [_special_floats(item) for item in value] if isinstance(value, list) else value


def is_read(key: str, config_class: type[PreTrainedConfig]) -> bool:
    """Return whether the files of a model read a key that its config class does not declare.

    For example ``head_dim``, which many attention modules take if it is there, or ``sliding_window_pattern``, which
    config classes turn into ``layer_types``.
    """
    sources = [path.read_text(encoding="utf-8") for path in _files_of_model(config_class)]
    return any(re.search(form.format(key=re.escape(key)), source) for form in READS for source in sources)


def _files_of_model(config_class: type[PreTrainedConfig]) -> list[Path]:
    """Return the files of a model: by transformers' names, and those that registered classes lie in."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

    own = Path(inspect.getfile(config_class))
    files = {path for kind in ("configuration", "modeling") for path in own.parent.glob(f"{kind}_*.py")}
    if config_class.__module__.partition(".")[0] != "transformers":
        registered: Any = MODEL_FOR_CAUSAL_LM_MAPPING
        classes = (config_class, *([registered[config_class]] if config_class in registered else []))
        files |= {Path(inspect.getfile(found)) for found in classes}
    return sorted(files)
