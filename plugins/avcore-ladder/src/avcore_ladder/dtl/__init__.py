"""DTL: what `avcore_ladder.lowrank` has, as a method with recipes of its own."""
