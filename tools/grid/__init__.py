"""A grid of trainings and tests as jobs that start from each other: planned, run by an engine, kept, and shown."""
