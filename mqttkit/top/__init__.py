"""A live view of a broker's topics: the model behind `mqttkit top`."""
