"""From the connection to the sink: intake, parsing, batches, accounting."""
