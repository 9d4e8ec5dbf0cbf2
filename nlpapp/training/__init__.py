"""The engine: one loop for all jobs, and the only user of accelerate."""
