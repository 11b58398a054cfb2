"""Components from weights files: headers, byte ranges, stable keys."""
