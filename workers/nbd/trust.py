"""Is the server the right one? The three verifications of the XenServer guide, over certificates alone.

certificate   the server's certificate is, byte for byte, the one that get_nbd_info told (over XAPI's own TLS)
public-key    its public key is the one of that certificate; the rest, validity too, is not looked at
ca            it chains to a CA of ours (which the TLS handshake checks) and bears the name `subject`
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from workers.nbd.errors import TlsMisconfigured, TlsUntrusted

_REPLACED = (
    "if the host's certificate was replaced, restart xapi-nbd there, which reads it when it starts;"
    " otherwise this is not the host"
)


@dataclass(frozen=True)
class Tls:
    """How to trust the server. "none": no TLS at all, for an insecure_nbd network; the caller has warned.

    `certificate_pem` and `subject` are as get_nbd_info gives them; a wildcard `subject` is possible.
    """

    mode: Literal["certificate", "public-key", "ca", "none"]
    certificate_pem: str | None = None
    subject: str | None = None
    ca_file: Path | None = None

    def expected(self) -> x509.Certificate:
        """The certificate to compare with. Raises TlsMisconfigured."""
        if not self.certificate_pem:
            raise TlsMisconfigured(
                f'nbd_tls = "{self.mode}" needs the certificate from get_nbd_info, which has none'
            )
        try:
            return x509.load_pem_x509_certificate(self.certificate_pem.encode())
        except ValueError as error:
            raise TlsMisconfigured(
                "the certificate from get_nbd_info cannot be read; look at the host's"
            ) from error


def check_peer(tls: Tls, peer_der: bytes | None, where: str) -> None:
    """Checks the certificate that the server proved in the handshake to own the key of.

    For "ca" the chain has been checked by the handshake. Raises TlsUntrusted, naming the check that failed.
    """
    if tls.mode == "none":
        return
    if not peer_der:
        raise TlsUntrusted(f"{where} showed no certificate; not read")
    try:
        peer = x509.load_der_x509_certificate(peer_der)
        if tls.mode == "certificate":
            _check_certificate(tls.expected(), peer, where)
        elif tls.mode == "public-key":
            _check_public_key(tls.expected(), peer, where)
        elif not names_match(peer, tls.subject or ""):
            raise TlsUntrusted(
                f"{where} failed the name check: its certificate is not for {tls.subject!r} but for"
                f" {_names_text(peer)}; give the host a certificate with that name, or use"
                ' nbd_tls = "certificate"'
            )
    except (ValueError, UnsupportedAlgorithm, x509.DuplicateExtension) as error:
        raise TlsUntrusted(f"{where} showed a certificate that cannot be read; not read") from error


def names_match(certificate: x509.Certificate, subject: str) -> bool:
    """Does the certificate bear `subject`: a DNS name, an IP address, or a wildcard as it is written?

    The subject's common name counts only when there is no DNS name and no IP address in subjectAltName. A
    wildcard stands for exactly one whole label, the first, before at least two more.
    """
    dns_names, addresses = _alternative_names(certificate)
    if not dns_names and not addresses:
        dns_names = _common_names(certificate)[-1:]
    wanted = _plain(subject)
    if not wanted:
        return False
    try:
        address = ipaddress.ip_address(wanted)
    except ValueError:
        return any(_name_matches(_plain(pattern), wanted) for pattern in dns_names)
    return address in addresses or wanted in map(_plain, dns_names)


def _check_certificate(expected: x509.Certificate, peer: x509.Certificate, where: str) -> None:
    if peer.public_bytes(Encoding.DER) == expected.public_bytes(Encoding.DER):
        return
    advice = _REPLACED
    if _key_bytes(peer) == _key_bytes(expected):
        advice = 'the key is the same: restart xapi-nbd on that host, or use nbd_tls = "public-key"'
    raise TlsUntrusted(
        f"{where} failed the certificate check: it showed {_fingerprint(peer)} where get_nbd_info says"
        f" {_fingerprint(expected)}; {advice}"
    )


def _check_public_key(expected: x509.Certificate, peer: x509.Certificate, where: str) -> None:
    if _key_bytes(peer) != _key_bytes(expected):
        raise TlsUntrusted(
            f"{where} failed the public-key check: {_fingerprint(peer)} has another key than get_nbd_info's"
            f" {_fingerprint(expected)}; {_REPLACED}"
        )


def _alternative_names(
    certificate: x509.Certificate,
) -> tuple[list[str], list[ipaddress.IPv4Address | ipaddress.IPv6Address]]:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return [], []
    addresses = [
        address
        for address in names.get_values_for_type(x509.IPAddress)
        if isinstance(address, ipaddress.IPv4Address | ipaddress.IPv6Address)
    ]
    return names.get_values_for_type(x509.DNSName), addresses


def _common_names(certificate: x509.Certificate) -> list[str]:
    found = certificate.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
    return [name.value for name in found if isinstance(name.value, str)]


def _name_matches(pattern: str, wanted: str) -> bool:
    if pattern == wanted:
        return True
    star, _, rest = pattern.partition(".")
    label, _, parent = wanted.partition(".")
    return star == "*" and label not in ("", "*") and "." in rest and "*" not in rest and rest == parent


def _plain(name: str) -> str:
    return name.lower().removesuffix(".")


def _key_bytes(certificate: x509.Certificate) -> bytes:
    return certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _fingerprint(certificate: x509.Certificate) -> str:
    return f"SHA-256 {certificate.fingerprint(hashes.SHA256()).hex()[:16]}…"


def _names_text(certificate: x509.Certificate) -> str:
    dns_names, addresses = _alternative_names(certificate)
    names = [*dns_names, *map(str, addresses)] or _common_names(certificate)[-1:]
    return ", ".join(repr(name[:80]) for name in names[:4]) or "nobody"
