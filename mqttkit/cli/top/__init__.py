"""`mqttkit top`: the topics of a broker, live."""
