"""Many jobs on one base model that is loaded once a worker: here, in processes, or on a Ray cluster."""
