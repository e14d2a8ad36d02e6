"""Throw-away certificates for the tests: self-signed or from a throw-away CA, with any names."""

from __future__ import annotations

import datetime
import ipaddress
import ssl
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


@dataclass(frozen=True)
class Identity:
    """A certificate and its private key."""

    certificate: x509.Certificate
    key: Key

    @property
    def pem(self) -> str:
        """As get_nbd_info gives it: without a final newline."""
        return self.certificate.public_bytes(Encoding.PEM).decode().rstrip("\n")

    @property
    def der(self) -> bytes:
        return self.certificate.public_bytes(Encoding.DER)

    def write(self, folder: Path, name: str) -> tuple[Path, Path]:
        """Writes NAME-cert.pem and NAME-key.pem."""
        paths = folder / f"{name}-cert.pem", folder / f"{name}-key.pem"
        paths[0].write_text(self.pem + "\n")
        paths[1].write_bytes(
            self.key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())
        )
        return paths

    def server_context(
        self, folder: Path, version: ssl.TLSVersion | None = None, ciphers: str | None = None
    ) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*self.write(folder, "peer"))
        if version is not None:
            context.minimum_version = context.maximum_version = version
        if ciphers is not None:
            context.set_ciphers(ciphers)
        return context


def make_identity(
    *,
    common_name: str = "",
    dns: tuple[str, ...] = (),
    addresses: tuple[str, ...] = (),
    issuer: Identity | None = None,
    key: Key | None = None,
    authority: bool = False,
    expired: bool = False,
) -> Identity:
    """A certificate with these names; self-signed without an issuer. Without any name it has no SAN."""
    key = key or ec.generate_private_key(ec.SECP256R1())
    now = datetime.datetime.now(datetime.UTC)
    start = now - datetime.timedelta(days=9)
    end = now + datetime.timedelta(days=-1 if expired else 9)
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, common_name)] if common_name else [])
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.certificate.subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(end)
        .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
    )
    names = [x509.DNSName(name) for name in dns] + [
        x509.IPAddress(ipaddress.ip_address(a)) for a in addresses
    ]
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return Identity(builder.sign(issuer.key if issuer else key, hashes.SHA256()), key)
