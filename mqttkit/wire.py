"""The batched socket under paho."""
