"""The certificate authority of a broker, and the certificates that it signs (RFC 5280).

The broker can never read the authority's key. Keys are P-256, in files of mode 0600.
"""

from __future__ import annotations

import contextlib
import datetime
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from mqttkit.errors import UsageError
from mqttkit.files import make_private_directory, read_bytes, write_secret

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

AUTHORITY_DAYS = 3_650
LEAF_DAYS = 365
WARN_DAYS = 30
"""A certificate expires soon when this many days remain."""
SKEW = datetime.timedelta(minutes=5)
"""A certificate is valid from a little before now, for clients whose clocks are slow."""
ALWAYS = ("localhost", "127.0.0.1", "::1")
"""Names that every server certificate contains."""
CERTIFICATE_NAME, KEY_NAME = "ca.crt", "ca.key"
MAX_COMMON_NAME = 64
"""Bytes (RFC 5280, ub-common-name)."""


@dataclass(frozen=True)
class Issued:
    """A certificate and its private key, both PEM."""

    certificate: bytes
    """The certificate."""
    key: bytes = field(repr=False)
    """Its key, PKCS #8 without a passphrase."""


@dataclass(frozen=True, kw_only=True)
class CertificateInfo:
    """The contents of a certificate."""

    subject: str
    """Common name."""
    issuer: str
    """Common name of its issuer."""
    names: tuple[str, ...]
    """Host names and addresses it is valid for."""
    serial: str
    """Serial number, hexadecimal."""
    not_before: datetime.datetime
    """Valid from."""
    not_after: datetime.datetime
    """Valid until."""

    def days_left(self, now: datetime.datetime | None = None) -> float:
        """Return the days until it expires; negative if it has expired."""
        return (self.not_after - (now or _now())).total_seconds() / 86_400

    def state(self, now: datetime.datetime | None = None) -> str:
        """Return `valid`, `expiring` (30 days or less), `expired` or `not yet valid`."""
        if (now or _now()) < self.not_before:
            return "not yet valid"
        days = self.days_left(now)
        return "expired" if days <= 0 else "expiring" if days <= WARN_DAYS else "valid"


