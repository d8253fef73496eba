"""Wait for messages and check them: assertions for shells and CI."""
