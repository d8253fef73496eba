"""One script a client library, run by path in the peers' own environment: nothing of mqttkit is there.

Called as `script.py pub|sub QOS COUNT SIZE HOST PORT`. It connects, says `ready`, publishes at the end of the line on
stdin (pub) or receives COUNT messages (sub), and prints seconds, CPU seconds and peak memory as JSON.
"""
