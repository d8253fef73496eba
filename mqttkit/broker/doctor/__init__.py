"""The production checklist for a broker that mqttkit runs."""
