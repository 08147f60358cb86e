"""What can go wrong while a bundle generates text, one class per cause."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgellm_core.errors import EdgellmError, UserError, shown

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


class GraphLoadError(EdgellmError):
    """ONNX Runtime refused the graph."""

    def __init__(self, path: Path, reason: str) -> None:
        """Build ``ONNX Runtime can't load model.onnx: <reason>``."""
        super().__init__(f"ONNX Runtime can't load {path}: {reason}. Build the bundle again.")


class GraphRunError(EdgellmError):
    """ONNX Runtime stopped in the middle of a step."""

    def __init__(self, path: Path, reason: str) -> None:
        """Build ``ONNX Runtime can't run model.onnx: <reason>``."""
        super().__init__(f"ONNX Runtime can't run {path}: {reason}.")


class GraphContractError(EdgellmError):
    """The graph is not one of target ``onnx``."""

    def __init__(self, path: Path, problem: str) -> None:
        """Build ``model.onnx is no graph of target 'onnx': <problem>.``."""
        super().__init__(f"{path} is no graph of target 'onnx': {problem}. Export it with --target onnx.")


class CacheTypeError(EdgellmError):
    """config.json of a bundle says another type of KV cache than its graph has."""

    def __init__(self, path: Path, stated: str, found: Sequence[str]) -> None:
        """Build ``config.json beside model.onnx must name the type of its KV cache, fp8; it says fp16.``."""
        super().__init__(
            f"config.json beside {path} must name the type of its KV cache, {' and '.join(found)}; it says {stated!r}. "
            "Build the bundle again."
        )


class RopeConfigError(EdgellmError):
    """The runtime of TensorRT-Edge-LLM makes no table of RoPE from config.json."""

    def __init__(self, reason: str) -> None:
        """Build ``The runtime of TensorRT-Edge-LLM can't make a table of RoPE from config.json: <reason>.``."""
        super().__init__(
            f"The runtime of TensorRT-Edge-LLM can't make a table of RoPE from config.json: {reason}. Build the bundle "
            "again."
        )


class RuntimeTokenizerError(EdgellmError):
    """The tokenizer of TensorRT-Edge-LLM can't read tokenizer.json, or a text."""

    def __init__(self, reason: str) -> None:
        """Build ``The tokenizer of TensorRT-Edge-LLM can't read it: <reason>.``."""
        self.reason = reason
        super().__init__(f"The tokenizer of TensorRT-Edge-LLM can't read it: {reason}. Pass token ids to the runtime.")


class PluginAttributeError(UserError):
    """A plugin node does what has no reference on the CPU."""

    def __init__(self, attribute: str, plugin: str = "AttentionPlugin", needed: object = 0) -> None:
        """Name the attribute, its plugin, and the only value that there is a reference for."""
        super().__init__(
            f"{plugin} must have {attribute} {needed} to run on the CPU; it has another. Run it with TensorRT-Edge-LLM."
        )


class TokenizerFileError(UserError):
    """A tokenizer file is missing or can't be read."""

    def __init__(self, path: Path, reason: str) -> None:
        """Build ``<path> can't be used: <reason>. …``."""
        super().__init__(f"{path} can't be used: {reason}. Build the bundle again from a model with a tokenizer.json.")


class NoChatTemplateError(UserError):
    """A chat was asked of a model without chat template."""

    def __init__(self, directory: Path) -> None:
        """Build ``--chat needs a chat template, and … has none.``."""
        super().__init__(
            f"--chat needs a chat template, and {directory} has none (a base model?). Leave --chat out, "
            "or build from an instruction-tuned model."
        )


class ChatTemplateError(UserError):
    """The chat template refused the messages or is broken."""

    def __init__(self, reason: str) -> None:
        """Build ``The chat template failed: <reason>.``."""
        self.reason = reason
        super().__init__(f"The chat template failed: {reason}. Change the messages, or leave --chat out.")


class TemplateLimitError(UserError):
    """A chat template takes more time or memory than any real one."""

    def __init__(self, what: str) -> None:
        """Build ``The chat template is ended for …``."""
        super().__init__(
            f"The chat template is ended for {what}. Put the model's own template into chat_template.jinja, or "
            "remove it."
        )


class EmptyPromptError(UserError):
    """There is no token to begin with."""

    def __init__(self) -> None:
        """Build ``The prompt has no tokens.``."""
        super().__init__("The prompt must have at least one token; got none. Give some text, or use --chat.")


class InvalidTextError(UserError):
    """The text is no Unicode text."""

    def __init__(self, position: int, character: str) -> None:
        """Name the character."""
        super().__init__(
            f"Text must be valid Unicode; character {position} is {character!a}, half of a pair, which bytes that "
            "are not UTF-8 become. Write the text in UTF-8."
        )


class PromptTooLongError(UserError):
    """The prompt leaves no room for an answer."""

    def __init__(self, tokens: int, context: int) -> None:
        """Build ``The prompt must be shorter than the model's context …``."""
        super().__init__(
            f"The prompt must be shorter than the model's context of {context} tokens; got {tokens}. Shorten it."
        )


class GenerationSettingError(UserError):
    """A setting of generation is none that transformers' ``generate`` takes."""

    def __init__(self, folder: Path, name: str, wanted: str, value: object) -> None:
        """Build ``Setting 'suppress_tokens' of generation in FOLDER must be a list of token ids; got 'x'.``."""
        super().__init__(
            f"Setting {name!r} of generation in {str(folder)!r} must be {wanted}; got {shown(value)}. Correct it in "
            "generation_config.json (or config.json where that is missing), or remove it."
        )


class UnknownTokenError(UserError):
    """A prompt has a token that the model has no embedding for."""

    def __init__(self, identifier: int, vocab_size: int) -> None:
        """Build the sentence from the token's id and the rows of the embedding."""
        super().__init__(
            f"The tokens of a prompt must have ids from 0 to {vocab_size - 1}, the rows of the model's embedding; got "
            f"{identifier}. Leave that token out of the prompt, or build with the model's own tokenizer."
        )
