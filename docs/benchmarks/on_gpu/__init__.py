"""What `gpu.py` checks and measures: golden cases, checks, rows, and how long they take."""
