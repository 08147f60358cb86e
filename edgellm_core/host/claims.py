"""Who holds which name: a later discovery route takes a claim from an earlier one, the same route may not."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from edgellm_core.host.errors import ClaimConflictError
from edgellm_core.host.records import Claim, ClaimKey, PluginRecord, Status

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from types import ModuleType

    from edgellm_core.host.discovery import Candidate


@dataclass(eq=False, kw_only=True, slots=True)
class LoadedPlugin:
    """A plugin that was imported and checked.

    Attributes:
        candidate: how it was found.
        module: its module.
        offers: everything that it claims, and what it gives for it: a family, a target or scheme class, or a command.
    """

    candidate: Candidate
    module: ModuleType
    offers: Mapping[Claim, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Name by which the user selects it."""
        return self.candidate.name

    @property
    def label(self) -> str:
        """Name and route, for messages."""
        return f"plugin {self.name!r} ({self.candidate.origin})"


class ClaimTable:
    """All claims and their holders."""

    def __init__(self) -> None:
        self._holders: dict[Claim, LoadedPlugin] = {}
        self._history: list[tuple[Claim, LoadedPlugin, LoadedPlugin]] = []

    def take(self, plugin: LoadedPlugin) -> None:
        """Give the plugin everything that it claims.

        A family that takes the *name* of an earlier one replaces it, so the earlier one's other claims are freed.

        Raises:
            ClaimConflictError: a plugin of the same route, or the core, holds one of the claims; nothing is taken.
        """
        for claim in plugin.offers:
            holder = self._holders.get(claim)
            if holder is not None and holder.candidate.origin in {plugin.candidate.origin, "core"}:
                raise ClaimConflictError(plugin.name, str(claim), holder.name, holder.candidate.origin)
        for claim in plugin.offers:
            holder = self._holders.get(claim)
            if holder is not None:
                self._history.append((claim, holder, plugin))
                if claim.key == "family":
                    self._free(holder, holder.offers[claim])
            self._holders[claim] = plugin

    def get(self, key: ClaimKey, value: str) -> tuple[LoadedPlugin, Any] | None:
        """Return the holder of a claim and what it gives for it."""
        claim = Claim(key, value)
        holder = self._holders.get(claim)
        return None if holder is None else (holder, holder.offers[claim])

    def items(self, key: ClaimKey) -> Iterator[tuple[str, Any]]:
        """Yield the held claims of one kind: name or value, and what its holder gives."""
        for claim, holder in self._holders.items():
            if claim.key == key:
                yield claim.value, holder.offers[claim]

    def record(self, plugin: LoadedPlugin) -> PluginRecord:
        """Return what a plugin holds now, and what it took and lost."""
        held = [claim for claim, holder in self._holders.items() if holder is plugin]
        return PluginRecord(
            name=plugin.name,
            origin=plugin.candidate.origin,
            version=plugin.candidate.version or str(getattr(plugin.module, "__version__", "")),
            package=plugin.candidate.package,
            location=plugin.candidate.location,
            families=tuple(claim.value for claim in held if claim.key == "family"),
            claims=tuple(claim for claim in held if claim.key != "family"),
            status=self._status(plugin, held),
            notes=tuple(self._notes(plugin)),
        )

    def _free(self, holder: LoadedPlugin, family: object) -> None:
        """Remove the claims for which ``holder`` gives ``family``."""
        for claim, given in holder.offers.items():
            if given is family and self._holders.get(claim) is holder:
                del self._holders[claim]

    def _status(self, plugin: LoadedPlugin, held: list[Claim]) -> Status:
        # A family that keeps nothing but its name is reached by --family alone: it no longer decides anything.
        decisive = [claim for claim in plugin.offers if claim.key != "family"] or list(plugin.offers)
        return "overridden" if decisive and not any(claim in held for claim in decisive) else "active"

    def _notes(self, plugin: LoadedPlugin) -> Iterator[str]:
        for claim, loser, winner in self._history:
            if winner is plugin:
                yield f"takes {claim} from {loser.label}"
            elif loser is plugin:
                yield f"{claim} is taken by {winner.label}"
