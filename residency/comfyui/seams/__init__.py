"""Every monkeypatch of the pack, and the facts that each of them tells the host."""
