"""The mathematics: pure functions and modules on tensors, without I/O, configuration or cluster."""
