"""The training ground: synthetic heads made on the training device, losses, and the loop."""
