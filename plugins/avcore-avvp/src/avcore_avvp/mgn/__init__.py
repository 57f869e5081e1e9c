"""MGN, the multi-modal grouping network (Mo and Tian, NeurIPS 2022)."""
