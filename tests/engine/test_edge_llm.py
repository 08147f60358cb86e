"""Engines of target edge-llm.

TensorRT with the real plugins needs a GPU. What can be built without one is: the graph with the plugins' bodies in
place of the plugins, through the same parser and builder, with the same profiles.
"""

from __future__ import annotations

import dataclasses
import json
import shutil

import onnx
import pytest
from click.testing import CliRunner

from edgellm_core.bundle import file_records, load_bundle, write_manifest
from edgellm_core.cli import edgellm
from edgellm_core.engine.backend import BACKENDS
from edgellm_core.engine.builder import build_engine
from edgellm_core.engine.bundle_engine import add_engine, bundle_limits
from edgellm_core.engine.edge_llm import EdgeLlmEngineForm, builder_config, library_in
from edgellm_core.engine.errors import (
    EngineLibraryError,
    NoBackendError,
    OtherEngineBuilderError,
    UnexpectedGraphInputError,
)
from edgellm_core.engine.form import load_libraries
from edgellm_core.engine.profiles import ProfileLimits, make_profiles
from edgellm_core.errors import InvalidSettingError
from edgellm_core.events import Reporter
from edgellm_core.host import PluginHost
from edgellm_core.pipeline.build import build
from edgellm_core.pipeline.settings import BuildSettings
from edgellm_core.runtime.paged.functions import add_functions
from edgellm_core.testing.checkpoints import write_family_checkpoint

LIMITS = ProfileLimits(max_batch_size=2, max_input_len=32, max_seq_len=300)
TENSORRT = BACKENDS["tensorrt"]
RTX_WITH_ITS_PROFILES = dataclasses.replace(BACKENDS["tensorrt-rtx"], profile_names=TENSORRT.profile_names)


