"""Texts of data sets on the Hugging Face hub, streamed: only as many rows come over the network as are used."""

from __future__ import annotations

import importlib.util
import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from edgellm_core.calibration.data.columns import choose_column
from edgellm_core.calibration.data.errors import HubTextError, MissingDatasetsError
from edgellm_core.calibration.data.texts import TextSource

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from pathlib import Path

SECONDS_TO_ANSWER: Final = 10
"""How long the hub may take to say that a data set is there; ``datasets`` itself tries for 23 s."""


@dataclass(frozen=True, kw_only=True, slots=True)
class HubDataSet:
    """A data set of the hub, of which the training split is read.

    Attributes:
        id: ``owner/name``.
        config: which of several configurations; None for the only one.
        column: where its text is; None to look.
        join: makes texts of the rows' values; None where each row is a text.
    """

    id: str
    config: str | None = None
    column: str | None = None
    join: Callable[[Iterable[str]], Iterator[str]] | None = None


def articles(lines: Iterable[str]) -> Iterator[str]:
    """Join the lines of WikiText into articles, each of which begins with ``= Title =``."""
    article: list[str] = []
    for line in lines:
        title = line.startswith(" = ") and not line.startswith(" = = ")
        if title and article:
            yield "".join(article)
            article = []
        article.append(line)
    yield "".join(article)


KNOWN: Final[Mapping[str, HubDataSet]] = {
    "cnn_dailymail": HubDataSet(id="abisee/cnn_dailymail", config="3.0.0", column="article"),
    "wikitext": HubDataSet(id="Salesforce/wikitext", config="wikitext-2-raw-v1", column="text", join=articles),
}
"""Data sets with a name of their own."""


def hub_source(data_set: HubDataSet, column: str | None, *, chat: bool) -> TextSource:
    """Return the rows of a data set's training split as a stream.

    Raises:
        MissingDatasetsError: the package datasets is not installed.
        HubTextError: the hub does not answer, or has no such data set, configuration or split.
        MissingColumnError: the column does not exist, or none is obvious.
    """
    if importlib.util.find_spec("datasets") is None:
        raise MissingDatasetsError(data_set.id, "datasets")
    commit = _commit(data_set.id)
    rows = _rows(data_set.id, data_set.config, column or data_set.column, chat=chat, revision=commit)
    texts = rows if data_set.join is None else data_set.join(rows)
    config = f" {data_set.config}" if data_set.config else ""
    return TextSource(name=f"{data_set.id}{config} (training split, commit {commit[:8]})", texts=texts, streamed=True)


def directory_source(directory: Path, config: str | None, column: str | None, *, chat: bool) -> TextSource:
    """Return the rows of a data set that lies in a local directory; raises what ``hub_source`` does."""
    if importlib.util.find_spec("datasets") is None:
        raise MissingDatasetsError(str(directory), "datasets")
    return TextSource(name=f"{directory} (training split)", texts=_rows(str(directory), config, column, chat=chat))


def _commit(name: str) -> str:
    """Ask the hub whether a data set is there, and for its commit."""
    import huggingface_hub
    import huggingface_hub.errors

    # Any: HTTPError, the base of all network errors, is re-exported from httpx or httpx2, whichever the version uses
    errors: Any = huggingface_hub.errors
    try:
        return str(huggingface_hub.HfApi().dataset_info(name, timeout=SECONDS_TO_ANSWER).sha or "main")
    except errors.GatedRepoError as error:
        remedy = f"Accept its terms at https://huggingface.co/datasets/{name} and log in with `hf auth login`."
        raise HubTextError(name, "the data set is gated", remedy) from error
    except errors.RepositoryNotFoundError as error:
        raise HubTextError(name, "the hub has no such data set", "Check the spelling.") from error
    except (errors.HTTPError, OSError, ValueError) as error:
        cause = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(". ")
        remedy = "Check the network and HF_ENDPOINT, or give --calib-data builtin or a file."
        raise HubTextError(name, f"the hub does not answer ({cause})", remedy) from error


def _rows(
    path: str, config: str | None, column: str | None, *, chat: bool, revision: str | None = None
) -> Iterator[Any]:
    """Yield one column; the first row is fetched here and now, so that what is wrong shows at once."""
    rows = _read_rows(path, config, column, chat=chat, revision=revision)
    return itertools.chain(list(itertools.islice(rows, 1)), rows)


def _read_rows(path: str, config: str | None, column: str | None, *, chat: bool, revision: str | None) -> Iterator[Any]:
    from datasets import load_dataset

    chosen = None
    try:
        for row in load_dataset(path, config, split="train", streaming=True, revision=revision):
            if chosen is None:
                chosen = choose_column(path, column, row, chat=chat)
            yield row[chosen]
    except (OSError, ValueError, RuntimeError) as error:  # what datasets raises for anything that is wrong with data
        remedy = "A configuration is given as NAME:CONFIG; the data set needs a split 'train'."
        raise HubTextError(path, " ".join(str(error).split()).rstrip("."), remedy) from error
