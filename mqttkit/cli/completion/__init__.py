"""Completion in the shell: the scripts, and the values that mqttkit itself knows."""
