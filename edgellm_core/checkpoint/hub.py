"""Reads and downloads hub repositories, pinned to one commit: safetensors, JSON and tokenizer files, code if asked."""

from __future__ import annotations

import errno
import time
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from edgellm_core.checkpoint.errors import DiskSpaceError, HubError
from edgellm_core.checkpoint.machine import free_disk
from edgellm_core.checkpoint.own_code import code_names
from edgellm_core.checkpoint.shards import (
    INDEX_FILE,
    SINGLE_FILE,
    all_numbers,
    check_shards,
    check_weight_files,
    numbered_files,
    parse_weight_map,
    read_headers,
)
from edgellm_core.checkpoint.tokenizer_files import TEMPLATE_FOLDER, VOCABULARIES
from edgellm_core.errors import UserError
from edgellm_core.untrusted import read_json_object
from edgellm_core.untrusted.limits import INDEX

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from edgellm_core.checkpoint.location import Location
    from edgellm_core.events import Reporter

FILE_PATTERNS: Final = ("*.json", "*.jinja", "merges.txt", *VOCABULARIES)
"""Files beside the weights that are fetched, at the top of the repository only; and further chat templates."""

_HEADER_THREADS: Final = 8
"""Headers that are read at once."""

_PROGRESS_SECONDS: Final = 0.5
_DISK_ERRORS: Final = frozenset(
    {errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST}
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Repository:
    """One commit of a hub repository.

    Attributes:
        id: ``owner/name``.
        commit: the commit that the revision stands for.
        files: bytes by file name.
        location: what the user asked for.
    """

    id: str
    commit: str
    files: Mapping[str, int]
    location: Location

    def sidecars(self) -> list[str]:
        """Return the files beside the weights that a build needs."""
        return [
            name
            for name in self.files
            if "/" not in name.removeprefix(f"{TEMPLATE_FOLDER}/")
            and any(fnmatch(name, pattern) for pattern in FILE_PATTERNS)
            and name != INDEX_FILE
        ]


def list_repository(location: Location) -> Repository:
    """Ask the hub for the commit and files of a repository; nothing is downloaded.

    Raises:
        HubError: it is not there, not accessible, or the hub is not reachable.
    """
    from huggingface_hub import HfApi

    with hub_errors(location):
        info = HfApi().model_info(location.id, revision=location.revision, files_metadata=True)
    files = {item.rfilename: item.size or 0 for item in info.siblings or ()}
    return Repository(id=location.id, commit=info.sha or "", files=files, location=location)


def cached_snapshot(location: Location) -> Path | None:
    """Return the directory of an earlier complete download of the same revision; None where there is none."""
    from huggingface_hub import try_to_load_from_cache

    config = try_to_load_from_cache(location.id, "config.json", revision=location.revision)
    if not isinstance(config, str):
        return None
    directory = Path(config).parent
    try:
        read_headers(directory)
    except UserError:  # detect fetches config.json alone, and a download may have been interrupted
        return None
    return directory


def fetch_config(repository: Repository) -> dict[str, Any]:
    """Download config.json and return its object.

    Raises:
        HubError: the repository has none.
    """
    if "config.json" not in repository.files:
        raise missing_config(repository)
    return read_json_object(_fetch(repository, "config.json"))


def missing_config(repository: Repository) -> HubError:
    """Return the error for a repository without config.json."""
    remedy = "Give the repository of a transformers model; a GGUF file is downloaded by hand and given as a path."
    return HubError(repository.id, "it has no config.json", remedy)


def fetch_tensor_metadata(repository: Repository, files: Sequence[str]) -> Iterator[tuple[str, Any]]:
    """Yield name and ``huggingface_hub.utils.TensorInfo`` of every tensor of some files, by range requests; no weights.

    A tensor that several files hold comes once.
    """
    from concurrent.futures import ThreadPoolExecutor

    from huggingface_hub import HfApi
    from huggingface_hub.errors import SafetensorsParsingError

    def parse(name: str) -> Mapping[str, Any]:
        found = HfApi().parse_safetensors_file_metadata(repository.id, name, revision=repository.commit)
        return found.tensors

    with hub_errors(repository.location), ThreadPoolExecutor(_HEADER_THREADS) as pool:
        try:
            parsed = list(pool.map(parse, files))
        except SafetensorsParsingError as error:
            raise HubError(repository.id, "a safetensors header of it is damaged", "Tell its owner.") from error
    yield from {name: tensor for tensors in parsed for name, tensor in tensors.items()}.items()


def weight_files(repository: Repository) -> list[str]:
    """Return the names of the files that hold the weights; downloads the index of shards where there is one.

    Raises:
        PickleCheckpointError: the repository has pickle files only.
        NoWeightsError: it has no weights under the names that transformers reads.
        MissingShardError: its index, or the numbers in the names, speak of files that it does not have.
    """
    names = set(repository.files)
    check_weight_files(repository.id, names)
    if SINGLE_FILE in names:
        return [SINGLE_FILE]
    if INDEX_FILE not in names:
        shards = numbered_files(names)
        check_shards(Path(shards[0]), all_numbers(shards[0]), names)
        return shards
    index = _fetch(repository, INDEX_FILE)
    weight_map = parse_weight_map(index, read_json_object(index, INDEX))
    check_shards(index, weight_map.values(), names)
    return sorted(set(weight_map.values()))


def download_code(location: Location) -> Path:
    """Download config.json and the repository's own Python files, and return their directory.

    Raises:
        HubError: the repository is not there, not accessible, or the hub is not reachable.
    """
    repository = list_repository(location)
    if "config.json" not in repository.files:
        raise missing_config(repository)
    for name in code_names(repository.files):
        _fetch(repository, name)
    return _fetch(repository, "config.json").parent


def download(location: Location, report: Reporter, *, code: bool = False) -> tuple[Path, str]:
    """Download what a build needs, with ``code`` also Python files, and return its directory and commit.

    Without network an earlier complete download of the same revision is used, and said.

    Raises:
        HubError: the repository is not there, not accessible, or the hub is not reachable.
        DiskSpaceError: the files don't fit on the disk; nothing was downloaded.
    """
    from huggingface_hub import snapshot_download

    try:
        repository = list_repository(location)
    except HubError as error:
        directory = cached_snapshot(location)
        if directory is None:
            raise
        report.note(f"{error} Using the copy that was downloaded before.")
        return directory, directory.name
    if "config.json" not in repository.files:
        raise missing_config(repository)
    weights = weight_files(repository)
    index = [INDEX_FILE] if INDEX_FILE in repository.files and SINGLE_FILE not in weights else []
    wanted = [*repository.sidecars(), *weights, *index]
    wanted += code_names(repository.files) if code else []
    missing = missing_bytes(repository, wanted)
    cache = hub_cache()
    if missing > free_disk(cache):
        what = f"Downloading {location.id!r}"
        raise DiskSpaceError(what, cache, needed=missing, free=free_disk(cache))
    if missing:
        report.note(f"Downloading {missing / 1e9:.2f} GB of {location.id} at {repository.commit[:12]}.")
    with hub_errors(location):
        directory = Path(
            snapshot_download(
                location.id,
                revision=location.revision,  # by its name, so that the cache knows it without network
                allow_patterns=wanted,
                tqdm_class=_progress_class(report, missing),
            )
        )
    return directory, directory.name


def missing_bytes(repository: Repository, names: list[str]) -> int:
    """Return the bytes of the files that are not in the cache yet."""
    from huggingface_hub import try_to_load_from_cache

    return sum(
        repository.files[name]
        for name in names
        if not isinstance(try_to_load_from_cache(repository.id, name, revision=repository.commit), str)
    )


def hub_cache() -> Path:
    """Return the directory that huggingface_hub downloads into."""
    from huggingface_hub.constants import HF_HUB_CACHE

    return Path(HF_HUB_CACHE)


@contextmanager
def hub_errors(location: Location) -> Iterator[None]:
    """Turn what huggingface_hub raises into a ``HubError`` of one or two sentences."""
    import huggingface_hub.errors

    # Any: HTTPError, the base of all network errors, is re-exported from httpx or httpx2, whichever the version uses
    errors: Any = huggingface_hub.errors
    name = location.id
    try:
        yield
    except errors.GatedRepoError as error:
        remedy = f"Accept its terms at https://huggingface.co/{name} and log in with `hf auth login`. {location.hint}"
        raise HubError(name, "the repository is gated", remedy.strip()) from error
    except errors.RepositoryNotFoundError as error:
        remedy = f"Check the spelling; for a private repository log in with `hf auth login`. {location.hint}"
        raise HubError(name, "there is no such public repository", remedy.strip()) from error
    except errors.RevisionNotFoundError as error:
        problem = f"it has no revision {location.revision!r}"
        raise HubError(name, problem, "Give a branch, a tag or a full commit hash.") from error
    except errors.HFValidationError as error:
        raise HubError(name, "it is not a valid repository id", "Write it as owner/name.") from error
    except (errors.EntryNotFoundError, errors.HTTPError, OSError) as error:
        raise _network_error(location, error) from error


def _network_error(location: Location, error: Exception) -> HubError:
    """Say why a request or the writing of its answer failed."""
    cause = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(". ")
    if isinstance(error, OSError) and error.errno in _DISK_ERRORS:
        return HubError(location.id, f"the download can't be written ({cause})", "Set HF_HOME to a writable directory.")
    remedy = f"Check the network and HF_ENDPOINT, or give a local directory. {location.hint}"
    return HubError(location.id, f"the hub does not answer ({cause})", remedy.strip())


def _fetch(repository: Repository, name: str) -> Path:
    """Download one file into the cache and return its path."""
    from huggingface_hub import hf_hub_download

    with hub_errors(repository.location):
        return Path(hf_hub_download(repository.id, name, revision=repository.commit))


def _progress_class(report: Reporter, total: int) -> type[Any]:
    """Return a progress bar class that draws nothing and reports the bytes that it is told."""
    from huggingface_hub.utils.tqdm import tqdm

    last = time.monotonic()

    class ReportingBar(tqdm):
        """Counts one of the bars that ``snapshot_download`` keeps."""

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            kwargs["disable"] = True
            super().__init__(*args, **kwargs)  # type: ignore[no-untyped-call]  # not annotated
            self.counts_bytes = kwargs.get("unit") == "B"
            self.done = int(kwargs.get("initial") or 0)

        def update(self, n: float | None = 1) -> None:
            """Add ``n`` and report, at most twice a second."""
            nonlocal last
            self.done += int(n or 0)
            now = time.monotonic()
            if self.counts_bytes and now - last >= _PROGRESS_SECONDS:
                last = now
                report.progress(min(self.done, total), total, "bytes")

    return ReportingBar
