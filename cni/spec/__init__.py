"""The CNI contract as data: calls, configuration, results, versions, errors. Nothing here does I/O."""
