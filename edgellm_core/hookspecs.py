"""Every hook that a plugin may implement. Hooks register classes; the classes in ``contract.py`` behave.

A plugin is a module that marks functions of these names with ``hookimpl``::

    from edgellm_core.hookspecs import hookimpl

    @hookimpl
    def edgellm_register_families():
        return [MyFamily]

An implementation may leave out arguments that it does not use. The ``register`` hooks of families, targets, schemes,
commands and calibration data run while plugins are discovered, so they must import neither torch, transformers, onnx
nor tensorrt.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import pluggy

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import click

    from edgellm_core.contract import CalibrationData, ModelFamily, QuantizationScheme, Target
    from edgellm_core.surgery.rule import Rule

PROJECT: Final = "edgellm"
"""Name of the pluggy project, and of the entry-point group."""

hookspec: Final = pluggy.HookspecMarker(PROJECT)
hookimpl: Final = pluggy.HookimplMarker(PROJECT)
"""Marks a function of a plugin as the implementation of the hook of that name."""


@hookspec
def edgellm_register_families() -> Sequence[type[ModelFamily]]:  # type: ignore[empty-body]  # specs have no body
    """Return the model families that the plugin brings.

    Called once, while plugins are discovered. A failure skips the plugin.
    """


@hookspec
def edgellm_register_targets() -> Sequence[type[Target]]:  # type: ignore[empty-body]
    """Return the targets that the plugin brings, for ``--target``.

    Called once, while plugins are discovered. A failure skips the plugin.
    """


@hookspec
def edgellm_register_schemes() -> Sequence[type[QuantizationScheme]]:  # type: ignore[empty-body]
    """Return the quantization schemes that the plugin brings, for ``--precision`` and ``--lm-head``.

    Called once, while plugins are discovered. A failure skips the plugin.
    """


@hookspec
def edgellm_register_commands() -> Sequence[click.Command]:  # type: ignore[empty-body]
    """Return subcommands of ``edgellm``.

    Called once, while plugins are discovered. A failure skips the plugin.
    """


@hookspec
def edgellm_register_rules() -> Sequence[Rule]:  # type: ignore[empty-body]
    """Return surgery rules that run on the graph of any family, before the target's.

    Called by every surgery; importing onnx is fine here. A failure ends the build.
    """


@hookspec
def edgellm_register_calibration_data() -> Sequence[type[CalibrationData]]:  # type: ignore[empty-body]
    """Return texts that quantizations can be calibrated on, for ``--calib-data``.

    Called once, while plugins are discovered. A failure skips the plugin.
    """


@hookspec(firstresult=True)
def edgellm_resolve_family(config: Mapping[str, Any], directory: Path | None) -> str | None:
    """Return the name of the family of an odd checkpoint, or None to decline.

    Asked before the claims; the plugin of the latest route is asked first, and the first answer decides.

    Args:
        config: contents of config.json.
        directory: folder of the checkpoint, where there is one.
    """


@hookspec
def edgellm_before_stage(stage: str, settings: Mapping[str, Any]) -> None:
    """Run before a stage of the pipeline; an exception ends the build.

    Args:
        stage: name of the stage, for example ``trace``.
        settings: settings of the build.
    """


@hookspec
def edgellm_after_stage(stage: str, settings: Mapping[str, Any], seconds: float) -> None:
    """Run after a stage that succeeded; an exception ends the build.

    Args:
        stage: name of the stage.
        settings: settings of the build.
        seconds: wall-clock seconds that it took.
    """


@hookspec
def edgellm_stage_failed(stage: str, settings: Mapping[str, Any], error: BaseException) -> None:
    """Run after a stage that failed.

    Args:
        stage: name of the stage.
        settings: settings of the build.
        error: what it raised.
    """
