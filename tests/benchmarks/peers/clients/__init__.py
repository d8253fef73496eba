"""One script per client library, run by path in an environment that has the libraries and not mqttkit.

`script.py pub|sub QOS COUNT SIZE HOST PORT [WINDOW]` connects and prints `ready`. After a line on stdin it publishes
(pub) or receives (sub) COUNT messages, and prints seconds, CPU seconds and peak memory as JSON. The file names start
with `peer_`, because a script called `aiomqtt.py` would hide the library of that name.
"""
