"""Load tests of a broker: rate, latency, loss, CPU time and memory.

`run` executes one `Plan`. Publishers and subscribers run in separate processes, so that neither slows the other
down. Both use CLOCK_MONOTONIC, so latencies are correct if both run on one host.
"""