@dataclass(frozen=True)
class Authority:
    """A certificate authority: it signs servers and clients."""

    certificate: x509.Certificate
    key: EllipticCurvePrivateKey = field(repr=False)

    @classmethod
    def create(cls, name: str, *, days: int = AUTHORITY_DAYS, now: datetime.datetime | None = None) -> Authority:
        """Create a new authority."""
        from cryptography.hazmat.primitives.asymmetric import ec

        return cls._self_signed(name, ec.generate_private_key(ec.SECP256R1()), days, now)

    @classmethod
    def load(cls, directory: Path) -> Authority:
        """Read an authority; raise UsageError if there is none or its files do not match."""
        from cryptography import x509
        from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
        from cryptography.hazmat.primitives.serialization import load_pem_private_key

        if not (directory / KEY_NAME).exists():
            raise UsageError(
                f"{directory} contains no certificate authority", hint="Create one with: mqttkit broker cert init"
            )
        try:
            certificate = x509.load_pem_x509_certificate(read_bytes(directory / CERTIFICATE_NAME))
            key = load_pem_private_key(read_bytes(directory / KEY_NAME), password=None)
        except (ValueError, TypeError) as error:
            raise UsageError(f"the certificate authority in {directory} cannot be read: {error}") from error
        if not isinstance(key, EllipticCurvePrivateKey) or key.public_key() != certificate.public_key():
            raise UsageError(f"key and certificate of the authority in {directory} do not match")
        return cls(certificate, key)

    def save(self, directory: Path) -> None:
        """Write key and certificate."""
        make_private_directory(directory)
        write_secret(directory / KEY_NAME, _key_pem(self.key))
        write_secret(directory / CERTIFICATE_NAME, self.pem, mode=0o644)

    def revocation_list(self, before: bytes | None = None, serials: Sequence[str] = ()) -> bytes:
        """Return a signed list of revoked certificates, PEM: those of the list `before`, and these serial numbers.

        It is valid as long as the authority, because brokers refuse every client once their list has expired.
        """
        from cryptography import x509
        from cryptography.hazmat.primitives import hashes
        from cryptography.hazmat.primitives.serialization import Encoding

        revoked = {int(serial, 16) for serial in serials}
        if before:
            revoked |= {entry.serial_number for entry in x509.load_pem_x509_crl(before)}
        now = _now()
        builder = x509.CertificateRevocationListBuilder().issuer_name(self.certificate.subject)
        builder = builder.last_update(now - SKEW).next_update(self.certificate.not_valid_after_utc)
        for serial in sorted(revoked):
            entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(now)
            builder = builder.add_revoked_certificate(entry.build())
        return builder.sign(self.key, hashes.SHA256()).public_bytes(Encoding.PEM)

    def has_key_of(self, certificate: bytes) -> bool:
        """Return whether a PEM certificate is one of this authority, perhaps an older one."""
        from cryptography import x509

        try:
            return x509.load_pem_x509_certificate(certificate).public_key() == self.key.public_key()
        except ValueError:
            return False

    def encrypted_key(self, passphrase: str) -> bytes:
        """Return the key as PEM, encrypted with a passphrase."""
        from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, PrivateFormat

        encryption = BestAvailableEncryption(passphrase.encode())
        return self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)

    @classmethod
    def decrypted(cls, certificate: bytes, key: bytes, passphrase: str) -> Authority:
        """Return the authority of `encrypted_key`; raise UsageError if the passphrase is wrong."""
        from cryptography import x509
        from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
        from cryptography.hazmat.primitives.serialization import load_pem_private_key

        try:
            found = load_pem_private_key(key, password=passphrase.encode())
            authority = x509.load_pem_x509_certificate(certificate)
        except (ValueError, TypeError) as error:
            raise UsageError("the authority's key cannot be decrypted: the passphrase is wrong") from error
        if not isinstance(found, EllipticCurvePrivateKey) or found.public_key() != authority.public_key():
            raise UsageError("key and certificate of the authority do not match")
        return cls(authority, found)

    @property
    def pem(self) -> bytes:
        """The certificate, PEM."""
        from cryptography.hazmat.primitives.serialization import Encoding

        return self.certificate.public_bytes(Encoding.PEM)

    def renewed(self, *, days: int = AUTHORITY_DAYS, now: datetime.datetime | None = None) -> Authority:
        """Return the authority with a new validity and the same key: the certificates it signed stay valid."""
        return self._self_signed(_common_name(self.certificate.subject), self.key, days, now)

    def sign_server(
        self, names: Sequence[str] = (), *, days: int = LEAF_DAYS, now: datetime.datetime | None = None
    ) -> Issued:
        """Sign a new server key for these host names and addresses, and for loopback."""
        every = list(dict.fromkeys((*names, *ALWAYS)))
        for name in every:
            _general_name(name)
        return self._sign(every[0][:MAX_COMMON_NAME], every, server=True, days=days, now=now)

    def sign_client(self, name: str, *, days: int = LEAF_DAYS, now: datetime.datetime | None = None) -> Issued:
        """Sign a new client key for a user of this name."""
        if not name or len(name.encode(errors="replace")) > MAX_COMMON_NAME or not name.isprintable():
            raise UsageError(f"a client certificate cannot be for {name!r}: 1 to {MAX_COMMON_NAME} bytes")
        return self._sign(name, (), server=False, days=days, now=now)

    @classmethod
    def _self_signed(
        cls, name: str, key: EllipticCurvePrivateKey, days: int, now: datetime.datetime | None
    ) -> Authority:
        from cryptography import x509
        from cryptography.hazmat.primitives import hashes

        builder = _builder(name, name, key, *_validity(days, now))
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        builder = builder.add_extension(_usage(signs=True), critical=True)
        builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        return cls(builder.sign(key, hashes.SHA256()), key)

    def _sign(
        self, name: str, names: Sequence[str], *, server: bool, days: int, now: datetime.datetime | None
    ) -> Issued:
        from cryptography import x509
        from cryptography.hazmat.primitives import hashes
        from cryptography.hazmat.primitives.asymmetric import ec
        from cryptography.hazmat.primitives.serialization import Encoding
        from cryptography.x509.oid import ExtendedKeyUsageOID

        begin, end = _validity(days, now)
        last = self.certificate.not_valid_after_utc
        if last <= (now or _now()):
            raise UsageError("the certificate authority has expired", hint="Renew it: mqttkit broker cert renew --ca")
        key = ec.generate_private_key(ec.SECP256R1())
        usage = ExtendedKeyUsageOID.SERVER_AUTH if server else ExtendedKeyUsageOID.CLIENT_AUTH
        issuer = self.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
        builder = _builder(name, _common_name(self.certificate.subject), key, begin, min(end, last))
        builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        builder = builder.add_extension(_usage(signs=False), critical=True)
        builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        builder = builder.add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(issuer), critical=False
        )
        if names:
            general = [_general_name(entry) for entry in names]
            builder = builder.add_extension(x509.SubjectAlternativeName(general), critical=False)
        certificate = builder.sign(self.key, hashes.SHA256())
        return Issued(certificate.public_bytes(Encoding.PEM), _key_pem(key))


