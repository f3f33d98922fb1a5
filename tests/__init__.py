"""Everything that judges podwire: unit, wire, netns, contract, e2e suites and the harness they share."""
