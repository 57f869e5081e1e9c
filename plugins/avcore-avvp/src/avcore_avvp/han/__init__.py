"""HAN, the hybrid attention network (Tian et al., ECCV 2020)."""
