"""Why a bundle can't be written or loaded."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgellm_core.errors import UserError, shown

if TYPE_CHECKING:
    from pathlib import Path


class NotABundleError(UserError):
    """A path does not hold a bundle."""

    def __init__(self, path: Path, reason: str) -> None:
        """Name the path and what was found there."""
        super().__init__(
            f"{str(path)!r} is not an edgellm bundle: {reason}. Build one with 'edgellm build SOURCE -o DIR'."
        )


class MissingPluginError(UserError):
    """A bundle needs a family or target whose plugin is not loaded."""

    def __init__(self, directory: Path, needed: str, *, plugin: str, package: str, version: str, reason: str) -> None:
        """Say what made the bundle, and how to get it again.

        Args:
            directory: the bundle.
            needed: what it needs: ``target 'x'``.
            plugin: plugin that brought it; empty where bundle.json does not say.
            package: pip package of the plugin; empty where it came from a folder.
            version: of the plugin; may be empty.
            reason: why the plugin is not loaded although it is there; empty where it is not.
        """
        made = f"package {package} {version}" if package else f"a folder{f', version {version}' if version else ''}"
        maker = (
            f"came from plugin {plugin!r} ({made})" if plugin else "came from a plugin that bundle.json does not name"
        )
        remedy = f"Run: pip install {package}=={version}" if package else "Name its folder in EDGELLM_PLUGIN_PATH"
        problem = f"is not loaded: {reason}" if reason else f"is not installed. {remedy}."
        super().__init__(f"The bundle {str(directory)!r} needs {needed}, which {maker} and {problem}")


class InvalidManifestError(UserError):
    """bundle.json is not what edgellm writes."""

    def __init__(self, path: Path, where: str, problem: str) -> None:
        """Name the file, the place in it, and what is wrong there."""
        place = f" at {where!r}" if where else ""
        super().__init__(f"{str(path)!r} is invalid{place}: {problem}. Build the bundle again.")


class UnknownSchemaError(UserError):
    """bundle.json was written by another version of edgellm."""

    def __init__(self, path: Path, found: object, known: int) -> None:
        """Name the file and both schema versions."""
        super().__init__(
            f"{str(path)!r} has schema_version {shown(found)}; this edgellm reads {known}. "
            "Use the edgellm that wrote it, or build the bundle again."
        )


class DamagedBundleError(UserError):
    """A file of a bundle is not the one that was published."""

    def __init__(self, directory: Path, file: str, expected: str, found: str) -> None:
        """Name the file, what the manifest says about it and what is there."""
        super().__init__(
            f"{file!r} of the bundle {str(directory)!r} was changed or damaged: bundle.json says {expected}, "
            f"found {found}. Copy or build the bundle again."
        )


class ForeignOutputError(UserError):
    """The output path holds something that edgellm did not write."""

    def __init__(self, out: Path, reason: str) -> None:
        """Name the path and why it is not ours."""
        super().__init__(
            f"{str(out)!r} exists and is not an edgellm bundle ({reason}), so it is left alone. "
            "Choose another output directory with -o, or remove it yourself."
        )


class DanglingOutputError(UserError):
    """The output is a link to nothing."""

    def __init__(self, out: Path, target: str) -> None:
        """Name the link and where it leads."""
        super().__init__(
            f"{str(out)!r} is a link to {target!r}, where nothing is, so it is left alone. Remove the link, make that "
            "folder, or choose another output directory with -o."
        )


class MountPointError(UserError):
    """A file system is mounted where the output would go, so that nothing can be moved there."""

    def __init__(self, out: Path) -> None:
        """Name the path."""
        super().__init__(
            f"{str(out)!r} must be a path that a finished bundle can be moved to; a file system is mounted there. "
            f"Choose a folder in it: -o {str(out / 'bundle')!r}."
        )


class BundleExistsError(UserError):
    """The output path holds a bundle already."""

    def __init__(self, out: Path) -> None:
        """Name the path."""
        super().__init__(f"{str(out)!r} holds a bundle already. Replace it with --force, or choose another -o.")


class OutputNotWritableError(UserError):
    """The system refuses to write the output directory."""

    resumable = True

    def __init__(self, out: Path, error: OSError) -> None:
        """Name the path and the system's reason."""
        super().__init__(
            f"Can't write the bundle to {str(out)!r}: {error.strerror or error}. "
            "Choose another output directory with -o, or make this one writable."
        )


class OutputLockedError(UserError):
    """Another process writes the same output."""

    resumable = True

    def __init__(self, out: Path, owner: str) -> None:
        """Name the output and who has it."""
        super().__init__(
            f"{str(out)!r} is in use by {owner}, and --no-wait was given. Run the command again when that has ended, "
            "leave --no-wait out, or choose another output."
        )


class BundleReplacedError(UserError):
    """A bundle was replaced by another one while it was in use."""

    def __init__(self, directory: Path) -> None:
        """Name the bundle."""
        super().__init__(
            f"The bundle {str(directory)!r} was replaced while it was read, so that what was read may be of two "
            "bundles. Run the command again."
        )
