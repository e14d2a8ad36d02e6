"""Which certificate is accepted in which mode, and what is said about the others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.certificates import Identity, make_identity
from workers.errors import ConfigurationError
from workers.nbd import Tls, TlsMisconfigured, TlsUntrusted
from workers.nbd.tls import TlsClient, _server_name
from workers.nbd.trust import check_peer, names_match

HOST = make_identity(common_name="xen1.example", dns=("xen1.example",))
RENEWED = make_identity(common_name="xen1.example", dns=("xen1.example",), key=HOST.key)
REPLACED = make_identity(common_name="xen1.example", dns=("xen1.example",))
EXPIRED = make_identity(dns=("xen1.example",), expired=True)


@pytest.mark.parametrize(
    ("names", "subject", "expected"),
    [
        ({"dns": ("xen1.example",)}, "xen1.example", True),
        ({"dns": ("xen1.example",)}, "XEN1.Example.", True),
        ({"dns": ("XEN1.example",)}, "xen1.example", True),
        ({"dns": ("xen2.example", "xen1.example")}, "xen1.example", True),
        ({"dns": ("xen2.example",)}, "xen1.example", False),
        ({"dns": ("xen1",)}, "xen1", True),
        # wildcards: one whole label, the first, two more behind it
        ({"dns": ("*.lab.example",)}, "xen1.lab.example", True),
        ({"dns": ("*.lab.example",)}, "a.xen1.lab.example", False),
        ({"dns": ("*.lab.example",)}, "lab.example", False),
        ({"dns": ("*.lab.example",)}, ".lab.example", False),
        ({"dns": ("*.example",)}, "xen1.example", False),
        ({"dns": ("*",)}, "xen1", False),
        ({"dns": ("x*.lab.example",)}, "xen1.lab.example", False),
        ({"dns": ("*.*.example",)}, "a.b.example", False),
        # get_nbd_info gives the wildcard itself when the certificate has nothing else
        ({"dns": ("*.lab.example",)}, "*.lab.example", True),
        ({"dns": ("*.lab.example",)}, "*.other.example", False),
        ({"dns": ("xen1.lab.example",)}, "*.lab.example", False),
        # addresses
        ({"addresses": ("192.0.2.7",)}, "192.0.2.7", True),
        ({"addresses": ("192.0.2.8",)}, "192.0.2.7", False),
        ({"addresses": ("2001:db8::7",)}, "2001:0db8:0::7", True),
        ({"dns": ("192.0.2.7",)}, "192.0.2.7", True),
        ({"dns": ("*.2.0.192",)}, "192.0.2.7", False),
        # the common name counts only where there is no alternative name
        ({"common_name": "xen1.example"}, "xen1.example", True),
        ({"common_name": "*.lab.example"}, "xen1.lab.example", True),
        ({"common_name": "192.0.2.7"}, "192.0.2.7", True),
        ({"common_name": "xen1.example", "dns": ("xen2.example",)}, "xen1.example", False),
        ({"common_name": "xen1.example", "addresses": ("192.0.2.7",)}, "xen1.example", False),
        ({}, "xen1.example", False),
        ({"dns": ("xen1.example",)}, "", False),
        ({"common_name": "."}, ".", False),
    ],
)
def test_names(names: dict[str, Any], subject: str, expected: bool) -> None:
    assert names_match(make_identity(key=HOST.key, **names).certificate, subject) is expected


@pytest.mark.parametrize(
    ("tls", "peer"),
    [
        (Tls("certificate", HOST.pem, "whatever"), HOST),
        (Tls("certificate", HOST.pem + "\n", None), HOST),
        (Tls("certificate", EXPIRED.pem), EXPIRED),
        (Tls("public-key", HOST.pem), HOST),
        (Tls("public-key", HOST.pem), RENEWED),
        (Tls("ca", None, "xen1.example", Path("ca.pem")), REPLACED),
        (Tls("none"), REPLACED),
    ],
)
def test_trusted(tls: Tls, peer: Identity) -> None:
    check_peer(tls, peer.der, "server")


@pytest.mark.parametrize(
    ("tls", "der", "text"),
    [
        (Tls("certificate", HOST.pem), REPLACED.der, "certificate check.*replaced, restart xapi-nbd"),
        (Tls("certificate", HOST.pem), RENEWED.der, 'certificate check.*key is the same.*"public-key"'),
        (Tls("public-key", HOST.pem), REPLACED.der, "public-key check.*restart xapi-nbd"),
        (
            Tls("ca", None, "xen2.example", Path("ca.pem")),
            HOST.der,
            "name check.*'xen2.example'.*'xen1.example'",
        ),
        (Tls("ca", None, "x", Path("ca.pem")), make_identity(key=HOST.key).der, "name check.*nobody"),
        (Tls("certificate", HOST.pem), None, "no certificate"),
        (Tls("public-key", HOST.pem), b"\x30\x03abc", "cannot be read"),
    ],
)
def test_untrusted(tls: Tls, der: bytes | None, text: str) -> None:
    with pytest.raises(TlsUntrusted, match=text) as caught:
        check_peer(tls, der, "server")
    assert caught.value.advice == "give-up"


@pytest.mark.parametrize(
    ("tls", "text"),
    [
        (Tls("certificate"), "needs the certificate"),
        (Tls("public-key", ""), "needs the certificate"),
        (Tls("certificate", "-----BEGIN CERTIFICATE-----\nxx\n-----END CERTIFICATE-----"), "cannot be read"),
        (Tls("ca", None, "xen1.example"), "needs ca_file"),
        (Tls("ca", None, None, Path("/dev/null")), "the subject"),
        (
            Tls("ca", None, "xen1.example", Path("/nowhere/ca.pem")),
            "cannot read /nowhere/ca.pem: No such file",
        ),
        (Tls("ca", None, "xen1.example", Path("/dev/null")), "/dev/null holds no certificate"),
    ],
)
def test_misconfigured(tls: Tls, text: str) -> None:
    with pytest.raises(TlsMisconfigured, match=text) as caught:
        TlsClient.prepare(tls)
    assert isinstance(caught.value, ConfigurationError)


@pytest.mark.parametrize(
    ("subject", "name"),
    [
        ("xen1.example", "xen1.example"),
        ("xen1", "xen1"),
        ("my_host.example", "my_host.example"),
        (None, None),
        ("", None),
        ("*.lab.example", None),
        ("192.0.2.7", None),
        ("2001:db8::7", None),
        ("-bad", None),
        ("a..b", None),
        ("x" * 64 + ".example", None),
        ("x.example\n", None),
        ("héte", None),
    ],
)
def test_server_name(subject: str | None, name: str | None) -> None:
    assert _server_name(subject) == name
