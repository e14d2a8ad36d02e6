"""Whom a session trusts, and that it says nothing to anybody else."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.certificates import Identity, make_identity
from workers.errors import ConfigurationError
from workers.xenapi import PoolUnreachable, PoolUntrusted, Session


def _log_in(settings: Any) -> None:
    Session.login("lab", settings).logout()


@pytest.mark.parametrize(
    "style", [str.upper, str.lower, lambda d: ":".join(d[i : i + 2] for i in range(0, 64, 2))]
)
def test_a_pinned_certificate_needs_no_authority_and_no_name(
    start_xapi: Any, style: Callable[[str], str]
) -> None:
    xapi = start_xapi(names=["127.0.9.9"])
    _log_in(xapi.settings(ca_file=None, certificate_sha256=style(xapi.digest)))
    assert xapi.sessions == set()


def test_another_certificate_than_the_pinned_one_gets_nothing(xapi: Any) -> None:
    with pytest.raises(
        PoolUntrusted, match=f"SHA-256 {xapi.digest}, which is not certificate_sha256"
    ) as caught:
        _log_in(xapi.settings(certificate_sha256="0" * 64))
    assert isinstance(caught.value, ConfigurationError)
    assert xapi.bytes_in == 0


def _issued(ca: Identity, folder: Path, address: str) -> tuple[bytes, bytes]:
    paths = make_identity(addresses=(address,), issuer=ca).write(folder, "leaf")
    return paths[0].read_bytes(), paths[1].read_bytes()


def test_a_certificate_for_another_name_gets_nothing(start_xapi: Any, tmp_path: Path) -> None:
    ca = make_identity(common_name="the site's CA", authority=True)
    authority, _ = ca.write(tmp_path, "ca")
    xapi = start_xapi(issued=_issued(ca, tmp_path, "127.0.9.9"))
    with pytest.raises(PoolUntrusted, match=r"cannot trust the certificate of 127\.0\.3\.1: .*127\.0\.3\.1"):
        _log_in(xapi.settings(ca_file=authority))
    assert xapi.bytes_in == 0


def test_a_certificate_that_the_ca_issued_for_this_name(start_xapi: Any, tmp_path: Path) -> None:
    ca = make_identity(common_name="the site's CA", authority=True)
    authority, _ = ca.write(tmp_path, "ca")
    _log_in(start_xapi(issued=_issued(ca, tmp_path, "127.0.3.1")).settings(ca_file=authority))


def test_a_hosts_own_certificate_in_ca_file_needs_no_name(start_xapi: Any, tmp_path: Path) -> None:
    """A pool's default certificates are self-signed, and are reached by more names than they bear."""
    xapi = start_xapi(names=["127.0.9.9"])
    bundle = tmp_path / "hosts.pem"
    other = start_xapi("127.0.3.2", names=["127.0.9.8"])
    bundle.write_bytes(other.certificate.read_bytes() + b"\n" + xapi.certificate.read_bytes())
    _log_in(xapi.settings(ca_file=bundle))
    with pytest.raises(PoolUntrusted, match="certificate of"):
        _log_in(xapi.settings(ca_file=other.certificate))


def test_the_systems_authorities_do_not_know_a_self_signed_one(xapi: Any) -> None:
    with pytest.raises(PoolUntrusted, match="set ca_file or certificate_sha256"):
        _log_in(xapi.settings(ca_file=None))
    assert xapi.bytes_in == 0


def test_no_verification_is_said_loudly_and_once(xapi: Any, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(3):
        _log_in(xapi.settings(ca_file=None, verify_tls=False))
    assert len(caplog.records) == 1
    assert "verify_tls = false" in caplog.text
    assert "read the password" in caplog.text


def test_a_pin_is_kept_even_without_verification(xapi: Any, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(PoolUntrusted):
        _log_in(xapi.settings(verify_tls=False, certificate_sha256="0" * 64))
    assert caplog.text == ""


def test_plain_http_on_this_machine_is_said(start_xapi: Any, caplog: pytest.LogCaptureFixture) -> None:
    xapi = start_xapi(tls=False)
    _log_in(xapi.settings())
    assert "http:// is not encrypted" in caplog.text


def test_plain_http_elsewhere_is_refused_before_connecting(start_xapi: Any) -> None:
    xapi = start_xapi(tls=False)
    xapi.say("session.login_with_password", xapi.fail("HOST_IS_SLAVE", "192.0.2.7"))
    for settings in (xapi.settings(url="http://192.0.2.7"), xapi.settings()):
        with pytest.raises(ConfigurationError, match=r"password to 192\.0\.2\.7 in clear"):
            _log_in(settings)


@pytest.mark.parametrize(
    ("content", "why"), [(None, "No such file"), ("no certificate", "holds no certificate")]
)
def test_a_bad_ca_file(xapi: Any, tmp_path: Path, content: str | None, why: str) -> None:
    path = tmp_path / "ca.pem"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ConfigurationError, match=rf"pool lab: ca_file: cannot use .*ca\.pem: .*{why}"):
        _log_in(xapi.settings(ca_file=path))


def test_nobody_there(xapi: Any) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.3.1", 0))
        url = f"https://127.0.3.1:{taken.getsockname()[1]}"
        with pytest.raises(PoolUnreachable, match=r"cannot connect to 127\.0\.3\.1:\d+: Connection refused"):
            _log_in(xapi.settings(url=url))


def test_no_such_name(xapi: Any) -> None:
    with pytest.raises(PoolUnreachable, match=r"cannot connect to xen\.invalid:443: "):
        _log_in(xapi.settings(url="https://xen.invalid"))


def test_tls_to_a_server_without(start_xapi: Any, xapi: Any) -> None:
    plain = start_xapi("127.0.3.2", tls=False)
    with pytest.raises(PoolUnreachable, match=r"TLS with 127\.0\.3\.2:.* failed"):
        _log_in(xapi.settings(url=f"https://127.0.3.2:{plain.port}"))


def test_a_server_that_accepts_and_stays_silent(xapi: Any) -> None:
    with socket.create_server(("127.0.3.3", 0)) as server:
        url = f"https://127.0.3.3:{server.getsockname()[1]}"
        with pytest.raises(PoolUnreachable, match="no answer in time"):
            _log_in(xapi.settings(url=url, timeout=0.3))


def test_a_server_that_hangs_up_in_the_handshake(xapi: Any) -> None:
    with socket.create_server(("127.0.3.3", 0)) as server:

        def hang_up() -> None:
            peer, _ = server.accept()
            peer.recv(1)
            peer.close()

        thread = threading.Thread(target=hang_up)
        thread.start()
        with pytest.raises(PoolUnreachable):
            _log_in(xapi.settings(url=f"https://127.0.3.3:{server.getsockname()[1]}"))
        thread.join()


def test_old_tls_is_not_spoken(xapi: Any) -> None:
    from workers.xenapi.connection import tls_context

    for settings in (xapi.settings(), xapi.settings(verify_tls=False, ca_file=None)):
        assert tls_context("lab", settings).minimum_version >= ssl.TLSVersion.TLSv1_2


@pytest.mark.parametrize("url", ["https://root:secret@xen1.example", "https://xen1.example:port"])
def test_urls_that_cannot_be_used(xapi: Any, url: str) -> None:
    with pytest.raises((ConfigurationError, ValueError)) as caught:
        _log_in(xapi.settings(url=url))
    if isinstance(caught.value, ConfigurationError):
        assert "secret" not in str(caught.value)
