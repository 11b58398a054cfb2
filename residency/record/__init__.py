"""What happened in a prompt: kept, told in words, drawn, and written for Perfetto."""
