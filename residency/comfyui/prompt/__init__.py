"""The running prompt: its graph, what comes behind it, what earlier runs know of it."""
