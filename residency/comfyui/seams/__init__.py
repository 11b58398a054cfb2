"""Every monkeypatch of the pack, and what each of them tells the host."""
