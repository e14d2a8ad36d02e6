"""XAPI's classes and their fields: the one table that every getter, setter and record comes from.

A field's default says its type: "" string, 0 int, 0.0 float, False bool, [] set, {} map, NULL a reference.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

NULL = "OpaqueRef:NULL"
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

_NAMED: dict[str, Any] = {"uuid": "", "name_label": "", "name_description": ""}
_OPERATIONS: dict[str, Any] = {"allowed_operations": [], "current_operations": {}}

FIELDS: dict[str, dict[str, Any]] = {
    "session": {
        "uuid": "", "this_host": NULL, "this_user": NULL, "last_active": EPOCH, "pool": False,
        "other_config": {}, "is_local_superuser": True, "subject": NULL, "validation_time": EPOCH,
        "auth_user_sid": "", "auth_user_name": "", "rbac_permissions": [], "tasks": [], "parent": NULL,
        "originator": "", "client_certificate": False,
    },
    "task": {
        **_NAMED, **_OPERATIONS, "created": EPOCH, "finished": EPOCH, "status": "pending",
        "resident_on": NULL,
        "progress": 0.0, "type": "<none/>", "result": "", "error_info": [], "other_config": {},
        "subtask_of": NULL, "subtasks": [], "backtrace": "()",
    },
    "pool": {
        **_NAMED, **_OPERATIONS, "master": NULL, "default_SR": NULL, "suspend_image_SR": NULL,
        "crash_dump_SR": NULL, "other_config": {}, "ha_enabled": False, "restrictions": {}, "tags": [],
        "redo_log_enabled": False, "wlb_enabled": False, "tls_verification_enabled": True,
    },
    "host": {
        **_NAMED, **_OPERATIONS, "API_version_major": 2, "API_version_minor": 21, "enabled": True,
        "software_version": {}, "other_config": {}, "capabilities": [], "resident_VMs": [], "hostname": "",
        "address": "", "metrics": NULL, "PBDs": [], "PIFs": [], "license_params": {}, "edition": "",
                                                                                   "tags": [],
        "control_domain": NULL, "cpu_info": {},
    },
    "host_metrics": {
        "uuid": "", "memory_total": 0, "memory_free": 0, "live": True, "last_updated": EPOCH,
        "other_config": {},
    },
    "network": {
        **_NAMED, **_OPERATIONS, "VIFs": [], "PIFs": [], "MTU": 1500, "other_config": {}, "bridge": "",
        "managed": True, "blobs": {}, "tags": [], "purpose": [], "assigned_ips": {},
    },
    "PIF": {
        "uuid": "", "device": "", "network": NULL, "host": NULL, "MAC": "", "MTU": 1500, "VLAN": -1,
        "physical": True, "currently_attached": True, "ip_configuration_mode": "Static", "IP": "",
        "netmask": "", "gateway": "", "DNS": "", "management": False, "other_config": {}, "managed": True,
        "IPv6": [], "ipv6_configuration_mode": "None", "primary_address_type": "IPv4",
    },
    "SM": {
        **_NAMED, "type": "", "vendor": "", "copyright": "", "version": "", "required_api_version": "1.1",
        "configuration": {}, "capabilities": [], "features": {}, "other_config": {}, "driver_filename": "",
    },
    "SR": {
        **_NAMED, **_OPERATIONS, "VDIs": [], "PBDs": [], "virtual_allocation": 0, "physical_utilisation": 0,
        "physical_size": 0, "type": "", "content_type": "user", "shared": False, "other_config": {},
        "tags": [], "sm_config": {}, "blobs": {}, "local_cache_enabled": False, "is_tools_sr": False,
        "clustered": False,
    },
    "PBD": {
        "uuid": "", "host": NULL, "SR": NULL, "device_config": {}, "currently_attached": True,
                                                                "other_config": {},
    },
    "VM": {
        **_NAMED, **_OPERATIONS, "power_state": "Halted", "user_version": 1, "is_a_template": False,
        "is_default_template": False, "suspend_VDI": NULL, "resident_on": NULL, "affinity": NULL,
        "memory_static_max": 1 << 30, "memory_dynamic_max": 1 << 30, "memory_dynamic_min": 1 << 30,
        "memory_static_min": 1 << 29, "VCPUs_max": 1, "VCPUs_at_startup": 1, "VBDs": [], "VIFs": [],
        "PV_args": "", "HVM_boot_policy": "BIOS order", "HVM_boot_params": {}, "platform": {},
                                                                            "other_config": {},
        "domid": -1, "domarch": "", "is_control_domain": False, "metrics": NULL, "guest_metrics": NULL,
        "xenstore_data": {}, "is_a_snapshot": False, "snapshot_of": NULL, "snapshots": [],
        "snapshot_time": EPOCH, "transportable_snapshot_id": "", "blobs": {}, "tags": [],
        "blocked_operations": {}, "snapshot_info": {}, "snapshot_metadata": "", "parent": NULL,
                               "children": [],
        "generation_id": "", "reference_label": "", "domain_type": "hvm",
    },
    "VDI": {
        **_NAMED, **_OPERATIONS, "SR": NULL, "VBDs": [], "crash_dumps": [], "virtual_size": 0,
        "physical_utilisation": 0, "type": "user", "sharable": False, "read_only": False, "other_config": {},
        "storage_lock": False, "location": "", "managed": True, "missing": False, "parent": NULL,
        "xenstore_data": {}, "sm_config": {}, "is_a_snapshot": False, "snapshot_of": NULL, "snapshots": [],
        "snapshot_time": EPOCH, "tags": [], "allow_caching": False, "on_boot": "persist",
        "metadata_of_pool": NULL, "metadata_latest": False, "is_tools_iso": False, "cbt_enabled": False,
    },
    "VBD": {
        "uuid": "", **_OPERATIONS, "VM": NULL, "VDI": NULL, "device": "", "userdevice": "0",
        "bootable": False,
        "mode": "RW", "type": "Disk", "unpluggable": True, "storage_lock": False, "empty": False,
        "other_config": {}, "currently_attached": False, "status_code": 0, "status_detail": "",
        "runtime_properties": {}, "qos_algorithm_type": "", "qos_algorithm_params": {},
        "qos_supported_algorithms": [], "metrics": NULL,
    },
    "message": {
        "uuid": "", "name": "", "priority": 3, "cls": "", "obj_uuid": "", "timestamp": EPOCH, "body": "",
    },
}  # fmt: skip

BACK_REFERENCES: dict[tuple[str, str], tuple[str, str]] = {
    ("VDI", "VBDs"): ("VBD", "VDI"),
    ("VDI", "snapshots"): ("VDI", "snapshot_of"),
    ("VM", "VBDs"): ("VBD", "VM"),
    ("VM", "snapshots"): ("VM", "snapshot_of"),
    ("SR", "VDIs"): ("VDI", "SR"),
    ("SR", "PBDs"): ("PBD", "SR"),
    ("host", "PBDs"): ("PBD", "host"),
    ("host", "PIFs"): ("PIF", "host"),
    ("host", "resident_VMs"): ("VM", "resident_on"),
    ("network", "PIFs"): ("PIF", "network"),
    ("task", "subtasks"): ("task", "subtask_of"),
}
"""Fields that are not kept: (class, field) is every object of the other class whose field points here."""

SETTABLE: dict[str, dict[str, str]] = {
    "pool": {"name_label": "pool-operator", "name_description": "pool-operator",
             "other_config": "pool-operator",
             "tags": "vm-operator"},
    "host": {"name_label": "pool-operator", "name_description": "pool-operator",
             "other_config": "pool-operator",
             "tags": "vm-operator"},
    "network": {"name_label": "pool-operator", "name_description": "pool-operator",
                "other_config": "vm-admin", "tags": "vm-operator"},
    "PIF": {"other_config": "pool-operator"},
    "PBD": {"other_config": "pool-operator", "device_config": "pool-operator"},
    "SM": {"other_config": "pool-operator"},
    "SR": {"name_label": "pool-operator", "name_description": "pool-operator",
           "other_config": "pool-operator",
           "tags": "vm-operator", "sm_config": "pool-operator"},
    "VM": {"name_label": "vm-admin", "name_description": "vm-admin", "other_config": "vm-admin",
           "tags": "vm-operator", "platform": "vm-admin", "xenstore_data": "vm-admin",
           "blocked_operations": "vm-admin", "HVM_boot_params": "vm-admin"},
    "VDI": {"name_description": "vm-admin", "other_config": "vm-admin", "tags": "vm-operator",
            "sm_config": "vm-admin", "xenstore_data": "vm-admin"},
    "VBD": {"other_config": "vm-admin", "bootable": "vm-admin", "mode": "vm-admin", "type": "vm-admin",
            "unpluggable": "vm-admin"},
    "task": {"other_config": "pool-operator"},
    "session": {"other_config": "pool-operator"},
}  # fmt: skip
"""Fields that callers may set without ado, and the role that it takes."""

CANONICAL = {name.lower(): name for name in FIELDS}
"""Class names as written, by the lower-case form that event.from also takes."""

NO_LISTING = {"session"}
"""Classes without get_all and get_all_records."""
