"""The resident process of a node: it serves plugin calls from memory, by the frame that ``agent.frame`` describes."""
