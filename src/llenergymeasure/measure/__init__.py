"""The run itself: one parent that reads sensors, one child that runs the model."""
