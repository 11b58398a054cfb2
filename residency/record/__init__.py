"""Records of prompts: kept, told in words, drawn, and written for Perfetto."""