class WithoutPlugins(EdgeLlmEngineForm):
    """The form for a graph whose plugins have bodies."""

    backends = ("tensorrt-rtx",)

    def libraries(self, backend, compute_capability):
        return ()


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A tiny qwen3 whose sizes every scheme takes."""
    folder = tmp_path_factory.mktemp("edge-llm") / "checkpoint"
    family = PluginHost.load(environ={}).select({}, forced="qwen3").family
    sizes = {"hidden_size": 128, "intermediate_size": 128, "head_dim": 64}
    return write_family_checkpoint(folder, family, config={**family.tiny_config(), **sizes})


@pytest.fixture(scope="module")
def bundle(checkpoint):
    return build(str(checkpoint), checkpoint.with_name("bundle"), BuildSettings(target="edge-llm", engine="none"))


def copy_with_bodies(bundle, folder):
    """A copy of a bundle whose graph calls functions instead of plugins."""
    shutil.copytree(bundle.directory, folder)
    path = folder / "llm" / "model.onnx"
    model = onnx.load(path, load_external_data=False)
    add_functions(model)
    onnx.save(model, path)
    write_manifest(folder, bundle.manifest.model_copy(update={"files": tuple(file_records(folder))}))
    return load_bundle(folder)


@pytest.fixture
def with_bodies(bundle, tmp_path):
    return copy_with_bodies(bundle, tmp_path / "copy")


def both_profiles(bundle, path):
    return build_engine(
        bundle.model_path,
        path,
        backend=RTX_WITH_ITS_PROFILES,
        compute_capability=120,
        limits=LIMITS,
        report=Reporter("engine"),
        form=WithoutPlugins(),
    )


def test_both_profiles_fit_the_graph(with_bodies, tmp_path):
    record = both_profiles(with_bodies, tmp_path / "llm.engine")
    assert [profile.name for profile in record.profiles] == ["prefill", "decode"]
    assert record.bytes > 10_000


@pytest.mark.parametrize("precision", ["fp8", "int8_sq", "nvfp4", "mxfp8"])
def test_quantized_graphs_build(precision, checkpoint, tmp_path):
    calibration = {"calib_samples": 8, "calib_length": 32}
    settings = BuildSettings(target="edge-llm", engine="none", precision=precision, quality="off", **calibration)
    made = copy_with_bodies(build(str(checkpoint), tmp_path / "bundle", settings), tmp_path / "copy")
    assert both_profiles(made, tmp_path / "llm.engine").bytes > 10_000


def test_the_runtime_is_told_what_the_engine_takes(with_bodies):
    limits = bundle_limits(with_bodies, max_batch_size=2, max_input_len=16, max_seq_len=64)
    add_engine(
        with_bodies, form=WithoutPlugins(), backend=RTX_WITH_ITS_PROFILES, compute_capability=None,
        report=Reporter("engine"), limits=limits,
    )  # fmt: skip
    again = load_bundle(with_bodies.directory)  # checks the digests, that of config.json too
    config = json.loads((again.llm / "config.json").read_text(encoding="utf-8"))
    assert config["builder_config"] == builder_config(limits)
    assert config["num_hidden_layers"] > 0
    assert again.manifest.engine.backend == "tensorrt-rtx"


@pytest.mark.parametrize(
    ("name", "shape", "profile", "expected"),
    [
        ("inputs_embeds", (-1, 8), "prefill", ((1, 8), (32, 8), (64, 8))),
        ("inputs_embeds", (-1, 8), "decode", ((1, 8), (2, 8), (2, 8))),
        ("query_start_offsets", (-1,), "decode", ((2,), (3,), (3,))),
        ("context_sequence_count_carrier", (-1,), "prefill", ((1,), (2,), (2,))),
        ("context_sequence_count_carrier", (-1,), "decode", ((0,), (0,), (0,))),
        ("execution_phase_marker", (-1,), "decode", ((1,), (3,), (8,))),
        ("kv_page_table", (-1, 2, -1), "prefill", ((1, 2, 3), (2, 2, 3), (2, 2, 3))),
        ("past_key_values_1", (2, -1, 128, 2, 16), "decode", ((2, 6, 128, 2, 16),) * 3),
    ],
)
def test_ranges(name, shape, profile, expected):
    (made,) = make_profiles([profile], LIMITS)
    assert EdgeLlmEngineForm().input_ranges(name, shape, made) == expected


def test_an_input_of_another_target_is_named():
    (profile,) = make_profiles(["prefill"], LIMITS)
    with pytest.raises(UnexpectedGraphInputError, match="Graph input 'input_ids' with shape"):
        EdgeLlmEngineForm().input_ranges("input_ids", (-1, -1), profile)


def test_another_package_is_refused(bundle):
    result = CliRunner().invoke(edgellm, ["engine", str(bundle.directory), "--engine", "tensorrt-rtx"])
    assert isinstance(result.exception, OtherEngineBuilderError)
    assert str(result.exception).startswith("Engines of target 'edge-llm' are built with tensorrt; got")
    assert load_bundle(bundle.directory).manifest.engine is None


def test_auto_without_tensorrt_names_the_builder_of_the_runtime(bundle):
    result = CliRunner().invoke(edgellm, ["engine", str(bundle.directory)])
    assert isinstance(result.exception, NoBackendError)
    assert f"llm_build --onnxDir {bundle.directory / 'llm'} --engineDir ENGINE_DIR" in str(result.exception)


@pytest.fixture
def wheel(tmp_path):
    variants = [
        {"gpu_sm": sm, "tensorrt_runtime_soname": f"libnvinfer.so.{major}", "plugin": f"{sm}-{major}.so"}
        for sm, major in ((86, 10), (86, 11), (120, 10))
    ]
    (tmp_path / "_native").mkdir()
    (tmp_path / "_native" / "variants.json").write_text(json.dumps({"variants": variants}))
    return tmp_path


LONGROPE = {"rope_scaling": {"type": "longrope"}, "original_max_position_embeddings": 256}


@pytest.mark.parametrize(
    ("config", "length"), [(LONGROPE, 257), ({**LONGROPE, "original_max_position_embeddings": 64}, 256)]
)
def test_a_cache_beyond_the_short_table_of_longrope_is_refused(tmp_path, config, length):
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    limits = ProfileLimits(max_input_len=32, max_seq_len=length)
    with pytest.raises(InvalidSettingError, match="--max-seq-len must not exceed"):
        EdgeLlmEngineForm().check_limits(tmp_path, limits)
    with pytest.raises(InvalidSettingError, match=f"got {length}. Lower it"):
        EdgeLlmEngineForm().check_limits(tmp_path, limits)


@pytest.mark.parametrize("config", [LONGROPE, {"rope_scaling": None}, {"rope_scaling": {"type": "yarn"}}])
def test_a_cache_within_one_table_is_taken(tmp_path, config):
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    EdgeLlmEngineForm().check_limits(tmp_path, ProfileLimits(max_input_len=32, max_seq_len=256))


def test_limits_are_checked_before_an_engine_is_built(with_bodies):
    path = with_bodies.llm / "config.json"
    fields = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**fields, **LONGROPE}), encoding="utf-8")
    limits = ProfileLimits(max_input_len=32, max_seq_len=300)
    with pytest.raises(InvalidSettingError, match="must not exceed 256"):
        add_engine(
            with_bodies,
            form=WithoutPlugins(),
            backend=BACKENDS["tensorrt-rtx"],
            compute_capability=None,
            report=Reporter("engine"),
            limits=limits,
        )


def test_the_library_for_gpu_and_tensorrt_is_chosen(wheel):
    assert library_in(wheel, 86, "libnvinfer.so.11") == wheel / "86-11.so"
    with pytest.raises(EngineLibraryError, match=r"none for SM 89 with libnvinfer.so.10, only for SM 86 with"):
        library_in(wheel, 89, "libnvinfer.so.10")
    with pytest.raises(EngineLibraryError, match=r"variants.json can't be read"):
        library_in(wheel / "_native", 86, "libnvinfer.so.10")


def test_a_library_of_ones_own(tmp_path, monkeypatch):
    library = tmp_path / "plugin.so"
    monkeypatch.setenv("EDGELLM_PLUGIN_PATH", str(library))
    with pytest.raises(EngineLibraryError, match="EDGELLM_PLUGIN_PATH names a file that does not exist"):
        EdgeLlmEngineForm().libraries(TENSORRT, 86)
    library.write_bytes(b"no library")
    assert EdgeLlmEngineForm().libraries(TENSORRT, 86) == (library,)
    with pytest.raises(EngineLibraryError, match=r"loading it failed: .*plugin\.so"):
        load_libraries([library])


def test_without_the_wheel_the_error_says_what_to_install(monkeypatch):
    monkeypatch.delenv("EDGELLM_PLUGIN_PATH", raising=False)
    with pytest.raises(EngineLibraryError, match=r"neither it nor the wheel tensorrt-edgellm is here. Install"):
        EdgeLlmEngineForm().libraries(TENSORRT, 86)
