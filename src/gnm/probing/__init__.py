"""Programs that look into memories: what can be read out of their slots, what an instruction left."""
