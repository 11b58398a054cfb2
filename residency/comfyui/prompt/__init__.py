"""The running prompt: its graph, the queue behind it, the knowledge of earlier runs."""
