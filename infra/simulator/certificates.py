"""Certificates as XenServer makes them: self-signed with nothing but a SAN, or issued by a CA."""

from __future__ import annotations

import hashlib
import ipaddress
import ssl
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID

_PEM = serialization.Encoding.PEM


@dataclass(frozen=True)
class Authority:
    key: rsa.RSAPrivateKey = field(repr=False)
    certificate: x509.Certificate

    @property
    def pem(self) -> str:
        return self.certificate.public_bytes(_PEM).decode()

    @classmethod
    def create(cls, name: str) -> Authority:
        key = rsa.generate_private_key(65537, 2048)
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"{name} certificate authority")])
        certificate = (
            _builder(subject, subject, key)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(_CA_USAGE, critical=True)
            .sign(key, hashes.SHA256())
        )
        return cls(key, certificate)


@dataclass(frozen=True)
class HostCertificate:
    """One host's certificate and key. `subject` is the first DNS name in it."""

    pem: str
    key_pem: str = field(repr=False)
    subject: str

    @property
    def leaf_pem(self) -> str:
        """As get_nbd_info gives it: the leaf alone, no line end after it."""
        return self.pem.rstrip("\n")

    @property
    def sha256(self) -> str:
        return hashlib.sha256(ssl.PEM_cert_to_DER_cert(self.pem)).hexdigest()

    @classmethod
    def create(cls, hostname: str, addresses: list[str], authority: Authority | None) -> HostCertificate:
        key = rsa.generate_private_key(65537, 2048)
        names: list[x509.GeneralName] = [x509.DNSName(hostname)]
        names += [x509.IPAddress(ipaddress.ip_address(address)) for address in addresses]
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, hostname)])
        issuer, signer = (authority.certificate.subject, authority.key) if authority else (subject, key)
        builder = _builder(subject, issuer, key)
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        if authority:
            issuer_key = x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.key.public_key())
            builder = builder.add_extension(issuer_key, critical=False)
        pem = builder.sign(signer, hashes.SHA256()).public_bytes(_PEM).decode()
        key_pem = key.private_bytes(
            _PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ).decode()
        return cls(pem, key_pem, hostname)

    def server_context(self, folder: Path) -> ssl.SSLContext:
        """TLS as XAPI's stunnel and xapi-nbd speak it: 1.2 only, ECDHE-RSA with AES-GCM, secp384r1."""
        path = folder / f"{self.subject}-{self.sha256[:8]}.pem"
        if not path.exists():
            path.touch(mode=0o600)
            path.write_text(self.key_pem + self.pem)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_2
        context.set_ciphers("ECDHE-RSA-AES256-GCM-SHA384:ECDHE-RSA-AES128-GCM-SHA256")
        context.set_ecdh_curve("secp384r1")
        context.load_cert_chain(path)
        return context


_CA_USAGE = x509.KeyUsage(
    digital_signature=False,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    key_cert_sign=True,
    crl_sign=True,
    encipher_only=False,
    decipher_only=False,
)


def _builder(subject: x509.Name, issuer: x509.Name, key: rsa.RSAPrivateKey) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=3650))
    )
