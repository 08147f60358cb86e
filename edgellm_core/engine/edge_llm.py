"""Engines of target ``edge-llm``: TensorRT with the plugins of TensorRT-Edge-LLM 0.11.

Profiles and settings are those of the builder in the wheel ``tensorrt-edgellm`` 0.11.0 (its C++ builder says the same):
one profile for prompts and one for single tokens, pools of fixed size, outputs of the plugins that alias their inputs.
"""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final

from edgellm_core.engine.errors import EngineLibraryError, UnexpectedGraphInputError
from edgellm_core.engine.form import EngineForm
from edgellm_core.errors import InvalidSettingError, UserError
from edgellm_core.host import LIBRARY_SUFFIX, listed_paths
from edgellm_core.runtime.paged.pages import PAGE_TOKENS
from edgellm_core.runtime.paged.rope import short_capacity
from edgellm_core.untrusted import read_json_object

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from edgellm_core.engine.backend import Backend
    from edgellm_core.engine.profiles import Profile, ProfileLimits, Range

WHEEL: Final = "tensorrt_edgellm"
VARIANTS: Final = "_native/variants.json"
"""Lists the libraries in the wheel, each for one GPU and one major version of TensorRT."""

PHASES: Final[Mapping[str, int]] = {"prefill": 1, "decode": 3}
"""Extent of ``execution_phase_marker`` by profile; at most ``MOST_PHASES``."""

MOST_PHASES: Final = 8


class EdgeLlmEngineForm(EngineForm):
    """Token-major graphs with ``trt_edgellm`` plugins over paged pools."""

    backends: ClassVar[tuple[str, ...]] = ("tensorrt",)
    preview_features: ClassVar[tuple[str, ...]] = ("ALIASED_PLUGIN_IO_10_03",)

    def libraries(self, backend: Backend, compute_capability: int | None) -> Sequence[Path]:
        """Return the library that EDGELLM_PLUGIN_PATH names, or that of the installed wheel.

        Raises:
            EngineLibraryError: there is none for this GPU and TensorRT.
        """
        stated = next((path for path in listed_paths() if path.suffix == LIBRARY_SUFFIX), None)
        if stated is not None:
            if not stated.is_file():
                reason = f"EDGELLM_PLUGIN_PATH names a file that does not exist: {stated}"
                raise EngineLibraryError(reason)
            return (stated,)
        package = importlib.util.find_spec(WHEEL)
        if package is None or package.origin is None:
            raise EngineLibraryError("neither it nor the wheel tensorrt-edgellm is here")
        major = backend.version().partition(".")[0]
        return (library_in(Path(package.origin).parent, compute_capability, f"libnvinfer.so.{major}"),)

    def input_ranges(self, name: str, shape: Sequence[int], profile: Profile) -> tuple[tuple[int, ...], ...]:
        """Return minimum, optimum and maximum shape of an input.

        Raises:
            UnexpectedGraphInputError: the contract has no such input.
        """
        pages = _pages(profile.past[2] + 1)
        least, best, most = profile.batch
        tokens = (1, best * profile.seq[1], most * profile.seq[2])
        if name.startswith("past_key_values_"):
            pool = (2, most * pages, *shape[2:])
            return pool, pool, pool
        first: Mapping[str, Range] = {
            **dict.fromkeys(("inputs_embeds", "rope_rotary_cos_sin", "positions"), tokens),
            **dict.fromkeys(
                ("query_lengths", "past_lengths", "attention_sequence_lengths", "state_indices", "logits_indices",
                 "kv_page_table"), profile.batch,
            ),
            "query_start_offsets": (least + 1, best + 1, most + 1),
            "execution_phase_marker": (1, PHASES[profile.name], MOST_PHASES),
            "context_sequence_count_carrier": profile.batch if profile.name == "prefill" else (0, 0, 0),
        }  # fmt: skip
        if name not in first:
            raise UnexpectedGraphInputError(name, tuple(shape))
        rest = (2, pages) if name == "kv_page_table" else tuple(shape[1:])
        return tuple((size, *rest) for size in first[name])

    def check_limits(self, folder: Path, limits: ProfileLimits) -> None:
        """Refuse a KV cache with which LongRoPE's one table is not that of short texts.

        Raises:
            InvalidSettingError: ``max_seq_len`` is beyond the original context.
        """
        short = short_capacity(read_json_object(folder / "config.json"))
        if short is not None and limits.max_seq_len > short:
            raise InvalidSettingError(
                "--max-seq-len",
                f"must not exceed {short}: the runtime makes one table of RoPE for texts of all lengths, and that of "
                "longer ones is not the original's for shorter texts",
                limits.max_seq_len,
                "Lower it.",
            )

    def write_settings(self, folder: Path, limits: ProfileLimits) -> tuple[str, ...]:
        """Write ``builder_config`` into config.json, which the runtime reads."""
        path = folder / "config.json"
        fields: dict[str, Any] = read_json_object(path)
        fields["builder_config"] = builder_config(limits)
        temporary = path.with_suffix(".new")
        temporary.write_text(json.dumps(fields, indent=2) + "\n", encoding="utf-8")
        temporary.replace(path)
        return (path.name,)


def builder_config(limits: ProfileLimits) -> dict[str, Any]:
    """Return what the runtime wants to know about an engine without speculation and LoRA on one GPU."""
    return {
        "tp_size": 1,
        "max_input_len": limits.max_input_len,
        "spec_draft": False,
        "spec_base": False,
        "max_batch_size": limits.max_batch_size,
        "max_lora_rank": 0,
        "max_kv_cache_capacity": limits.max_seq_len,
        "max_kv_pool_pages": limits.max_batch_size * _pages(limits.max_seq_len),
        "ragged_backend": "entry_padded_compatibility",
    }


def library_in(wheel: Path, compute_capability: int | None, tensorrt: str) -> Path:
    """Return the plugin library of the wheel for a GPU and a TensorRT.

    Args:
        wheel: folder of the package.
        compute_capability: of the GPU.
        tensorrt: file name of TensorRT's library with its major version.

    Raises:
        EngineLibraryError: the wheel has none; names those that it has.
    """
    try:
        variants = read_json_object(wheel / VARIANTS)["variants"]
    except (UserError, KeyError) as error:
        reason = f"{wheel / VARIANTS} can't be read: {error}"
        raise EngineLibraryError(reason) from error
    for variant in variants:
        if (variant["gpu_sm"], variant["tensorrt_runtime_soname"]) == (compute_capability, tensorrt):
            return wheel / str(variant["plugin"])
    known = ", ".join(f"SM {variant['gpu_sm']} with {variant['tensorrt_runtime_soname']}" for variant in variants)
    reason = f"the wheel tensorrt-edgellm has none for SM {compute_capability} with {tensorrt}, only for {known}"
    raise EngineLibraryError(reason)


def _pages(tokens: int) -> int:
    return -(-tokens // PAGE_TOKENS)
