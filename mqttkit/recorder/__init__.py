"""Record what a broker sends, and play it back as it was."""
