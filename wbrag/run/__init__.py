"""The pipeline, the Ray session and its actors, the stages between, the run folder as it is written and read."""
