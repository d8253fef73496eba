"""How results reach the user."""
