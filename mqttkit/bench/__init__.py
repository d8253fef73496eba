"""Load on a broker, and what came of it: rates, latencies, losses, and what they cost.

`run` does one run as a `Plan` says. Publishers and subscribers are in different processes, so that neither pays
for the other; both read CLOCK_MONOTONIC, so that latencies are true on one host.
"""
