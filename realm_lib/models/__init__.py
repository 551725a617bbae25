"""Models that others made: reward models and embedders, here or hosted, and the small stand-ins trained offline."""
