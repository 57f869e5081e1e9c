"""What a run shows: tables, parameter counts, pictures and overlay videos."""
