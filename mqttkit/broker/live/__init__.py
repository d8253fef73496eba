"""Changes to a broker that may be running: reload its files safely, save its database, prove its rules."""
