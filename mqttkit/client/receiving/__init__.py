"""From bytes to messages and acknowledgements, a whole read at a time. No socket here."""
