"""Which GPUs of this machine count?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

from llenergymeasure.exceptions import EnergyError

BoardOf: TypeAlias = Callable[[str], str | None]


def _unknown(instance: str) -> None:  # noqa: ARG001  the signature of BoardOf
    return None


def visible_gpus(
    spec: str | None, uuids: Sequence[str], *, pci_order: bool, board_of: BoardOf = _unknown
) -> tuple[int, ...]:
    """The indices of the boards that CUDA_VISIBLE_DEVICES=`spec` leaves visible, in its order, each once.

    As CUDA does it: integers, UUIDs or their unambiguous beginnings; the first entry that names nothing ends
    the list. `board_of` gives the UUID of the board that a MIG instance is part of. Where an entry can't be
    matched to a board (see `why_unsure`), every board is taken: one too many is listed, not added.
    """
    if spec is None or why_unsure(spec, uuids, pci_order=pci_order, board_of=board_of):
        return tuple(range(len(uuids)))
    chosen: dict[int, None] = {}
    for entry in _entries(spec):
        matches = _matching(entry, uuids, board_of)
        if len(matches) != 1 or (not entry.startswith("MIG") and matches[0] in chosen):
            break
        chosen[matches[0]] = None
    return tuple(chosen)


def why_unsure(
    spec: str | None, uuids: Sequence[str], *, pci_order: bool, board_of: BoardOf = _unknown
) -> str | None:
    """Why the entries of CUDA_VISIBLE_DEVICES can't be matched to boards; None where they can."""
    for entry in _entries(spec or ""):
        if entry.startswith("MIG") and board_of(entry) is None:
            return (
                f"CUDA_VISIBLE_DEVICES names {entry}, and the driver does not say which GPU that is part of"
            )
        if entry.isdecimal() and not pci_order and len(uuids) > 1:
            return (
                f"CUDA_VISIBLE_DEVICES={spec} counts GPUs from fast to slow, an order that the driver hides; "
                "set CUDA_DEVICE_ORDER=PCI_BUS_ID, or use UUIDs"
            )
    return None


def chosen_gpus(
    names: Sequence[str], uuids: Sequence[str], *, board_of: BoardOf = _unknown
) -> tuple[int, ...]:
    """The indices of the boards that `names` (indices, UUIDs or their beginnings) mean, each once.

    EnergyError where a name means no board or more than one; it lists those there are.
    """
    chosen: dict[int, None] = {}
    for name in names:
        matches = _matching(name, uuids, board_of)
        if len(matches) != 1:
            listed = ", ".join(f"{index}: {uuid}" for index, uuid in enumerate(uuids))
            count = "no GPU" if not matches else f"{len(matches)} GPUs"
            raise EnergyError(
                f"energy.gpus: {name!r} means {count} of this machine ({listed})",
                hint="give an index, a UUID or enough of its beginning, or --set energy.gpus=all",
            )
        chosen[matches[0]] = None
    return tuple(chosen)


def _matching(name: str, uuids: Sequence[str], board_of: BoardOf) -> list[int]:
    """The boards that `name` may mean: one for an index, all whose UUID begins with it else."""
    if name.startswith("MIG"):
        name = board_of(name) or name
    if name.isdecimal():
        return [int(name)] if int(name) < len(uuids) else []
    return [index for index, uuid in enumerate(uuids) if name and uuid.startswith(name)]


def _entries(spec: str) -> list[str]:
    return [part.strip() for part in spec.split(",")]
