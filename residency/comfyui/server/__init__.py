"""Routes, websocket messages, and the release of an idle device."""
