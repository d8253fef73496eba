"""Latencies in buckets of about one per cent: small, mergeable, accurate enough for p99.9."""

from __future__ import annotations

from collections.abc import Iterable

MANTISSA_BITS = 7
"""The width of a bucket is at most 1/128 of its value."""
QUANTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p999": 0.999}


class LatencyHistogram:
    """Counts of durations in nanoseconds; a negative one counts as 0."""

    def __init__(self) -> None:
        self.counts: dict[int, int] = {}
        self.total = 0
        self.maximum = 0

    def add(self, value: int) -> None:
        """Count one duration, nanoseconds."""
        self.add_all((value,))

    def add_all(self, values: Iterable[int]) -> None:
        """Count durations, nanoseconds."""
        counts, get = self.counts, self.counts.get
        for value in values:
            shift = value.bit_length() - MANTISSA_BITS
            bucket = (shift << 10) + (value >> shift) if shift > 0 else max(value, 0)
            counts[bucket] = get(bucket, 0) + 1
            self.total += 1
            self.maximum = max(self.maximum, value)

    def merge(self, other: LatencyHistogram) -> None:
        """Add what another histogram counted."""
        for bucket, count in other.counts.items():
            self.counts[bucket] = self.counts.get(bucket, 0) + count
        self.total += other.total
        self.maximum = max(self.maximum, other.maximum)

    def quantile(self, fraction: float) -> int:
        """Return the upper end, nanoseconds, of the bucket that `fraction` of the values do not exceed; 0 for none."""
        wanted, seen = fraction * self.total, 0
        for bucket in sorted(self.counts):
            seen += self.counts[bucket]
            if seen >= wanted:
                return min(_upper_end(bucket), self.maximum)
        return 0

    def summary(self) -> dict[str, float]:
        """Return p50, p90, p99, p999 and max in milliseconds; an empty dict without a count."""
        if not self.total:
            return {}
        found = {name: self.quantile(fraction) / 1e6 for name, fraction in QUANTILES.items()}
        return {**found, "max": self.maximum / 1e6}


def _upper_end(bucket: int) -> int:
    shift = bucket >> 10
    return (((bucket & 1023) + 1) << shift) - 1 if shift else bucket
