"""HAN, the hybrid attention network (Tian et al., ECCV 2020): its head, and the recipe of its published row."""
