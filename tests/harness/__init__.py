"""What the tests stand on: real servers and processes, and an outside ledger of effects."""
