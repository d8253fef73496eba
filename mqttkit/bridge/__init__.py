"""The bridge: metrics from MQTT into an ingestion pipeline, with nothing lost and everything accounted for."""
