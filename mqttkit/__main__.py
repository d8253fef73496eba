"""`python -m mqttkit`, and the `mqttkit` command."""

from mqttkit.cli import main

if __name__ == "__main__":
    main()
