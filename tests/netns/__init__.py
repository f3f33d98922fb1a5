"""Black-box cases on a real kernel, each in a private node, judged by foreign tools."""
