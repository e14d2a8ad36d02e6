"""What a VM is besides its disks, kept with each restore point: name, memory, CPUs, networks, drives, notes.

It is the live VM's, exported right after the snapshot: its disks have the uuids that the restore point names,
so an import can be told which restored disk is which.
"""

from __future__ import annotations

import functools
import logging
from dataclasses import replace

from scheduler.context import ControlContext
from scheduler.runs.facts import VmInHand
from workers.errors import CbtfleetError
from workers.repository import MAX_VM_METADATA
from workers.xenapi import NotServed, Session

log = logging.getLogger(__name__)

DEADLINE = 60.0
"""Seconds. XAPI writes some records: it takes a moment, or something is wrong."""


def keep_vm_metadata(context: ControlContext, session: Session, vm: VmInHand) -> None:
    """Puts `metadata` into the VM's facts, or a line into their `warnings`: nothing fails without it."""
    try:
        data = session.download(f"/export_metadata?uuid={vm.uuid}", limit=MAX_VM_METADATA, deadline=DEADLINE)
        metadata = context.repository.keep_vm_metadata(vm.run, vm.uuid, data)
        vm.facts = replace(vm.facts, metadata=metadata)
    except NotServed as error:
        _say_once(f"{error}; restore points are made without VM metadata")
    except CbtfleetError as error:
        line = f'VM "{vm.facts.name}": the restore point is made without the VM\'s metadata: {error}'
        log.warning("%s", line)
        vm.warn(line)


@functools.cache
def _say_once(text: str) -> None:
    """A pool that has no metadata to give has none tomorrow: no remark every night."""
    log.info("%s", text)
