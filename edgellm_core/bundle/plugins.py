"""What a bundle needs of the plugins that made it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgellm_core.bundle.errors import MissingPluginError
from edgellm_core.errors import UnknownNameError
from edgellm_core.targets import find_target

if TYPE_CHECKING:
    from edgellm_core.bundle.loading import Bundle
    from edgellm_core.contract import Target
    from edgellm_core.host import PluginHost


def target_of(bundle: Bundle, host: PluginHost) -> Target:
    """Return the target of a bundle: the core's or a plugin's.

    Raises:
        MissingPluginError: the plugin that brought it is not loaded.
    """
    manifest = bundle.manifest
    try:
        return find_target(manifest.target, host.targets())
    except UnknownNameError as error:
        maker = manifest.target_plugin
        plugin, package, version = (maker.plugin, maker.package, maker.version) if maker else ("", "", "")
        needed = f"target {manifest.target!r}"
        raise _missing(bundle, host, needed, plugin=plugin, package=package, version=version) from error


def require_family(bundle: Bundle, host: PluginHost) -> None:
    """Refuse a bundle whose family is gone.

    Raises:
        MissingPluginError: the plugin that brought it is not loaded.
    """
    made = bundle.manifest.family
    if made.name not in host.family_names():
        needed = f"family {made.name!r}"
        raise _missing(bundle, host, needed, plugin=made.plugin, package=made.package, version=made.version)


def _missing(
    bundle: Bundle, host: PluginHost, needed: str, *, plugin: str, package: str, version: str
) -> MissingPluginError:
    found = next((record for record in host.records if record.name == plugin), None)
    reason = ""
    if found is not None:
        reason = found.error or f"version {found.version or '(none)'} is there, {found.status}, and does not bring it."
    return MissingPluginError(bundle.directory, needed, plugin=plugin, package=package, version=version, reason=reason)
