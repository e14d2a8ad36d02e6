"""get_nbd_info: which addresses, which certificate, and who can spoil it."""

from __future__ import annotations

import ssl
from typing import Any

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtensionOID

from infra.simulator import DiskSpec, SimulatedPool


def test_every_address_of_every_host(pool: SimulatedPool, api: Any, vm: Any) -> None:
    snapshot = api.VDI.snapshot(vm.disks[0])
    entries = api.VDI.get_nbd_info(snapshot)
    assert sorted(entry["address"] for entry in entries) == [
        "127.0.1.1", "127.0.1.2", "127.0.2.1", "127.0.2.2", "fd00::1/64", "fd00::2/64",
    ]  # fmt: skip
    for entry in entries:
        assert set(entry) == {"exportname", "address", "port", "cert", "subject"}
        assert entry["exportname"] == f"/{api.VDI.get_uuid(snapshot)}?session_id={api.ref}"
        assert entry["port"] == str(pool.state.nbd_port)
        assert entry["cert"].endswith("-----END CERTIFICATE-----")
        host = next(host for host in pool.hosts if host.name == entry["subject"])
        ipv4 = entry["address"].replace("fd00::", "127.0.1.").removesuffix("/64")
        assert ipv4 in host.addresses


def test_only_hosts_networks_and_cards_that_serve(
    start_pool: Any, login: Any, machine: Any, failure: Any
) -> None:
    pool = start_pool(hosts=2, local_srs=True, ipv6=False)
    api = login(pool)
    disks = (DiskSpec(4 << 20), DiskSpec(4 << 20, sr="local"))
    shared, local = machine(pool, api, disks, host=1).disks

    def found(vdi: str) -> list[str]:
        return sorted(entry["address"] for entry in api.VDI.get_nbd_info(vdi))

    assert found(shared) == ["127.0.1.1", "127.0.1.2", "127.0.2.1", "127.0.2.2"]
    assert found(local) == ["127.0.1.2", "127.0.2.2"]
    pif = next(ref for ref, record in api.PIF.get_all_records().items() if record["IP"] == "127.0.2.2")
    api.PIF.unplug(pif)
    assert found(local) == ["127.0.1.2"]
    api.network.remove_purpose(api.network.get_by_name_label("management")[0], "nbd")
    assert found(local) == []
    assert found(shared) == ["127.0.2.1"]
    for pbd in api.SR.get_PBDs(api.VDI.get_SR(shared)):
        api.PBD.unplug(pbd)
    assert found(shared) == []


def test_one_dead_host_spoils_it_for_all(start_pool: Any, login: Any, machine: Any, failure: Any) -> None:
    pool = start_pool(hosts=2)
    api = login(pool)
    vdi = machine(pool, api).disks[0]
    host = pool.hosts[1]
    pool.set_host(host.uuid, "unreachable")
    assert failure(api.VDI.get_nbd_info, vdi) == ["CANNOT_CONTACT_HOST", host.ref]
    pool.set_host(host.uuid, "down")
    assert failure(api.VDI.get_nbd_info, vdi) == ["HOST_OFFLINE", host.ref]
    assert not api.host_metrics.get_live(api.host.get_metrics(host.ref))
    assert all(api.PBD.get_currently_attached(pbd) for pbd in api.PBD.get_all())
    pool.set_host(host.uuid, "up")
    assert len(api.VDI.get_nbd_info(vdi)) == 6


def test_default_certificates_have_a_san_and_nothing_else(pool: SimulatedPool, api: Any, vm: Any) -> None:
    entry = api.VDI.get_nbd_info(vm.disks[0])[0]
    certificate = x509.load_pem_x509_certificate(entry["cert"].encode())
    assert [extension.oid for extension in certificate.extensions] == [ExtensionOID.SUBJECT_ALTERNATIVE_NAME]
    assert certificate.issuer == certificate.subject


def test_certificates_of_a_ca(start_pool: Any, login: Any, machine: Any, nbd: Any, nbd_info: Any) -> None:
    pool = start_pool(certificates="ca")
    api = login(pool)
    info = nbd_info(api, machine(pool, api, (DiskSpec(4 << 20),), running=False).disks[0])
    assert info["cert"].count("BEGIN CERTIFICATE") == 1
    assert info["cert"] not in pool.ca_file.read_text()
    assert len(nbd(info).open(info)) == 134
    context = ssl.create_default_context(cafile=str(pool.ca_file))
    client = nbd(info)
    client.greet()
    client.option(5)
    client.option_reply()
    client.socket = context.wrap_socket(client.socket, server_hostname=info["subject"])
    assert len(client.export(info)) == 134


def test_a_rotated_certificate_reaches_nbd_at_its_restart(
    start_pool: Any, login: Any, machine: Any, nbd: Any, nbd_info: Any
) -> None:
    pool = start_pool()
    api = login(pool)
    vdi = api.VDI.snapshot(machine(pool, api).disks[0])
    old = nbd_info(api, vdi)
    pool.rotate_certificate(pool.hosts[0].uuid)
    again = login(pool)
    new = nbd_info(again, vdi)
    assert new["cert"] != old["cert"]
    with pytest.raises(ssl.SSLCertVerificationError):
        nbd(new).open(new)
    assert len(nbd(old).open(old)) == 134
    pool.restart_nbd(pool.hosts[0].uuid)
    assert len(nbd(new).open(new)) == 134
