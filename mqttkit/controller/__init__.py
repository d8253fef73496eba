"""Controllers that coordinate over publish/subscribe without knowing each other's addresses."""
