"""`cbtfleet slots`: who has which connection of which host, what is stuck, and giving a slot up."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Annotated

import typer
from rich.console import Console

from scheduler.commands.invocation import ConfigOption, Invocation, JsonOption, note
from scheduler.connections import open_ledger
from scheduler.hosts.host_names import HostName, host_names
from scheduler.hosts.slot_report import troubles, waits_for
from scheduler.terminal.tables import TextTable, duration
from workers.errors import CbtfleetError, ConfigurationError
from workers.fleet import Host, Ledger, Slot
from workers.settings import Settings


class NoSuchSlot(CbtfleetError):
    """The named host or slot is not in the ledger, or the slot is free."""


def slots(
    context: typer.Context,
    pool: Annotated[
        str | None, typer.Option("--pool", metavar="NAME", help="Only this pool's hosts.")
    ] = None,
    host: Annotated[
        str | None, typer.Option("--host", metavar="HOST", help="Only this host: its name, uuid or address.")
    ] = None,
    release: Annotated[
        int | None,
        typer.Option("--release", min=0, metavar="N", help="Give slot N of that host up, as an operator."),
    ] = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show every host's connection slots: state, owner, disk, and what a stuck one waits for."""
    invocation = Invocation.of(context, config, as_json)
    settings = invocation.settings()
    if pool is not None:
        settings.pool(pool)
    if release is not None and host is None:
        raise ConfigurationError("--release needs --host: say whose slot")
    with open_ledger(settings) as ledger:
        found, names = _hosts(settings, ledger, pool, host)
        if release is not None:
            _release(invocation, ledger, found, names, release)
            return
        described = [_describe(ledger, each, names.get((each.pool, each.host), each.host)) for each in found]
    invocation.answer(
        {"hosts": [asdict(each) for each in described]}, lambda console: _show(console, described)
    )


def _hosts(
    settings: Settings, ledger: Ledger, pool: str | None, wanted: str | None
) -> tuple[list[Host], dict[tuple[str, str], str]]:
    """The meant hosts, and the names of those whose pool answers."""
    known = [host for host in ledger.hosts() if pool in (None, host.pool)]
    named, silent = host_names(settings, [host.pool for host in known])
    for line in silent:
        note(f"cbtfleet: {line}")
    names = {(each.pool, each.host): each.name for each in named}
    if wanted is None:
        return known, names
    found = [host for host in known if host.host == wanted.lower() or _is_called(host, named, wanted)]
    if not found:
        raise NoSuchSlot(
            f'no host "{wanted}" in the ledger; a host is there from the first backup through it on'
            + ("; without its pool only its uuid is known" if silent else "")
        )
    return found, names


def _is_called(host: Host, named: Sequence[HostName], wanted: str) -> bool:
    return any((each.pool, each.host) == (host.pool, host.host) and each.is_called(wanted) for each in named)


def _release(
    invocation: Invocation,
    ledger: Ledger,
    found: Sequence[Host],
    names: dict[tuple[str, str], str],
    number: int,
) -> None:
    if len(found) > 1:
        raise ConfigurationError(f"{len(found)} hosts are called so; give the uuid, or --pool")
    [host] = found
    name = names.get((host.pool, host.host), host.host)
    before = {slot.number: slot for slot in ledger.slots(host.pool, host.host)}.get(number)
    if before is None or before.state == "FREE":
        raise NoSuchSlot(f"host {name} has no slot {number} that is not free")
    if not invocation.as_json and sys.stdin.isatty():
        consequence = (
            "its stream is cut off and its batch is read again"
            if before.state in ("OPENING", "HELD")
            else "if the host still has its connection, one open of ours may be rejected and tried again"
        )
        typer.confirm(f"Release slot {number} ({before.state}) of host {name}? {consequence}", abort=True)
    if not ledger.free_slot(host.pool, host.host, number):
        raise NoSuchSlot(f"slot {number} of host {name} has become free by itself")
    after = ledger.slots(host.pool, host.host)[number].state
    invocation.answer(
        {"pool": host.pool, "host": host.host, "slot": number, "was": before.state, "state": after},
        lambda console: console.print(f"Slot {number} of host {name}: {before.state} -> {after}."),
    )


@dataclass(frozen=True)
class SlotRow:
    """One slot of a host, with the names of what it is used for."""

    number: int
    state: str
    owner: str | None
    run: str | None
    disk: str | None
    vm: str | None
    name: str | None
    age: float
    waits_for: str | None
    stuck: bool


@dataclass(frozen=True)
class HostRow:
    """One host with its slots, as the command prints it."""

    pool: str
    host: str
    name: str
    cap: int
    effective_cap: int
    used: int
    unaccounted: int
    others: int
    waived: int
    lowered: int
    closed_for: float
    counted_ago: float | None
    slots: list[SlotRow]
    troubles: list[str]


def _describe(ledger: Ledger, host: Host, name: str) -> HostRow:
    rows = ledger.slots(host.pool, host.host)
    disks = _disks(ledger, rows)
    return HostRow(
        pool=host.pool,
        host=host.host,
        name=name,
        cap=host.cap,
        effective_cap=host.effective_cap,
        used=host.used,
        unaccounted=host.unaccounted,
        others=host.others,
        waived=host.waived,
        lowered=host.lowered,
        closed_for=host.circuit_left,
        counted_ago=host.counted_ago,
        slots=[_slot(slot, *disks.get((slot.run, slot.disk), (None, None))) for slot in rows],
        troubles=troubles(host, rows, name),
    )


def _slot(slot: Slot, vm: str | None, disk: str | None) -> SlotRow:
    return SlotRow(
        number=slot.number,
        state=slot.state,
        owner=slot.owner or None,
        run=slot.run or None,
        disk=slot.disk or None,
        vm=vm,
        name=disk,
        age=slot.since,
        waits_for=waits_for(slot) or None,
        stuck=slot.stuck,
    )


def _disks(ledger: Ledger, slots: Sequence[Slot]) -> dict[tuple[str, str], tuple[str | None, str | None]]:
    """VM's and disk's name by run and disk, of those that the ledger knows."""
    found: dict[tuple[str, str], tuple[str | None, str | None]] = {}
    for run in {slot.run for slot in slots if slot.run}:
        disks = [slot.disk for slot in slots if slot.run == run]
        for disk, facts in ledger.disk_facts(run, disks).items():
            found[run, disk] = (facts.vm_name, facts.name)
    return found


def _show(console: Console, hosts: Sequence[HostRow]) -> None:
    if not hosts:
        console.print("No host is known: nothing was backed up since Redis was empty.")
    for host in hosts:
        counted = "not counted" if host.counted_ago is None else f"counted {duration(host.counted_ago)} ago"
        others = f", {host.others} of other programs" if host.others else ""
        console.print(
            f"Host {host.name} ({host.host}) of pool {host.pool}: {host.used} of"
            f" {host.effective_cap} in use, cap {host.cap}{others}; {counted}",
            markup=False,
        )
        table = TextTable("slot", "state", "for", "owner", "run", "VM", "disk", "waits for")
        for slot in host.slots:
            table.add_row(
                str(slot.number),
                "STUCK" if slot.stuck else slot.state,
                "-" if slot.state == "FREE" else duration(slot.age),
                slot.owner or "-",
                slot.run or "-",
                slot.vm or "-",
                slot.name or slot.disk or "-",
                slot.waits_for or "-",
            )
        console.print(str(table), markup=False)
        for line in host.troubles:
            console.print(f"  {line}", markup=False)
