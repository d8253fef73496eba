"""The bridge: store metrics from MQTT in a sink. It loses no message and counts every one."""
