"""What happens inside and around the VMs: guest writes, growth, crashes, and what a disk holds or held."""

from __future__ import annotations

from typing import Literal

from infra.simulator import storage
from infra.simulator.calls.vm import halt
from infra.simulator.failures import Failure
from infra.simulator.schema import NULL
from infra.simulator.state import State
from infra.simulator.vdi_content import Content


class Unknown(ValueError):
    """No such VDI, VM or host, or a request that makes no sense for it."""


def write(state: State, vdi: str, offset: int, data: bytes) -> list[int]:
    """A guest writes; returns the blocks it touched. Raises Unknown."""
    with state.lock:
        ref, content = _live(state, vdi)
        try:
            blocks = content.write(offset, data)
        except ValueError as error:
            raise Unknown(str(error)) from None
        return _wrote(state, ref, blocks)


def write_random(
    state: State, vdi: str, count: int, seed: int, kind: Literal["random", "text", "zero"] = "random"
) -> list[int]:
    """A guest fills `count` whole blocks, chosen by the seed; returns them, ascending. Raises Unknown."""
    if kind not in {"random", "text", "zero"}:
        raise Unknown(f'kind "{kind}" is not random, text or zero')
    with state.lock:
        ref, content = _live(state, vdi)
        blocks = content.write_blocks(content.random_blocks(count, seed), kind, seed)
        return _wrote(state, ref, blocks)


def resize(state: State, vdi: str, size: int) -> None:
    """Grows a disk to exactly `size` bytes, also while its VM runs. Raises Unknown."""
    with state.lock:
        ref, _ = _live(state, vdi)
        if size % state.spec.sector_size:
            raise Unknown(f"{size} is no multiple of {state.spec.sector_size}")
        try:
            storage.resize_vdi(state, ref, size)
        except Failure as failure:
            raise Unknown(failure.description[2]) from None


def content(state: State, vdi: str) -> Content:
    """What a disk holds now, or what a snapshot held, also when it is purged or destroyed. Raises Unknown."""
    with state.lock:
        if vdi in state.history:
            return state.history[vdi]
        return _live(state, vdi)[1].copy()


def crash_host(state: State, host: str) -> None:
    """The power fails: its VMs are off, and the CBT logs of their disks stay inconsistent and lack writes."""
    database = state.database
    with state.lock:
        for vm in database.find("VM", resident_on=host, is_control_domain=False):
            disks = [database.get("VBD", vbd)["VDI"] for vbd in database.find("VBD", VM=vm, type="Disk")]
            halt(state, vm, NULL)
            for disk in disks:
                state.cbt.crash(database.get("VDI", disk)["uuid"])


def disable_cbt(state: State, vdi: str) -> None:
    """CBT goes off behind everybody's back. Raises Unknown."""
    with state.lock:
        storage.disable_cbt(state, _live(state, vdi)[0])


def _live(state: State, vdi: str) -> tuple[str, Content]:
    try:
        ref = state.database.by_uuid("VDI", vdi)
    except Failure:
        raise Unknown(f"no VDI {vdi}") from None
    if ref not in state.contents:
        raise Unknown(f"the data of VDI {vdi} are destroyed")
    return ref, state.contents[ref]


def _wrote(state: State, ref: str, blocks: list[int]) -> list[int]:
    state.cbt.wrote(state.database.get("VDI", ref)["uuid"], blocks)
    return blocks
