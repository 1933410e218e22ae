"""Demonstrations on disk: writing, reading and checking LeRobotDataset v3.0."""
