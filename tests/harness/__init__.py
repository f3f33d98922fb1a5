"""What the suites share: nodes, executables, observers. Nothing here knows how a plugin works inside."""
