"""What the suites share: nodes, executables, observers. No test lives here and nothing here knows how a plugin works."""