def inspect(data: bytes, *, where: str = "certificate") -> CertificateInfo:
    """Return the contents of a PEM or DER certificate; raise UsageError if it is not one."""
    from cryptography import x509

    try:
        pem = data.lstrip().startswith(b"-----BEGIN")
        found = x509.load_pem_x509_certificate(data) if pem else x509.load_der_x509_certificate(data)
    except ValueError as error:
        raise UsageError(f"{where} is not a certificate") from error
    names: tuple[str, ...] = ()
    with contextlib.suppress(x509.ExtensionNotFound):
        general = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        names = tuple(str(entry.value) for entry in general)
    return CertificateInfo(
        subject=_common_name(found.subject),
        issuer=_common_name(found.issuer),
        names=names,
        serial=f"{found.serial_number:x}",
        not_before=found.not_valid_before_utc,
        not_after=found.not_valid_after_utc,
    )


def check_pair(certificate: bytes, key: bytes, authority: bytes, *, now: datetime.datetime | None = None) -> None:
    """Raise UsageError if a broker cannot serve these: mismatched, expired, or signed by another authority."""
    from cryptography import x509
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    info = inspect(certificate, where="the server's certificate")
    if info.state(now) in ("expired", "not yet valid"):
        raise UsageError(
            f"the server's certificate is {info.state(now)}: valid {info.not_before:%Y-%m-%d} to "
            f"{info.not_after:%Y-%m-%d}",
            hint="Renew it with: mqttkit broker cert renew",
        )
    leaf = x509.load_pem_x509_certificate(certificate)
    try:
        private = load_pem_private_key(key, password=None)
        leaf.verify_directly_issued_by(x509.load_pem_x509_certificate(authority))
    except (ValueError, TypeError, InvalidSignature) as error:
        raise UsageError("this authority did not sign the server's certificate, or a file is damaged") from error
    if private.public_key() != leaf.public_key():
        raise UsageError("the server's key does not belong to its certificate")


def _builder(
    name: str, issuer: str, key: EllipticCurvePrivateKey, begin: datetime.datetime, end: datetime.datetime
) -> x509.CertificateBuilder:
    from cryptography import x509

    return (
        x509.CertificateBuilder()
        .subject_name(_named(name))
        .issuer_name(_named(issuer))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(end)
    )


def _validity(days: int, now: datetime.datetime | None) -> tuple[datetime.datetime, datetime.datetime]:
    if not 1 <= days <= 36_500:
        raise UsageError(f"a certificate is valid for 1 to 36500 days, not {days}")
    begin = (now or _now()) - SKEW
    return begin, begin + datetime.timedelta(days=days)


def _usage(*, signs: bool) -> x509.KeyUsage:
    from cryptography import x509

    return x509.KeyUsage(
        digital_signature=not signs,
        key_cert_sign=signs,
        crl_sign=signs,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _general_name(text: str) -> x509.GeneralName:
    """Return an address or a host name as a subject alternative name; raise UsageError for neither."""
    from cryptography import x509

    try:
        return x509.IPAddress(ipaddress.ip_address(text))
    except ValueError:
        pass
    labels = text.removeprefix("*.").split(".")
    if not text.isascii() or not all(label.replace("-", "").isalnum() and len(label) < 64 for label in labels):
        raise UsageError(f"{text!r} is neither a host name nor an address")
    return x509.DNSName(text)


def _named(name: str) -> x509.Name:
    from cryptography import x509

    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])


def _common_name(name: x509.Name) -> str:
    from cryptography.x509.oid import NameOID

    found = name.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(found[0].value) if found else name.rfc4514_string()


def _key_pem(key: EllipticCurvePrivateKey) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.timezone.utc)
