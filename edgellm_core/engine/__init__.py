"""TensorRT and TensorRT-RTX engines: one builder over both, and the choice between them."""

from __future__ import annotations

from edgellm_core.engine.backend import BACKENDS, ENGINE_CHOICES, Backend, EngineChoice, choose_backend
from edgellm_core.engine.builder import EngineRecord, build_engine
from edgellm_core.engine.form import EngineForm, engine_form
from edgellm_core.engine.profiles import ProfileLimits, limits_for_context

__all__ = [
    "BACKENDS",
    "ENGINE_CHOICES",
    "Backend",
    "EngineChoice",
    "EngineForm",
    "EngineRecord",
    "ProfileLimits",
    "build_engine",
    "choose_backend",
    "engine_form",
    "limits_for_context",
]
