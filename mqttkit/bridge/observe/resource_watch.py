"""Watch memory, clocks and certificates, and log warnings."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from pathlib import Path

from mqttkit.settings import MemorySettings, TlsSettings

logger = logging.getLogger(__name__)

JUMP_SECONDS = 30.0
"""Log a line if the wall clock moves this far from the monotonic clock."""
DAY_SECONDS = 86_400.0
CERTIFICATE_DAYS = 21
"""Warn of a certificate that expires sooner."""


def resident_bytes() -> int:
    """Return the resident memory of this process."""
    pages = int(Path("/proc/self/statm").read_text("ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


class MemoryWatch:
    """Warn once about high memory use, and report when it reaches the maximum."""

    def __init__(self, settings: MemorySettings, measure: Callable[[], int] = resident_bytes) -> None:
        self._settings = settings
        self._measure = measure
        self._warned = False
        self.resident = 0
        """Bytes, at the last check."""

    def too_much(self) -> bool:
        """Measure; return True if memory use has reached `memory.max`."""
        self.resident = self._measure()
        if self.resident < self._settings.warn:
            self._warned = False
        elif not self._warned:
            self._warned = True
            logger.warning("resident memory is %d MB (memory.warn)", self.resident // 1_000_000)
        return self._settings.max is not None and self.resident >= self._settings.max


class ClockWatch:
    """Log a warning if the wall clock jumps or time stamps are far from the time of receipt."""

    def __init__(
        self,
        skew_limit: float,
        wall: Callable[[], float] = time.time,
        steady: Callable[[], float] = time.monotonic,
    ) -> None:
        """`skew_limit` is in seconds."""
        self._limit = skew_limit
        self._wall = wall
        self._steady = steady
        self._offset = wall() - steady()
        self._skewed = False

    def check(self, skew_ms: int) -> None:
        """Check the clock and the newest metric's skew (receipt minus time stamp, in milliseconds)."""
        offset = self._wall() - self._steady()
        if abs(offset - self._offset) >= JUMP_SECONDS:
            logger.warning("the clock of this machine jumped by %+.0f s", offset - self._offset)
        self._offset = offset
        skewed = abs(skew_ms) >= self._limit * 1000
        if skewed and not self._skewed:
            way = "behind" if skew_ms > 0 else "ahead of"
            logger.warning(
                "clock skew: time stamps of metrics are %.0f s %s this machine's clock", abs(skew_ms) / 1000, way
            )
        self._skewed = skewed


def check_certificates(tls: TlsSettings, now: Callable[[], float] = time.time) -> dict[str, float]:
    """Warn about certificate files that expire soon or have expired; return the days left for each file."""
    from cryptography import x509

    left: dict[str, float] = {}
    for file in (tls.cert_file, tls.ca_file):
        if file is None:
            continue
        try:
            certificates = x509.load_pem_x509_certificates(Path(file).read_bytes())
        except (OSError, ValueError) as error:
            logger.warning("cannot read the certificates in %s: %s", file, error)
            continue
        ends = min(certificate.not_valid_after_utc.timestamp() for certificate in certificates)
        left[file] = (ends - now()) / 86_400
        if left[file] < 0:
            logger.error("%s: the certificate expired %.0f days ago", file, -left[file])
        elif left[file] < CERTIFICATE_DAYS:
            logger.warning("%s: the certificate expires in %.0f days", file, left[file])
    return left


class CertificateWatch:
    """Check certificate files once a day, and soon after one of them has changed."""

    def __init__(self, tls: TlsSettings | None, steady: Callable[[], float] = time.monotonic) -> None:
        self._tls = tls
        self._steady = steady
        self._stamps: list[int] | None = None
        self._checked_at = 0.0

    def check(self) -> None:
        """Check if it is time; log warnings."""
        if self._tls is None:
            return
        stamps = [_modified(file) for file in (self._tls.cert_file, self._tls.ca_file) if file is not None]
        now = self._steady()
        if stamps != self._stamps or now - self._checked_at >= DAY_SECONDS:
            self._stamps, self._checked_at = stamps, now
            check_certificates(self._tls)


def _modified(file: str) -> int:
    try:
        return Path(file).stat().st_mtime_ns
    except OSError:
        return 0
