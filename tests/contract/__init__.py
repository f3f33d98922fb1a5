"""One suite for each door, run on the real thing and on its fake."""
