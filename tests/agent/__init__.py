"""The agent as its clients and its host see it: a process of its own in a private node, judged by foreign tools."""
