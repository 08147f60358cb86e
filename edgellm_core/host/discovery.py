"""The discovery routes: folders of this package, entry points, and folders that the user names. Nothing is imported."""

from __future__ import annotations

import hashlib
import importlib
import importlib.metadata
import importlib.util
import os
import pkgutil
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Final

from edgellm_core.hookspecs import PROJECT
from edgellm_core.host.errors import NotAModuleError, PluginPathError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from edgellm_core.host.records import Origin

IN_TREE_PACKAGE: Final = "edgellm_plugins"

LIBRARY_SUFFIX: Final = ".so"
"""NVIDIA's TensorRT-Edge-LLM reads its plugin library from EDGELLM_PLUGIN_PATH too; it is none of ours."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """A plugin that was found and not imported yet.

    Attributes:
        name: how the user selects it.
        origin: discovery route.
        version: version of its distribution; empty where unknown.
        package: name of the pip package that an entry point comes from; else empty.
        location: package folder or module file; None where no file was found.
        load: imports and returns its module.
    """

    name: str
    origin: Origin
    version: str
    location: Path | None
    load: Callable[[], ModuleType]
    package: str = ""


def core_candidate() -> Candidate:
    """Return the candidate for what the core registers itself: the generic family."""
    return Candidate(
        name="generic",
        origin="core",
        version=_edgellm_version(),
        location=Path(__file__).parent.parent / "generic.py",
        load=lambda: importlib.import_module("edgellm_core.generic"),
    )


def in_tree_candidates() -> Iterator[Candidate]:
    """Yield the folders of ``edgellm_plugins``: adding a folder is enough."""
    package = importlib.import_module(IN_TREE_PACKAGE)
    version = _edgellm_version()
    for folder in package.__path__:
        for module in pkgutil.iter_modules([folder]):
            name = f"{IN_TREE_PACKAGE}.{module.name}"
            yield Candidate(
                name=module.name,
                origin="in-tree",
                version=version,
                location=Path(folder) / (module.name if module.ispkg else f"{module.name}.py"),
                load=lambda name=name: importlib.import_module(name),  # type: ignore[misc]  # binds the loop variable
            )


def entry_point_candidates() -> Iterator[Candidate]:
    """Yield the entry points of the group ``edgellm``, sorted so that no file system order decides a conflict."""
    points = importlib.metadata.entry_points(group=PROJECT)
    for point in sorted(points, key=lambda point: (point.name, point.value)):
        yield Candidate(
            name=point.name,
            origin="entry point",
            version=point.dist.version if point.dist else "",
            location=_location_of_module(point.module),
            package=point.dist.name if point.dist else "",
            load=lambda point=point: _load_entry_point(point),  # type: ignore[misc]  # binds the loop variable
        )


def listed_paths(environ: Mapping[str, str] = os.environ) -> list[Path]:
    """Return the entries of ``EDGELLM_PLUGIN_PATH``, which is separated as PATH is."""
    return [Path(entry) for entry in environ.get("EDGELLM_PLUGIN_PATH", "").split(os.pathsep) if entry]


def path_candidates(paths: Iterable[Path]) -> Iterator[Candidate]:
    """Yield the plugins in folders that the user named; a folder named twice counts once.

    Raises:
        PluginPathError: a path does not exist or holds no plugin.
    """
    seen: set[Path] = set()
    for path in paths:
        for location in _plugins_at(path.expanduser().resolve()):
            if location not in seen:
                seen.add(location)
                yield Candidate(
                    name=location.stem if location.is_file() else location.name,
                    origin="path",
                    version="",
                    location=location,
                    load=lambda location=location: _load_path(location),  # type: ignore[misc]  # binds the loop variable
                )


def _edgellm_version() -> str:
    return importlib.metadata.version(PROJECT)


def _plugins_at(path: Path) -> list[Path]:
    """Return the package folders and ``.py`` files that ``path`` is or holds."""
    if not path.exists():
        raise PluginPathError(path, "does not exist")
    if path.is_file():
        if path.suffix != ".py":
            raise PluginPathError(path, "is not a Python file")
        return [path]
    if (path / "__init__.py").is_file():
        return [path]
    children = [
        child
        for child in sorted(path.iterdir())
        if not child.name.startswith((".", "_")) and ((child / "__init__.py").is_file() or child.suffix == ".py")
    ]
    if not children:
        raise PluginPathError(path, "holds no plugin")
    return children


def _load_entry_point(point: importlib.metadata.EntryPoint) -> ModuleType:
    loaded = point.load()
    if not isinstance(loaded, ModuleType):
        raise NotAModuleError(point.name, point.value, loaded)
    return loaded


def _location_of_module(module: str) -> Path | None:
    """Return the folder of the top-level package (or the file of the module) that ``module`` belongs to."""
    try:
        # A top-level name is found without importing anything, so a broken plugin has a location too.
        spec = importlib.util.find_spec(module.partition(".")[0])
    except (ImportError, ValueError):  # ValueError: a module in sys.modules without a spec
        return None
    if spec is None:
        return None
    if spec.submodule_search_locations:
        return Path(next(iter(spec.submodule_search_locations)))
    return Path(spec.origin) if spec.origin else None


def _load_path(location: Path) -> ModuleType:
    """Import a package folder or file under a name of its own, so that relative imports in it work.

    The name depends on the location alone: a second host in the same process gets the same module and classes.
    """
    digest = hashlib.sha256(str(location).encode()).hexdigest()[:12]
    name = f"edgellm_path_plugin_{digest}_{location.stem.replace('.', '_')}"
    if name in sys.modules:
        return sys.modules[name]
    is_package = location.is_dir()
    spec = importlib.util.spec_from_file_location(
        name,
        location / "__init__.py" if is_package else location,
        submodule_search_locations=[str(location)] if is_package else None,
    )
    assert spec is not None  # for mypy: the suffix is .py
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        for leftover in [key for key in sys.modules if key == name or key.startswith(f"{name}.")]:
            del sys.modules[leftover]
        raise
    return module
