"""A procedural audio-visual world as real media files, and a tiny vision transformer trained on other such worlds."""
